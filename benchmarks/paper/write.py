"""docs/results.md from the measured rows: a section per table, both models, and the findings
(findings.md).

In each line of a table the best value is bold, and ~ marks values not distinguishable from it: the
95 % interval of the difference over prompts contains 0. plots.py draws the plots.
"""

import json
import re
import statistics
from collections.abc import Callable
from pathlib import Path

import numpy as np

from obsdiff.config.choices import PRESETS, STEP_WEIGHTINGS
from obsdiff.evaluation.bootstrap import RESAMPLES
from obsdiff.pipelines.builtin import BUILTINS

from ..conditions import model_version
from ..tables.markdown import caption, grid
from .grids import SHOWN, Kept, by_share, cell, compared, gone, lines_of
from .off import ALONE
from .plots import draw_plots
from .rows import file_of
from .tables import METHODS, SEEDS, SHARES, SPARSITIES, STRUCTURED, TABLES, TARGETS

DOCS = Path(__file__).parents[2] / "docs"
FINDINGS = Path(__file__).with_name("findings.md")
COSTS = ("zeros", "parameters", "macs")


def write() -> None:
    found = {
        table: {model: kept for model in BUILTINS if (kept := read(model, table))}
        for table in TABLES
    }
    findings = sections(FINDINGS.read_text(encoding="utf-8"))
    parts = [findings.get("introduction", "").strip(), missing(found)]
    for table, kept in found.items():
        if kept:
            parts += [f"## {TITLES[table]}", findings.get(table, "").strip()]
            plot = draw_plots(table, kept, DOCS / "results")
            parts += [f"![{TITLES[table]}](results/{plot.name})"] if plot else []
            parts += [
                f"**{model}, version {one['model_version']}**\n\n{WRITERS[table](one['rows'])}"
                for model, one in kept.items()
            ]
    parts.append(conditions(found))
    text = (
        "# The paper's tables on the built-in models\n\n"
        + "\n\n".join(part for part in parts if part)
        + "\n"
    )
    (DOCS / "results.md").write_text(text, encoding="utf-8")
    print(DOCS / "results.md")


def missing(found: dict[str, dict[str, Kept]]) -> str:
    """The tables that have not been measured on the models as they are."""
    names = [
        f"{TITLES[table][0].lower()}{TITLES[table][1:]} ({', '.join(lacking)})"
        for table, kept in found.items()
        if (lacking := [model for model in BUILTINS if model not in kept])
    ]
    if not names:
        return ""
    return caption(f"Not measured on these versions of the models yet: {'; '.join(names)}.")


def read(model: str, table: str) -> Kept | None:
    """The rows of a table that has all of them."""
    file = file_of(model_version(model), model, table)
    if not file.exists():
        return None
    kept: Kept = json.loads(file.read_text())
    return kept if kept.get("finished") else None


