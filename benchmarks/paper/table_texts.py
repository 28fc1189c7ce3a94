"""The tables of docs/results.md that have a form of their own, from their rows."""

import statistics

import numpy as np

from obsdiff.config.choices import STEP_WEIGHTINGS
from obsdiff.evaluation.bootstrap import bootstrap_interval

from ..tables.markdown import grid
from .grids import BASELINE, SHOWN, cell, compared, lines_of, prompts_grid
from .off import ALONE
from .prompt_errors import WORST, Kept, drawn_worse, errors_of, largest, worst_prompt
from .tables import SEEDS


def interval_of_mean(differences: np.ndarray) -> tuple[float, float]:
    """The 95 % interval of the mean of one difference a prompt."""
    return bootstrap_interval(lambda picks: differences[picks].mean(1), len(differences))


def off_table(rows: dict[str, Kept]) -> str:
    """What each sub-module costs alone, and what shares of the weights cost."""
    alone = [
        [name.removeprefix(ALONE), cell(row["metrics"][SHOWN[0]], SHOWN[0]), worst_prompt([row])]
        for name, row in rows.items()
        if name.startswith(ALONE)
    ]
    shares = [
        [
            f"{row['sparsity']:.1%}",
            str(len(row["off"])),
            cell(row["metrics"][SHOWN[0]], SHOWN[0]),
            worst_prompt([row]),
            cell(row["held_out"][SHOWN[0]], SHOWN[0]),
            worst_prompt([row], "held_out"),
            cell(row["metrics"]["clip_score"], "clip_score"),
        ]
        for name, row in rows.items()
        if name.startswith("off ")
    ]
    return "\n\n".join(
        [
            grid(["switched off alone", "relative latent error, tuning prompts", WORST], alone),
            grid(
                [
                    "weights switched off",
                    "sub-modules",
                    "relative latent error",
                    WORST,
                    "held-out names",
                    WORST,
                    "CLIP score",
                ],
                shares,
            ),
        ]
    )


def weighting_table(rows: dict[str, Kept]) -> str:
    """Error by seed, and the difference to uniform: mean over seeds for each prompt, bootstrap over
    prompts."""
    lines = []
    for kind in STEP_WEIGHTINGS:
        seeds = [
            seed
            for seed in SEEDS
            if f"{kind} seed {seed}" in rows and f"uniform seed {seed}" in rows
        ]
        if not seeds:
            continue
        names, bases = ([f"{k} seed {seed}" for seed in seeds] for k in (kind, "uniform"))
        mine, uniform = (errors_of([rows[name] for name in some]) for some in (names, bases))
        difference = (mine - uniform).mean(0)
        low, high = interval_of_mean(difference)
        by_seed = (mine - uniform).mean(1)
        lines.append(
            [
                kind,
                *(f"{x:.4f}" for x in mine.mean(1)),
                f"{mine.mean():.4f}",
                largest(mine.mean(0)),
                f"{difference.mean():+.4f} <sub>{low:+.4f} to {high:+.4f}</sub>",
                f"{by_seed.min():+.4f} to {by_seed.max():+.4f}",
                drawn_worse(rows, names, bases),
            ]
        )
    return grid(
        [
            "weighting",
            *(f"error, seed {seed}" for seed in SEEDS),
            "mean",
            WORST,
            "minus uniform",
            "that by seed",
            "drawn worse than by uniform",
        ],
        lines,
    )


def seconds_table(rows: dict[str, Kept]) -> str:
    taken = rows["seconds"]["seconds"]
    plain = taken["plain inference"]
    ratio = {
        name: statistics.median(a / b for a, b in zip(values, plain, strict=True))
        for name, values in taken.items()
    }
    lines = [
        [name, f"{statistics.median(values):.1f}", f"{ratio[name]:.2f}"]
        for name, values in taken.items()
    ]
    return grid(
        [
            "method",
            f"seconds, {rows['seconds']['prompts']} prompts, median of {len(plain)}",
            "times plain inference",
        ],
        lines,
    )


def robustness_table(rows: dict[str, Kept]) -> str:
    methods = ("wanda", BASELINE)
    ways = [name.removeprefix("dense, ") for name in rows if name.startswith("dense, ")]
    names_of = {way: [f"{method}, {way}" for method in methods] for way in ways}
    lines = []
    for way in ways:
        errors = compared(rows, names_of[way], SHOWN[0])
        scores = [
            cell(rows[name]["metrics"]["clip_score"], "clip_score")
            if (name := f"{m}, {way}") in rows
            else ""
            for m in ("dense", *methods)
        ]
        lines.append([way, *errors, *scores])
    head = ["drawn with", *(f"error, {method}" for method in methods), "CLIP score, dense"]
    small = prompts_grid(rows, names_of, methods, BASELINE)
    return grid([*head, *methods], lines) + f"\n\n{small}"


def packages_table(rows: dict[str, Kept]) -> str:
    return lines_of(
        rows,
        "packages",
        more={"largest package's Hessians": lambda row: f"{row['hessian_bytes'] / 2**20:.0f} MiB"},
    )


def calibration_table(rows: dict[str, Kept]) -> str:
    """A line a target, a column a way to calibrate: the error, and its difference to live with the
    interval over prompts; under it single prompts."""
    ways = list(dict.fromkeys(name.partition(":")[0] for name in rows))
    targets = list(dict.fromkeys(name.partition(": ")[2] for name in rows))
    base = next((way for way in ways if way.startswith("live")), ways[0])
    lines = [
        [target, *(against(rows, f"{way}: {target}", f"{base}: {target}") for way in ways)]
        for target in targets
    ]
    names_of = {target: [f"{way}: {target}" for way in ways] for target in targets}
    small = prompts_grid(rows, names_of, tuple(ways), base)
    return grid(["relative latent error", *ways], lines) + f"\n\n{small}"


def against(rows: dict[str, Kept], name: str, base: str) -> str:
    """A row's error, and its difference to the base's: 95 % interval, paired over prompts."""
    if name not in rows:
        return ""
    figure = rows[name]["metrics"]["relative_latent_error"]
    if name == base or base not in rows:
        return f"{figure['value']:.4f}"
    difference = np.array(figure["per_prompt"]) - np.array(
        rows[base]["metrics"]["relative_latent_error"]["per_prompt"]
    )
    low, high = interval_of_mean(difference)
    return f"{figure['value']:.4f} <sub>{difference.mean():+.4f}: {low:+.4f} to {high:+.4f}</sub>"
