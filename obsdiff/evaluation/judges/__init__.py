"""The models that judge pictures: CLIP, Inception, LPIPS, PickScore, ImageReward.

    judges/scores.py        START HERE: pictures and prompts -> the figure of every metric
    judges/files.py         paths of the models, checked without torch
    judges/features.py      pictures -> features for FID and KID
    judges/clip.py          CLIP score and PickScore, on transformers' CLIPModel
    judges/inception.py     the Inception network of FID
    judges/lpips.py         LPIPS on AlexNet
    judges/image_reward.py  ImageReward on transformers' BLIP
    judges/weights.py       reads weights, runs no code of their files

Nothing is downloaded: a model is a path, or is in the cache of the hub or of torch. A metric whose
model is missing has no value, and the reason.
"""
