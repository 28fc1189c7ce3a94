"""The models that judge pictures: CLIP, Inception, LPIPS, PickScore, ImageReward and others.

    judges/scores.py        START HERE: pictures and prompts -> the figure of every metric
    judges/files.py         paths of the models, checked before anything is drawn
    judges/download.py      models from the hub, for --download
    judges/features.py      pictures -> features for FID and KID
    judges/clip.py          CLIP score and PickScore, on transformers' CLIPModel
    judges/inception.py     the Inception network of FID
    judges/lpips.py         LPIPS on AlexNet
    judges/image_reward.py  ImageReward on transformers' BLIP
    judges/hpsv3/           HPSv3 on transformers' Qwen2-VL
    judges/dpg/             questions about a picture, answered by a model
    judges/geneval/         objects, numbers, colours and positions, by a detector
    judges/weights.py       reads weights, runs no code of their files

A model is a path, or is in the cache of the hub or of torch; nothing is downloaded unless
--download is passed. A metric whose model is missing has no value, but the reason, with the flags
that make it run.
"""
