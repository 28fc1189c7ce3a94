"""Names of the metrics, and the differences that are inside the noise.

A difference is inside the noise if the 95 % interval of the paired difference over prompts
contains 0. Reads the figures of results.json only.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from ..bootstrap import bootstrap_interval

DENSE_NAME = "dense"
FEWEST_PICTURES = 200  # below, metrics of distributions say little, and are not shown
OF_DISTRIBUTIONS = ("fid", "kid")


@dataclass(frozen=True)
class Metric:
    """How a metric of results.json is shown and compared."""

    title: str  # of its column, with the unit
    higher_is_better: bool
    decimals: int  # shown
    of_dense: str = ""  # the dense pipeline against itself
    mean_of_parts: str = ""  # what the mean of its parts is, if that is a figure of its own


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
    "hpsv3": Metric("HPSv3", True, 2),
    "geneval": Metric(
        "GenEval", True, 3, mean_of_parts="mean of these (of all 553 prompts: the papers' score)"
    ),
    "dpg": Metric("DPG-Bench", True, 2),
}
LEGEND = (
    "~ the difference to the best of the column is inside the noise: "
    "the 95 % interval of the difference over prompts contains 0"
)


def figures_of(results: dict[str, Any], metric: str) -> dict[str, dict[str, Any]]:
    """Return the measured figures of a metric by pipeline, the dense one first.

    Args:
        results: of results.json.
        metric: a key of METRICS.
    """
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
    """Return the keys of METRICS to show: measured for at least one pipeline, of enough pictures.

    Args:
        results: of results.json.
    """
    hidden = hidden_metrics(results)
    return [m for m in METRICS if m not in hidden and figures_of(results, m)]


def hidden_metrics(results: dict[str, Any]) -> list[str]:
    """Return the measured metrics that are not shown, since they are of too few pictures."""
    if len(results["prompts"]) >= FEWEST_PICTURES:
        return []
    return [metric for metric in OF_DISTRIBUTIONS if figures_of(results, metric)]


def near_best(figures: dict[str, dict[str, Any]], higher_is_better: bool) -> set[str]:
    """Return the names whose difference to the best one is inside the noise, without the best.

    Args:
        figures: of one metric, by name.
        higher_is_better: direction of the metric.
    """
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
    """Return whether the difference of two figures is inside the noise.

    Args:
        a: a figure; with one number a prompt in "per_prompt", or without.
        b: another figure.
        seed: of the bootstrap.

    Returns:
        Whether the 95 % interval of the paired bootstrap over prompts contains 0; for figures
        without numbers a prompt, or with different numbers of them, whether their intervals
        overlap.
    """
    x, y = (figure.get("per_prompt") for figure in (a, b))
    if not x or not y or len(x) != len(y):
        return a["low"] <= b["high"] and b["low"] <= a["high"]
    difference = np.array(x) - np.array(y)
    low, high = bootstrap_interval(lambda picks: difference[picks].mean(1), len(difference), seed)
    return bool(low <= 0 <= high)


def reasons(results: dict[str, Any]) -> list[str]:
    """Return one line for each metric without figures: which, for which pipeline, and why.

    A reason that all runs share is one line without a pipeline.
    """
    lines = [
        f"{METRICS[key].title}: not shown: {len(results['prompts'])} pictures are too few, below "
        f"{FEWEST_PICTURES} it says little; results.json has it"
        for key in hidden_metrics(results)
    ]
    rows = {
        DENSE_NAME: results.get("dense_metrics", {}),
        **{run["name"]: run["metrics"] for run in results["runs"]},
    }
    for key, metric in METRICS.items():
        why = {
            name: row[key]["why_not"]
            for name, row in rows.items()
            if row.get(key) and row[key]["why_not"]
        }
        if len(set(why.values())) == 1 and all(run["name"] in why for run in results["runs"]):
            lines.append(f"{metric.title}: not run: {next(iter(why.values()))}")
        else:
            lines += [
                f"{metric.title} of {name}: not run: {reason}" for name, reason in why.items()
            ]
    return lines
