"""The gain of the dense model's targets for each package size: replay with and without asymmetric
calibration, beside one dense pass.

    python -m benchmarks.asymmetric [--model emoji-unet] [--prompts 32] [--method obs alps]
        [--pattern 0.5 2:4 structured] [--packages 2 4 8 0]

obsdiff.prune_ runs every pruning. The output is the relative latent error over held-out prompts,
and the paired difference between asymmetric and plain replay, with standard errors. 0 packages
means one for every basic unit.
"""

import argparse
import copy
import time
from itertools import product
from typing import Any

import torch

import obsdiff
from obsdiff import PruningConfig
from obsdiff.calibration.selection import select
from obsdiff.models.discovery import find_blocks

from .paper.lab import Lab

PATTERNS = {
    "0.5": {"sparsity": 0.5},
    "2:4": {"pattern": "2:4"},
    "structured": {"pattern": "structured", "sparsity": 0.3},
}


def main() -> None:
    p = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    p.add_argument("--model", default="emoji-unet")
    p.add_argument("--prompts", type=int, default=32)
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--method", nargs="+", default=["obs", "alps"])
    p.add_argument("--pattern", nargs="+", choices=PATTERNS, default=list(PATTERNS))
    p.add_argument("--packages", nargs="+", type=int, default=[2, 4, 8, 0])
    args = p.parse_args()
    lab = Lab(args.model, prompt_set="tuning")
    for pattern, method in product(args.pattern, args.method):
        if pattern == "structured" and method != "obs":
            continue
        shared = PATTERNS[pattern] | {
            "method": method,
            "num_prompts": args.prompts,
            "num_inference_steps": lab.steps,
            "seed": args.seed,
        }
        report(pattern, method, "one dense pass", errors(lab, shared | {"calibration": "single"}))
        for packages in args.packages:
            config = shared | {
                "calibration": "replay",
                "packages": packages
                or len(select(find_blocks(lab.shapes), PruningConfig(**shared), lab.shapes)),
            }
            plain, aimed = (
                errors(lab, config | {"asymmetric": asymmetric}) for asymmetric in (False, True)
            )
            report(pattern, method, f"{config['packages']} packages", plain)
            report(pattern, method, f"{config['packages']} packages, asymmetric", aimed, plain)


def errors(lab: Lab, settings: dict[str, Any]) -> tuple[dict[str, Any], float]:
    """The relative latent error of one pruning, and the seconds that it took."""
    pipe = copy.copy(lab.pipe)
    setattr(pipe, lab.component, copy.deepcopy(lab.dense))
    began = time.perf_counter()
    obsdiff.prune_(pipe, lab.calibration, PruningConfig(**settings), progress=False)
    seconds = time.perf_counter() - began
    return lab.figures(getattr(pipe, lab.component))["relative_latent_error"], seconds


def report(
    pattern: str,
    method: str,
    how: str,
    found: tuple[dict[str, Any], float],
    than: tuple[dict[str, Any], float] | None = None,
) -> None:
    error, seconds = found
    line = f"{pattern:10} {method:5} {how:28} {error['value']:.4f}  {seconds:4.0f} s"
    if than:
        change = torch.tensor(error["per_prompt"]) - torch.tensor(than[0]["per_prompt"])
        line += f"  {change.mean():+.4f} (standard error {change.std() / len(change) ** 0.5:.4f})"
    print(line, flush=True)


if __name__ == "__main__":
    main()
