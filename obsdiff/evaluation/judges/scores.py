"""Pictures, latents and prompts -> the figure of every metric, or why it was not run."""

from collections.abc import Callable

import numpy as np
import torch
from PIL import Image
from safetensors import SafetensorError
from torch import Tensor

from ..metrics import Figure, fid, kid, mean_of, not_run, psnr, relative_latent_error, ssim
from .clip import Clip, as_tensor
from .features import features_of, open_extractor, real_features
from .files import Judges
from .image_reward import load_image_reward
from .lpips import load_alexnet, lpips, lpips_heads
from .weights import NotAtHand

Pictures = dict[str, list[Image.Image]]  # by the name of the pipeline that drew them
Scores = dict[str, dict[str, Figure]]  # pipeline -> metric -> figure
BROKEN = (NotAtHand, OSError, ValueError, RuntimeError, KeyError, ImportError, SafetensorError)


def all_figures(
    pictures: Pictures, latents: dict[str, Tensor], dense: str, prompts: list[str], judges: Judges
) -> Scores:
    """Every metric of every pipeline; of `dense` those that need no dense pictures to compare with."""
    models = judged(pictures, dense, prompts, judges)
    reference = torch.stack([as_tensor(image) for image in pictures[dense]])
    scores = {}
    for name, images in pictures.items():
        drawn = torch.stack([as_tensor(image) for image in images])
        near = {
            "relative_latent_error": relative_latent_error(latents[name], latents[dense]),
            "psnr": psnr(drawn, reference),
            "ssim": ssim(drawn, reference),
        }
        scores[name] = models[name] if name == dense else near | models[name]
    return scores


def judged(pictures: Pictures, dense: str, prompts: list[str], judges: Judges) -> Scores:
    """The metrics that models judge. LPIPS is against the pictures of `dense`, which has none itself."""
    scores: Scores = {name: {} for name in pictures}
    for metrics, measure in MEASURES.items():
        try:
            found = measure(pictures, dense, prompts, judges)
        except BROKEN as error:
            why = str(error) if isinstance(error, NotAtHand) else f"{type(error).__name__}: {error}"
            found = {name: {metric: not_run(why) for metric in metrics} for name in pictures}
        for name, figures in found.items():
            scores[name] |= figures
    scores[dense].pop("lpips", None)
    return scores


def distances(pictures: Pictures, dense: str, prompts: list[str], judges: Judges) -> Scores:
    """FID and KID against real pictures."""
    if judges.real is None:
        raise NotAtHand("no real pictures to compare with were given: --real FOLDER|FILE")
    extract = open_extractor(judges.features)
    real = real_features(judges, extract)
    found = {}
    for name, images in pictures.items():
        drawn = features_of(images, extract)
        if drawn.shape[1] != real.shape[1]:
            raise NotAtHand(
                f"{judges.real} has {real.shape[1]} numbers a picture, the extractor gives {drawn.shape[1]}; save them again with this one"
            )
        found[name] = {"fid": fid(drawn, real), "kid": kid(drawn, real)}
    return found


def perceptual(pictures: Pictures, dense: str, prompts: list[str], judges: Judges) -> Scores:
    """LPIPS against the dense pipeline's pictures."""
    net, weights = load_alexnet(judges.lpips), lpips_heads()
    references = [as_tensor(image)[None] for image in pictures[dense]]

    def values(images: list[Image.Image]) -> np.ndarray:
        pairs = zip(images, references, strict=True)
        return (
            torch.cat(
                [
                    lpips(net, weights, as_tensor(image)[None], reference)
                    for image, reference in pairs
                ]
            )
            .double()
            .numpy()
        )

    return {
        name: {"lpips": mean_of(values(images))}
        for name, images in pictures.items()
        if name != dense
    }


def clip_score(pictures: Pictures, dense: str, prompts: list[str], judges: Judges) -> Scores:
    if judges.clip is None:
        raise NotAtHand("no CLIP was given: --clip PATH")
    return by_prompt("clip_score", Clip(judges.clip).clip_scores, pictures, prompts)


def pickscore(pictures: Pictures, dense: str, prompts: list[str], judges: Judges) -> Scores:
    if judges.pickscore is None:
        raise NotAtHand("no PickScore model was given: --pickscore PATH")
    return by_prompt("pickscore", Clip(judges.pickscore).pick_scores, pictures, prompts)


def image_reward(pictures: Pictures, dense: str, prompts: list[str], judges: Judges) -> Scores:
    if judges.image_reward is None:
        raise NotAtHand("no ImageReward model was given: --image-reward FOLDER")
    return by_prompt(
        "image_reward", load_image_reward(judges.image_reward).rewards, pictures, prompts
    )


def by_prompt(
    metric: str,
    score: Callable[[list[Image.Image], list[str]], np.ndarray],
    pictures: Pictures,
    prompts: list[str],
) -> Scores:
    return {name: {metric: mean_of(score(images, prompts))} for name, images in pictures.items()}


MEASURES = {
    ("lpips",): perceptual,
    ("fid", "kid"): distances,
    ("clip_score",): clip_score,
    ("pickscore",): pickscore,
    ("image_reward",): image_reward,
}
