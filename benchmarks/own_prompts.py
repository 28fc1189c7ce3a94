"""Calibrate on your own prompts: what a calibration gains from prompts like those that are drawn.

    python -m benchmarks.own_prompts emoji-unet [emoji-sd3] [--threads 1]
    python -m benchmarks.own_prompts --summary

The user draws one style of emoji. Three calibrations of equally many prompts: the style's own
captions, those of all styles, and those of the other styles. Each prunes by obs; the relative
latent error is over the evaluation prompts of that style, and over those of the other styles.
Rows are kept in benchmarks/results/own-prompts-MODEL.json; a killed measurement continues with the
next row.
"""

import argparse
import json
import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from obsdiff import PruningConfig, dense_pass
from obsdiff.pipelines.builtin import BUILTINS
from obsdiff.runtime.json_files import write_json

from .conditions import RESULTS, conditions, model_version
from .paper.lab import Lab
from .paper.rows import live

STYLES = ("blob", "fluent", "noto", "twemoji")
OWN, ALL, OTHERS = "own style", "all styles", "other styles"
CALIBRATIONS = (OWN, ALL, OTHERS)
PROMPTS = 40  # of a calibration: no style has fewer
DRAWN = 128  # evaluation prompts, of all styles
TARGETS: dict[str, dict[str, Any]] = {
    "50%": {"sparsity": 0.5},
    "2:4": {"pattern": "2:4"},
    "structured 30%": {"pattern": "structured", "sparsity": 0.3},
}
SAMPLES = 2000  # of the bootstrap
Rows = dict[str, dict[str, Any]]


def style_of(prompt: str) -> str:
    """The style that a caption names last, such as noto of "red apple, noto style"."""
    return prompt.rpartition(", ")[2].removesuffix(" style")


def chosen(prompts: list[str], style: str, calibration: str) -> list[str]:
    """The calibration prompts: a sample that is the same for every model."""
    which = {
        OWN: [p for p in prompts if style_of(p) == style],
        ALL: prompts,
        OTHERS: [p for p in prompts if style_of(p) != style],
    }[calibration]
    return random.Random(f"{style}, {calibration}").sample(which, PROMPTS)


def name_of(style: str, calibration: str, target: str) -> str:
    return f"{style}: {calibration}, {target}"


def measure(model: str) -> None:
    """Measure the missing rows of a model."""
    lab = Lab(model, prompts=DRAWN)
    file = RESULTS / f"own-prompts-{model}.json"
    rows: Rows = json.loads(file.read_text())["rows"] if file.exists() else {}
    about = {
        "model": model,
        "model_version": model_version(model),
        "settings": lab.settings,
        "calibration_prompts": PROMPTS,
        "evaluation_prompts": len(lab.sets[lab.prompt_set]),
    } | conditions("benchmarks.own_prompts")
    known = lab.calibration
    for style in STYLES:
        for calibration in CALIBRATIONS:
            lab.calibration = chosen(known, style, calibration)
            for name, row in measured(lab, style, calibration, rows):
                rows[name] = row
                write_json(file, about | {"rows": rows})
                print(f"{model}: {name}: {row['own']:.4f}, {row['others']:.4f}", flush=True)


def measured(
    lab: Lab, style: str, calibration: str, rows: Rows
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the missing rows of one calibration, all from one dense pass."""
    configs = {
        name: PruningConfig(num_prompts=PROMPTS, **lab.settings | changes)
        for target, changes in TARGETS.items()
        if (name := name_of(style, calibration, target)) not in rows
    }
    if not configs:
        return
    with dense_pass(lab.pipe, lab.calibration, list(configs.values())) as dense:
        for name, config in configs.items():
            denoiser, _ = live(lab, config, dense)
            each = lab.error_of(denoiser, lab.prompt_set)["per_prompt"]
            mine = [style_of(p) == style for p in lab.sets[lab.prompt_set]]
            yield (
                name,
                {
                    "own": float(np.mean([e for e, own in zip(each, mine, strict=True) if own])),
                    "others": float(
                        np.mean([e for e, own in zip(each, mine, strict=True) if not own])
                    ),
                    "per_prompt": [round(value, 6) for value in each],
                    "mine": [int(own) for own in mine],
                },
            )


def ratio(rows: Rows, target: str, calibration: str, mine: bool) -> str | None:
    """The error of a calibration over that with prompts of all styles, on prompts of the style or
    of the others: paired, the mean over styles, its 95 % interval over prompts."""
    pairs = []
    for style in STYLES:
        ours, base = (rows.get(name_of(style, one, target)) for one in (calibration, ALL))
        if ours is None or base is None:
            return None
        wanted = np.array(ours["mine"]) == mine
        pairs.append((np.array(ours["per_prompt"])[wanted], np.array(base["per_prompt"])[wanted]))
    rng = np.random.default_rng(0)
    samples = []
    for _ in range(SAMPLES):
        picked = [(a[i], b[i]) for a, b in pairs for i in [rng.integers(0, len(a), len(a))]]
        samples.append(sum(a.mean() for a, _ in picked) / sum(b.mean() for _, b in picked))
    low, high = np.quantile(samples, [0.025, 0.975])
    mean = sum(a.mean() for a, _ in pairs) / sum(b.mean() for _, b in pairs)
    return f"{mean:.2f} ({low:.2f} to {high:.2f})"


def summary() -> None:
    """Print, for each model and target, the errors over those with prompts of all styles."""
    for model in BUILTINS:
        file = RESULTS / f"own-prompts-{model}.json"
        rows: Rows = json.loads(file.read_text())["rows"] if file.exists() else {}
        for target in TARGETS:
            for calibration in (OWN, OTHERS):
                own, others = (ratio(rows, target, calibration, mine) for mine in (True, False))
                if own and others:
                    print(f"{model}, {target}, {calibration}: own {own}, others {others}")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("models", nargs="*", metavar="MODEL", help=" or ".join(BUILTINS))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--summary", action="store_true", help="print the stored rows alone")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    for model in () if args.summary else args.models:
        measure(model)
    summary()


if __name__ == "__main__":
    main()
