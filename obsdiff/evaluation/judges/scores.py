"""Pictures, latents and prompts -> the figure of every metric, or the reason why it has none."""

from collections.abc import Callable

import numpy as np
import torch
from PIL import Image
from safetensors import SafetensorError
from torch import Tensor

from ...runtime.machine import empty_cache
from ..flaws import latent_problem, problem
from ..metrics import Figure, fid, kid, mean_of, not_run, psnr, relative_latent_error, ssim
from .clip import Clip, as_tensor
from .download import USUAL, how_to
from .dpg.figures import dpg_figures
from .features import NO_REAL, features_of, open_extractor, real_features
from .files import Judges
from .geneval.figures import geneval_figures
from .geneval.tasks import FILE
from .hpsv3.files import PARTS
from .hpsv3.reward import load_hpsv3
from .image_reward import load_image_reward
from .lpips import load_alexnet, lpips, lpips_heads
from .weights import MetricUnavailable

Pictures = dict[str, list[Image.Image]]  # by the name of the pipeline that drew them
Scores = dict[str, dict[str, Figure]]  # pipeline -> metric -> figure
Score = Callable[[list[Image.Image], list[str]], np.ndarray]  # N pictures, N prompts -> (N,)
# errors of a missing or broken model, which become the reason
MODEL_ERRORS = (
    MetricUnavailable,
    OSError,
    ValueError,
    RuntimeError,
    KeyError,
    ImportError,
    SafetensorError,
)


def all_figures(
    pictures: Pictures,
    latents: dict[str, Tensor],
    dense: str,
    prompts: list[str],
    judges: Judges,
    flaws: dict[str, Tensor] | None = None,
) -> Scores:
    """Return every metric of every pipeline; of `dense` those that need no dense pictures.

    A figure over pictures or latents of which some are flawed has the reason instead of a value.

    Args:
        pictures: N pictures of each pipeline.
        latents: final latents (N, C, h, w) of each pipeline.
        dense: name of the dense pipeline.
        prompts: N prompts.
        judges: paths of the metric models.
        flaws: the Flaw of each picture, (N,), of each pipeline; None if all are sound.
    """
    flaws = flaws or {name: torch.zeros(len(images)) for name, images in pictures.items()}
    problems = {name: problem(each) for name, each in flaws.items()}
    scores = model_figures(pictures, dense, prompts, judges, problems)
    for name in pictures.keys() - {dense}:
        of_latents = {key: latent_problem(flaws[key]) for key in (name, dense)}
        why = pair_problem(of_latents, name, dense)
        error = not_run(why) if why else relative_latent_error(latents[name], latents[dense])
        why = pair_problem(problems, name, dense)
        near = picture_figures(pictures[name], pictures[dense], why)
        scores[name] = {"relative_latent_error": error} | near | scores[name]
    return scores


def picture_figures(
    images: list[Image.Image], references: list[Image.Image], why_not: str
) -> dict[str, Figure]:
    """Return PSNR and SSIM of N pictures against dense's; without a value if there is a reason."""
    if why_not:
        return {"psnr": not_run(why_not), "ssim": not_run(why_not)}
    drawn, dense = (torch.stack([as_tensor(i) for i in each]) for each in (images, references))
    return {"psnr": psnr(drawn, dense), "ssim": ssim(drawn, dense)}


def pair_problem(problems: dict[str, str], name: str, dense: str) -> str:
    """Return why a pipeline's pictures can't be compared with dense's; "" if they can.

    Args:
        problems: what is wrong with the pictures of each pipeline.
        name: of the pipeline.
        dense: name of the dense pipeline.
    """
    of_dense = f"of the dense pipeline {problems[dense]}" if problems[dense] else ""
    return "; ".join(why for why in (problems[name], of_dense) if why)


def model_figures(
    pictures: Pictures,
    dense: str,
    prompts: list[str],
    judges: Judges,
    problems: dict[str, str] | None = None,
) -> Scores:
    """Return the metrics that need a model, as all_figures does; LPIPS of the pruned ones only.

    Args:
        pictures: N pictures of each pipeline.
        dense: name of the dense pipeline.
        prompts: N prompts.
        judges: paths of the metric models.
        problems: what is wrong with the pictures of each pipeline, "" for sound ones; None if all
            are sound.
    """
    problems = problems or dict.fromkeys(pictures, "")
    scores: Scores = {name: {} for name in pictures}
    for metrics, measure in MEASURES.items():
        whys = {
            name: pair_problem(problems, name, dense) if measure is perceptual else problems[name]
            for name in pictures
        }
        for name, why in whys.items():
            if why:
                scores[name] |= {metric: not_run(why) for metric in metrics}
        sound = {name: images for name, images in pictures.items() if not whys[name]}
        if not sound:
            continue
        try:
            found = measure(sound, dense, prompts, judges)
        except MODEL_ERRORS as error:
            why = (
                str(error)
                if isinstance(error, MetricUnavailable)
                else f"{type(error).__name__}: {error}"
            )
            found = {name: {metric: not_run(why) for metric in metrics} for name in sound}
        for name, figures in found.items():
            scores[name] |= figures
    scores[dense].pop("lpips", None)
    return scores


