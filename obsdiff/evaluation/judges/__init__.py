"""The models that judge pictures: CLIP, Inception, LPIPS, PickScore, ImageReward.

    evaluation/judges/files.py         which files were given for them, checked without torch
    evaluation/judges/scores.py        START HERE: pictures and prompts -> the figures of every metric, or why not
    evaluation/judges/features.py      pictures -> features for FID and KID; the real pictures to compare with
    evaluation/judges/clip.py          CLIP score and PickScore, on transformers' CLIPModel
    evaluation/judges/inception.py     the Inception network of FID
    evaluation/judges/lpips.py    LPIPS on AlexNet
    evaluation/judges/image_reward.py  ImageReward on transformers' BLIP
    evaluation/judges/weights.py       read weights, and nothing but weights

Nothing is downloaded: a model is a path, or lies in the cache of the hub or of torch. What is not at hand is reported.
"""