def sections(text: str) -> dict[str, str]:
    """{"unstructured": its text} of a file with headings."""
    parts = re.split(r"^# (.+)$", text, flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


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
        mine, uniform = (
            np.array(
                [
                    rows[f"{k} seed {seed}"]["metrics"]["relative_latent_error"]["per_prompt"]
                    for seed in seeds
                ]
            )
            for k in (kind, "uniform")
        )
        difference = (mine - uniform).mean(0)
        picks = np.random.default_rng(0).integers(
            len(difference), size=(RESAMPLES, len(difference))
        )
        low, high = np.quantile(difference[picks].mean(1), [0.025, 0.975])
        by_seed = (mine - uniform).mean(1)
        lines.append(
            [
                kind,
                *(f"{x:.4f}" for x in mine.mean(1)),
                f"{mine.mean():.4f}",
                f"{difference.mean():+.4f} <sub>{low:+.4f} to {high:+.4f}</sub>",
                f"{by_seed.min():+.4f} to {by_seed.max():+.4f}",
            ]
        )
    return grid(
        [
            "weighting",
            *(f"error, seed {seed}" for seed in SEEDS),
            "mean",
            "minus uniform",
            "that by seed",
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
    ways = [name.removeprefix("dense, ") for name in rows if name.startswith("dense, ")]
    lines = []
    for way in ways:
        errors = compared(rows, [f"wanda, {way}", f"obs, {way}"], "relative_latent_error")
        scores = [
            cell(rows[name]["metrics"]["clip_score"], "clip_score")
            if (name := f"{m}, {way}") in rows
            else ""
            for m in ("dense", "wanda", "obs")
        ]
        lines.append([way, *errors, *scores])
    return grid(
        ["drawn with", "error, wanda", "error, obs", "CLIP score, dense", "wanda", "obs"], lines
    )


def packages_table(rows: dict[str, Kept]) -> str:
    return lines_of(
        rows,
        "packages",
        more={"largest package's Hessians": lambda row: f"{row['hessian_bytes'] / 2**20:.0f} MiB"},
    )


def calibration_table(rows: dict[str, Kept]) -> str:
    """A line a target, a column a way to calibrate: the error, and its difference to live with the
    interval over prompts."""
    ways = list(dict.fromkeys(name.partition(":")[0] for name in rows))
    targets = list(dict.fromkeys(name.partition(": ")[2] for name in rows))
    base = next((way for way in ways if way.startswith("live")), ways[0])
    lines = [
        [target, *(against(rows, f"{way}: {target}", f"{base}: {target}") for way in ways)]
        for target in targets
    ]
    return grid(["relative latent error", *ways], lines)


def presets_table(rows: dict[str, Kept]) -> str:
    """A line a target: the paper preset's error; of the others error, ratio to the paper's (mean
    over seeds, and the seeds' range), share of prompts that are drawn better, and CPU time over the
    paper's."""
    lines = []
    for target in TARGETS:
        seeds = [
            seed
            for seed in SEEDS
            if all(f"{preset}: {target}, seed {seed}" in rows for preset in PRESETS)
        ]
        if seeds:
            runs = {
                preset: [rows[f"{preset}: {target}, seed {seed}"] for seed in seeds]
                for preset in PRESETS
            }
            others = [
                cell
                for preset in PRESETS
                if preset != "paper"
                for cell in beside(runs[preset], runs["paper"])
            ]
            lines.append(
                [
                    target,
                    str(len(seeds)),
                    error_or_nothing(rows, f"off: {target}"),
                    f"{errors_of(runs['paper']).mean():.4f}",
                    *others,
                ]
            )
    head = [
        f"{preset}: {what}"
        for preset in PRESETS
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
    return grid(["relative latent error", "calibration sets", "off", "paper", *head], lines)


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


def beside(mine: list[Kept], paper: list[Kept]) -> list[str]:
    """One preset compared with the paper's, over the same calibration sets."""
    ours, theirs = errors_of(mine), errors_of(paper)
    picks = np.random.default_rng(0).integers(ours.shape[1], size=(RESAMPLES, ours.shape[1]))
    low, high = np.quantile(
        ours[:, picks].mean((0, 2)) / theirs[:, picks].mean((0, 2)), [0.025, 0.975]
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
    return [
        f"{ours.mean():.4f}",
        f"{ours.mean() / theirs.mean():.2f} <sub>{low:.2f} to {high:.2f}; "
        f"sets {by_seed.min():.2f} to {by_seed.max():.2f}</sub>",
        f"{held_out_ratio(mine, paper):.2f}",
        f"{(ours < theirs).mean():.0%}",
        f"{change['clip_score']:+.2f}",
        f"{change['fid']:+.2f}",
        ", ".join(f"{value:+.2%}" for value in cost.values()),
        f"{time:.2f}",
    ]


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
    picks = np.random.default_rng(0).integers(len(difference), size=(RESAMPLES, len(difference)))
    low, high = np.quantile(difference[picks].mean(1), [0.025, 0.975])
    return f"{figure['value']:.4f} <sub>{difference.mean():+.4f}: {low:+.4f} to {high:+.4f}</sub>"


def conditions(found: dict[str, dict[str, Kept]]) -> str:
    """Settings and versions, of every file."""
    some = next((one for kept in found.values() for one in kept.values()), None)
    if not some:
        return ""
    models = {model: one for kept in found.values() for model, one in kept.items()}
    texts = [
        f"{model}, version {one['model_version']}: "
        + ", ".join(f"{key} {value}" for key, value in one["settings"].items())
        for model, one in models.items()
    ]
    prompts = some["prompts"]
    versions = ", ".join(f"{name} {version}" for name, version in some["versions"].items())
    text = (
        f"{prompts['evaluation']} evaluation prompts, which no decision ever saw, and "
        f"{prompts['held_out']} of held-out names. {'; '.join(texts)}. "
        f"{versions}; CPU, {some['machine']}."
    )
    return "## Conditions\n\n" + caption(text)


def off_table(rows: dict[str, Kept]) -> str:
    """What each sub-module costs alone, and what shares of the weights cost."""
    alone = [
        [name.removeprefix(ALONE), cell(row["metrics"][SHOWN[0]], SHOWN[0])]
        for name, row in rows.items()
        if name.startswith(ALONE)
    ]
    shares = [
        [
            f"{row['sparsity']:.1%}",
            str(len(row["off"])),
            cell(row["metrics"][SHOWN[0]], SHOWN[0]),
            cell(row["held_out"][SHOWN[0]], SHOWN[0]),
            cell(row["metrics"]["clip_score"], "clip_score"),
        ]
        for name, row in rows.items()
        if name.startswith("off ")
    ]
    return "\n\n".join(
        [
            grid(["switched off alone", "relative latent error, tuning prompts"], alone),
            grid(
                [
                    "weights switched off",
                    "sub-modules",
                    "relative latent error",
                    "held-out names",
                    "CLIP score",
                ],
                shares,
            ),
        ]
    )


TITLES = {
    "off": "Whole attentions and FFNs switched off (ours)",
    "unstructured": "Single weights (the paper's Table 1 and Figure 4)",
    "semistructured": "2:4 (Table 2)",
    "structured": "Heads and FFN neurons (Tables 3, 4, 9)",
    "prompts": "Number of calibration prompts (Figure 3)",
    "weighting": "Weights of the denoising steps (Table 6)",
    "robustness": "Guidance, steps and samplers (Tables 11 to 13)",
    "packages": "Number of packages (Table 7)",
    "calibration": "Where the Hessians come from (ours)",
    "presets": "Presets: paper, best, fast (ours)",
    "seconds": "Time to prune (Table 8)",
}
WRITERS: dict[str, Callable[[dict[str, Kept]], str]] = {
    "off": off_table,
    "unstructured": lambda rows: by_share(
        rows, SPARSITIES, ("off", *METHODS), lambda s: f"{s:.0%}"
    ),
    "semistructured": lambda rows: by_share(rows, ("2:4", "4:8"), METHODS, str),
    "structured": lambda rows: by_share(
        rows, SHARES, ("off", *STRUCTURED), lambda s: f"{s:.0%}", gone
    ),
    "prompts": lambda rows: lines_of(rows, "prompts"),
    "weighting": weighting_table,
    "robustness": robustness_table,
    # without seconds: the table of seconds is measured on an idle machine
    "packages": packages_table,
    "calibration": calibration_table,
    "presets": presets_table,
    "seconds": seconds_table,
}
