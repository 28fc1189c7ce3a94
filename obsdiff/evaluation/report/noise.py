"""What each metric is called, which way is better, and which differences are inside the noise. Reads the figures of results.json alone."""

from dataclasses import dataclass
from typing import Any

import numpy as np

RESAMPLES = 2000
DENSE_NAME = "dense"


@dataclass(frozen=True)
class Metric:
    title: str
    higher_is_better: bool
    decimals: int
    of_dense: str = ""  # the dense pipeline against itself


METRICS = {
    "relative_latent_error": Metric("relative latent error", False, 4, "0"),
    "psnr": Metric("PSNR, dB", True, 2, "infinite"),
    "ssim": Metric("SSIM", True, 3, "1"),
    "lpips": Metric("LPIPS", False, 3, "0"),
    "fid": Metric("FID", False, 2),
    "kid": Metric("KID", False, 4),
    "clip_score": Metric("CLIP score", True, 2),
    "pickscore": Metric("PickScore", True, 2),
    "image_reward": Metric("ImageReward", True, 3),
}
LEGEND = "~ the difference to the best of the column is inside the noise: the 95 % interval of the difference over prompts holds 0"


def figures_of(results: dict[str, Any], metric: str) -> dict[str, dict[str, Any]]:
    """Name of a run, or "dense": its figure of a metric, where it was measured."""
    rows = {
        DENSE_NAME: results.get("dense_metrics", {}),
        **{run["name"]: run["metrics"] for run in results["runs"]},
    }
    return {
        name: row[metric]
        for name, row in rows.items()
        if row.get(metric) and row[metric]["value"] is not None
    }


def measured_metrics(results: dict[str, Any]) -> list[str]:
    return [metric for metric in METRICS if figures_of(results, metric)]


def near_best(figures: dict[str, dict[str, Any]], higher_is_better: bool) -> set[str]:
    """Names whose difference to the best one is inside the noise; the best one is none of them."""
    if not figures:
        return set()
    choose = max if higher_is_better else min
    best = choose(figures, key=lambda name: figures[name]["value"])
    return {
        name
        for name, figure in figures.items()
        if name != best and inside_noise(figure, figures[best])
    }


def inside_noise(a: dict[str, Any], b: dict[str, Any], seed: int = 0) -> bool:
    """Whether the 95 % interval of the difference of two figures holds 0: the paired bootstrap over prompts, where both have one number
    a prompt; else whether their intervals overlap."""
    x, y = (figure.get("per_prompt") for figure in (a, b))
    if not x or not y or len(x) != len(y):
        return a["low"] <= b["high"] and b["low"] <= a["high"]
    difference = np.array(x) - np.array(y)
    picks = np.random.default_rng(seed).integers(len(difference), size=(RESAMPLES, len(difference)))
    low, high = np.quantile(difference[picks].mean(1), [0.025, 0.975])
    return bool(low <= 0 <= high)


def reasons(results: dict[str, Any]) -> list[str]:
    """One line for each metric, or run of it, that was not measured: why. What all runs share is said once."""
    lines = []
    for key, metric in METRICS.items():
        why = {
            run["name"]: run["metrics"][key]["why_not"]
            for run in results["runs"]
            if key in run["metrics"] and run["metrics"][key]["why_not"]
        }
        if len(set(why.values())) == 1 and len(why) == len(results["runs"]):
            lines.append(f"{metric.title}: not run: {next(iter(why.values()))}")
        else:
            lines += [
                f"{metric.title} of {name}: not run: {reason}" for name, reason in why.items()
            ]
    return lines
