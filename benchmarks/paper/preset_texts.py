"""The table of the presets: error, ratio to the paper's method, costs."""

import numpy as np

from obsdiff.evaluation.bootstrap import bootstrap_interval

from ..tables.markdown import grid
from .grids import SHOWN
from .prompt_errors import WORST, Kept, errors_of, share_worse, worst_prompt
from .tables import COMPARED_PRESETS, SEEDS, TARGETS

COSTS = ("zeros", "parameters", "macs")


HEAD = (
    "target",
    "preset",
    "relative latent error",
    WORST,
    "of paper's",
    "of paper's, held-out names",
    "drawn worse than by paper",
    "loses most",
    "CLIP score",
    "FID",
    "zeros, parameters, MACs",
    "time",
)


def presets_table(rows: dict[str, Kept]) -> str:
    """Lines of a target: `off`, the paper preset, and the others, whose error is over all their
    calibration sets and whose other figures compare them with the paper's, over the sets of both.
    """
    lines = []
    for target in TARGETS:
        sets = {preset: sets_of(rows, preset, target) for preset in COMPARED_PRESETS}
        shared = [seed for seed in SEEDS if all(seed in found for found in sets.values())]
        if not shared:
            continue
        if f"off: {target}" in rows:
            lines.append(alone(target, "`off`", [rows[f"off: {target}"]]))
        paper = [rows[f"paper: {target}, seed {seed}"] for seed in shared]
        lines.append(alone(target, "`paper`", paper))
        for preset in COMPARED_PRESETS[1:]:
            every = [rows[f"{preset}: {target}, seed {seed}"] for seed in sets[preset]]
            both = [rows[f"{preset}: {target}, seed {seed}"] for seed in shared]
            errors = [over_sets(every), worst_prompt(every)]
            lines.append([target, f"`{preset}`", *errors, *beside(both, paper)])
    return grid(list(HEAD), lines)


def sets_of(rows: dict[str, Kept], preset: str, target: str) -> list[int]:
    """The calibration sets with which a preset was measured at a target."""
    return [seed for seed in SEEDS if f"{preset}: {target}, seed {seed}" in rows]


def alone(target: str, name: str, runs: list[Kept]) -> list[str]:
    """The line of rows that are compared with nothing."""
    found = [target, name, f"{errors_of(runs).mean():.4f}", worst_prompt(runs)]
    return found + [""] * (len(HEAD) - len(found))


def loses_most(ours: np.ndarray, theirs: np.ndarray) -> str:
    """The prompt that suffers most from ours in place of theirs, mean over sets: both errors."""
    mine, paper = ours.mean(0), theirs.mean(0)
    prompt = int((mine - paper).argmax())
    return f"{mine[prompt]:.3f} for {paper[prompt]:.3f}"


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
    sets = f" <sub>sets {errors.min():.4f} to {errors.max():.4f}</sub>" if len(errors) > 1 else ""
    return f"{errors.mean():.4f}{sets}"


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
        share_worse(ours.mean(0), theirs.mean(0)),
        loses_most(ours, theirs),
        f"{change['clip_score']:+.2f}",
        f"{change['fid']:+.2f}",
        ", ".join(f"{value:+.2%}" for value in cost.values()),
        f"{time:.2f}",
    ]
