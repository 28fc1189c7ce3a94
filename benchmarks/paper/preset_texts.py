"""The table of the presets: error, ratio to the paper's method, costs."""

import numpy as np

from obsdiff.evaluation.bootstrap import bootstrap_interval

from ..tables.markdown import grid
from .grids import SHOWN, Kept
from .tables import COMPARED_PRESETS, SEEDS, TARGETS

COSTS = ("zeros", "parameters", "macs")


def presets_table(rows: dict[str, Kept]) -> str:
    """A line a target: the paper preset's error; of the others the error over all their calibration
    sets and, over the sets that the paper's has too, the ratio to the paper's, the share of prompts
    that are drawn better, and CPU time over the paper's."""
    lines = []
    for target in TARGETS:
        sets = {
            preset: [seed for seed in SEEDS if f"{preset}: {target}, seed {seed}" in rows]
            for preset in COMPARED_PRESETS
        }
        shared = [seed for seed in SEEDS if all(seed in found for found in sets.values())]
        if shared:
            runs = {
                preset: [rows[f"{preset}: {target}, seed {seed}"] for seed in shared]
                for preset in COMPARED_PRESETS
            }
            others = [
                cell
                for preset in COMPARED_PRESETS
                if preset != "paper"
                for cell in (
                    over_sets([rows[f"{preset}: {target}, seed {s}"] for s in sets[preset]]),
                    *beside(runs[preset], runs["paper"]),
                )
            ]
            lines.append(
                [
                    target,
                    str(len(shared)),
                    error_or_nothing(rows, f"off: {target}"),
                    f"{errors_of(runs['paper']).mean():.4f}",
                    *others,
                ]
            )
    head = [
        f"{preset}: {what}"
        for preset in COMPARED_PRESETS
        if preset != "paper"
        for what in (
            "error",
            "of paper's",
            "of paper's, held-out names",
            "prompts better",
            "CLIP score",
            "FID",
            "zeros, parameters, MACs",
            "time",
        )
    ]
    return grid(["relative latent error", "sets compared", "off", "paper", *head], lines)


def error_or_nothing(rows: dict[str, Kept], name: str) -> str:
    return f"{rows[name]['metrics'][SHOWN[0]]['value']:.4f}" if name in rows else ""


def errors_of(runs: list[Kept]) -> np.ndarray:
    """Relative latent error of every prompt's part: (seeds, prompts)."""
    return np.array([run["metrics"]["relative_latent_error"]["per_prompt"] for run in runs])


def held_out_ratio(mine: list[Kept], paper: list[Kept]) -> float:
    """Ratio of the mean errors on held-out names."""
    ours, theirs = (
        np.mean([run["held_out"]["relative_latent_error"]["value"] for run in runs])
        for runs in (mine, paper)
    )
    return float(ours / theirs)


def over_sets(runs: list[Kept]) -> str:
    """The mean error over calibration sets, and the range of the sets."""
    errors = errors_of(runs).mean(1)
    return f"{errors.mean():.4f} <sub>sets {errors.min():.4f} to {errors.max():.4f}</sub>"


def beside(mine: list[Kept], paper: list[Kept]) -> list[str]:
    """One preset compared with the paper's, over the same calibration sets."""
    ours, theirs = errors_of(mine), errors_of(paper)
    low, high = bootstrap_interval(
        lambda picks: ours[:, picks].mean((0, 2)) / theirs[:, picks].mean((0, 2)), ours.shape[1]
    )
    by_seed = ours.mean(1) / theirs.mean(1)
    change = {
        metric: np.mean(
            [
                a["metrics"][metric]["value"] - b["metrics"][metric]["value"]
                for a, b in zip(mine, paper, strict=True)
            ]
        )
        for metric in SHOWN[1:]
    }
    cost = {
        key: np.mean(
            [
                a["cost"][key] / b["cost"][key] - 1
                for a, b in zip(mine, paper, strict=True)
                if b["cost"][key]
            ]
            or [0]
        )
        for key in COSTS
    }
    time = np.mean([a["cpu_seconds"] / b["cpu_seconds"] for a, b in zip(mine, paper, strict=True)])
    sets = f"; sets {by_seed.min():.2f} to {by_seed.max():.2f}" if len(by_seed) > 1 else ""
    return [
        f"{ours.mean() / theirs.mean():.2f} <sub>{low:.2f} to {high:.2f}{sets}</sub>",
        f"{held_out_ratio(mine, paper):.2f}",
        f"{(ours < theirs).mean():.0%}",
        f"{change['clip_score']:+.2f}",
        f"{change['fid']:+.2f}",
        ", ".join(f"{value:+.2%}" for value in cost.values()),
        f"{time:.2f}",
    ]
