"""Allocation by gradients of all layers at once against drawings with one layer pruned at a time.

    python -m benchmarks.allocation emoji-unet [--prompts 24] [--sets 3] [--rows FILE]

Preset best at every target, `--allocation drawn` and `sensitivity` from one dense pass a set of
calibration prompts; relative latent errors over the prompts for decisions ("tuning"). Rows are
stored as they are found, and a second call goes on where the first one ended. Printed last: the
ratio of mean errors of the same sets and prompts, its interval over prompts and sets, and the
allocations' denoising steps of one prompt.
"""

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np

from obsdiff import PruningConfig, dense_pass
from obsdiff.layerwise.run_phases import DRAWN_FIRST, GRADIENT_RUNS

from .paper.lab import CACHE, Lab
from .paper.rows import live

TARGETS: dict[str, dict[str, Any]] = {
    "50%": {"sparsity": 0.5},
    "structured 30%": {"pattern": "structured", "sparsity": 0.3},
    "60%": {"sparsity": 0.6},
}
ALLOCATIONS = {
    "drawn": {"allocation": "drawn", "allocation_prompts": 4},
    "sensitivity": {"allocation": "sensitivity", "allocation_prompts": 4},
    "sensitivity, two prompts": {"allocation": "sensitivity", "allocation_prompts": 2},
    "layer errors": {"allocation": "obs"},
}
SAMPLES = 2000  # of the bootstrap


def main() -> None:
    p = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    p.add_argument("model")
    p.add_argument("--prompts", type=int, default=24, help="calibration prompts of a set")
    p.add_argument("--sets", type=int, default=3)
    p.add_argument("--evaluated", type=int, default=32, help="tuning prompts")
    p.add_argument("--targets", nargs="+", choices=TARGETS, default=list(TARGETS)[:2])
    p.add_argument("--allocations", nargs="+", choices=ALLOCATIONS, default=list(ALLOCATIONS))
    p.add_argument("--rows", type=Path)
    args = p.parse_args()
    file = args.rows or CACHE / f"allocation-{args.model}.json"
    rows = json.loads(file.read_text()) if file.exists() else {}
    lab = Lab(args.model, prompts=args.evaluated, prompt_set="tuning")
    for number in range(args.sets):
        wanted = {
            f"{target}, set {number}, {name}": PruningConfig(
                preset="best",
                num_prompts=args.prompts,
                seed=number * 1000,
                **TARGETS[target] | ALLOCATIONS[name] | lab.settings,
            )
            for target in args.targets
            for name in args.allocations
        }
        missing = {key: config for key, config in wanted.items() if key not in rows}
        if not missing:
            continue
        with dense_pass(lab.pipe, lab.calibration, list(missing.values())) as dense:
            for key, config in missing.items():
                rows[key] = measured(lab, config, dense)
                print(key, round(rows[key]["value"], 5), rows[key]["seconds"], flush=True)
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_text(json.dumps(rows, indent=1))
    for target in args.targets:
        for name in args.allocations[1:]:
            print(compared(rows, target, name, args.allocations[0], args.sets), flush=True)


def measured(lab: Lab, config: PruningConfig, dense: Any) -> dict[str, Any]:
    """Prune and draw: the error, that of each prompt, CPU seconds, steps of the allocation."""
    dense.ratios.clear()
    began = time.process_time()
    denoiser, report = live(lab, config, dense)
    spent = time.process_time() - began
    figure = lab.error_of(denoiser, lab.prompt_set)
    things = len(report.groups) or len(lab.taps(config))
    runs = {"drawn": things + DRAWN_FIRST, "sensitivity": GRADIENT_RUNS}.get(config.allocation, 0)
    return {
        "value": figure["value"],
        "per_prompt": figure["per_prompt"],
        "seconds": {"all": round(spent, 1)} | {k: round(v, 1) for k, v in report.seconds.items()},
        "drawings": runs * config.allocation_prompts,
    }


def compared(rows: dict[str, Any], target: str, name: str, base: str, sets: int) -> str:
    """One line: the ratio of the mean errors of the sets that have both."""
    keys = [f"{target}, set {i}, " for i in range(sets)]
    both = [key for key in keys if key + name in rows and key + base in rows]
    if not both:
        return f"{target}: no set has {base} and {name}"
    ours, theirs = (
        np.array([rows[key + which]["per_prompt"] for key in both]) for which in (name, base)
    )
    random = np.random.default_rng(0)
    ratios = []
    for _ in range(SAMPLES):
        some = random.integers(0, len(both), len(both))
        prompts = random.integers(0, ours.shape[1], ours.shape[1])
        picked = np.ix_(some, prompts)
        ratios.append(ours[picked].mean() / theirs[picked].mean())
    low, high = np.quantile(ratios, [0.025, 0.975])
    return (
        f"{target}: {name} {ours.mean():.5f}, {base} {theirs.mean():.5f}: "
        f"{ours.mean() / theirs.mean():.3f} ({low:.3f} to {high:.3f}), {len(both)} sets; drawings "
        f"{rows[both[0] + name]['drawings']} and {rows[both[0] + base]['drawings']}"
    )


if __name__ == "__main__":
    main()
