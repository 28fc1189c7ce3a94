"""HPSv3: a predictor of human preference for a picture, given its prompt, on Qwen2-VL.

    hpsv3/files.py          the folder, checked before anything is drawn
    hpsv3/tensors.py        names and shapes of the published weights
    hpsv3/texts.py          the published instruction, read from a file that is not run
    hpsv3/reading.py        picture and prompt -> patches and tokens
    hpsv3/reward.py         START HERE: pictures and prompts -> scores

The model reads a picture, an instruction with the prompt, and a reward token. A small head maps the
last hidden state of the reward token to the mean and the spread of the preference:

    (mu, sigma) = W3 relu(W2 relu(W1 h + b1) + b2) + b3,   score = mu

All tokens, those of the picture included, have the positions 0, 1, 2, ... of plain text, as in the
published forward, where Qwen2-VL itself would use rows and columns of the picture.

References:
    Ma, Shui, Wu, Sun, Li. HPSv3: Towards Wide-Spectrum Human Preference Score. 2025.
        https://arxiv.org/abs/2508.03789
    Wang, Bai, Tan et al. Qwen2-VL: Enhancing Vision-Language Model's Perception of the World at Any
        Resolution. 2024. https://arxiv.org/abs/2409.12191
"""
