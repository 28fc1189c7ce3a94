"""The models that judge pictures: CLIP, Inception, LPIPS, PickScore, ImageReward.

    files.py         which files were given for them, checked without torch
    scores.py        START HERE: pictures and prompts -> the figures of every metric, or why not
    features.py      pictures -> features for FID and KID; the real pictures to compare with
    clip.py          CLIP score and PickScore, on transformers' CLIPModel
    inception.py     the Inception network of FID
    perceptual.py    LPIPS on AlexNet
    image_reward.py  ImageReward on transformers' BLIP
    weights.py       read weights, and nothing but weights

Nothing is downloaded: a model is a path, or lies in the cache of the hub or of torch. What is not at hand is reported.
"""