def distances(pictures: Pictures, dense: str, prompts: list[str], judges: Judges) -> Scores:
    """Return FID and KID against the real pictures."""
    if judges.real is None:  # before the extractor is looked for, whose absence is less important
        raise MetricUnavailable(NO_REAL)
    extract = open_extractor(judges.features)
    real = real_features(judges, extract)
    found = {}
    for name, images in pictures.items():
        drawn = features_of(images, extract)
        if drawn.shape[1] != real.shape[1]:
            raise MetricUnavailable(
                f"{judges.real}: expected {drawn.shape[1]} numbers a picture, as the extractor "
                f"computes, found {real.shape[1]}; save them again with this one"
            )
        found[name] = {"fid": fid(drawn, real), "kid": kid(drawn, real)}
    return found


def perceptual(pictures: Pictures, dense: str, prompts: list[str], judges: Judges) -> Scores:
    """Return LPIPS against the dense pipeline's pictures."""
    net, weights = load_alexnet(judges.lpips), lpips_heads()
    references = [as_tensor(image)[None] for image in pictures[dense]]

    def values(images: list[Image.Image]) -> np.ndarray:
        pairs = zip(images, references, strict=True)
        found = [lpips(net, weights, as_tensor(image)[None], other) for image, other in pairs]
        return torch.cat(found).double().numpy()

    return {
        name: {"lpips": mean_of(values(images))}
        for name, images in pictures.items()
        if name != dense
    }


def clip_score(pictures: Pictures, dense: str, prompts: list[str], judges: Judges) -> Scores:
    """Return the CLIP scores."""
    if judges.clip is None:
        raise MetricUnavailable(f"no CLIP was given: {how_to('clip')}")
    return by_prompt("clip_score", Clip(judges.clip).clip_scores, pictures, prompts)


def pickscore(pictures: Pictures, dense: str, prompts: list[str], judges: Judges) -> Scores:
    """Return the PickScores."""
    if judges.pickscore is None:
        raise MetricUnavailable(f"no PickScore model was given: {how_to('pickscore')}")
    return by_prompt("pickscore", Clip(judges.pickscore).pick_scores, pictures, prompts)


def image_reward(pictures: Pictures, dense: str, prompts: list[str], judges: Judges) -> Scores:
    """Return the ImageRewards."""
    if judges.image_reward is None:
        raise MetricUnavailable(f"no ImageReward model was given: {how_to('image_reward')}")
    return by_prompt(
        "image_reward", load_image_reward(judges.image_reward).rewards, pictures, prompts
    )


def hpsv3(pictures: Pictures, dense: str, prompts: list[str], judges: Judges) -> Scores:
    """Return the scores of HPSv3."""
    if judges.hpsv3 is None:
        raise MetricUnavailable(f"no HPSv3 was given: --hpsv3 FOLDER with {PARTS}")
    judge = load_hpsv3(judges.hpsv3)
    found = by_prompt("hpsv3", judge.scores, pictures, prompts)
    del judge
    empty_cache()  # the pipelines are measured next
    return found


def geneval(pictures: Pictures, dense: str, prompts: list[str], judges: Judges) -> Scores:
    """Return GenEval's share of right pictures."""
    if judges.geneval is None or judges.tasks is None:
        raise MetricUnavailable(
            f"no detector was given: --geneval {USUAL['geneval']} {how_to('clip')} "
            f"--prompts {FILE} of GenEval"
        )
    found = geneval_figures(pictures, prompts, judges.tasks, judges.geneval, judges.clip)
    return {name: {"geneval": figure} for name, figure in found.items()}


def dpg(pictures: Pictures, dense: str, prompts: list[str], judges: Judges) -> Scores:
    """Return DPG-Bench's scores."""
    if judges.dpg is None or judges.tasks is None:
        raise MetricUnavailable(
            f"no model that answers questions was given: {how_to('dpg')} --prompts FOLDER of "
            "DPG-Bench"
        )
    found = dpg_figures(pictures, prompts, judges.tasks, judges.dpg)
    return {name: {"dpg": figure} for name, figure in found.items()}


def by_prompt(metric: str, score: Score, pictures: Pictures, prompts: list[str]) -> Scores:
    """Return the mean score of each pipeline."""
    return {name: {metric: mean_of(score(images, prompts))} for name, images in pictures.items()}


MEASURES = {
    ("lpips",): perceptual,
    ("fid", "kid"): distances,
    ("clip_score",): clip_score,
    ("pickscore",): pickscore,
    ("image_reward",): image_reward,
    ("hpsv3",): hpsv3,
    ("geneval",): geneval,
    ("dpg",): dpg,
}
