"""Prune a model that is larger than the memory budget, and watch the process's anonymous memory
(mapped weight pages apart).

    python -m benchmarks.memory sd3-medium --memory-budget-gib 4             # 2.03 B parameters
    python -m benchmarks.memory flux-dev --memory-budget-gib 9 --blocks 0-5  # 12 B, 24 GB on disk

2 prompts, 2 steps, 256 image tokens.

The command creates the model's folder in benchmarks/cache; --clean removes it. Writes
benchmarks/results/memory-MODEL.json and docs/memory-MODEL.png: anonymous memory against the layers
that are done.
"""

import argparse
import json
import shutil
import time
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import torch

from obsdiff import PruningConfig, prune_
from obsdiff.layerwise import executor
from obsdiff.pipelines.folder import open_folder
from obsdiff.pipelines.load import load_pipeline
from obsdiff.pipelines.save import save_pruned
from obsdiff.runtime.memory import anonymous, watched

from .big_models import MODELS

CACHE = Path(__file__).parent / "cache"
RESULTS = Path(__file__).parent / "results"
DOCS = Path(__file__).parents[1] / "docs"
GIB = 2**30
PROMPTS = ["a red apple on a table", "an old house in the snow"]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", choices=MODELS)
    parser.add_argument("--memory-budget-gib", type=float, required=True)
    parser.add_argument("--calibration", default=PruningConfig().calibrating)
    parser.add_argument("--blocks")
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument(
        "--side",
        type=int,
        default=64,
        help="of the pictures; latents have half of it, image tokens a quarter a side",
    )
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--save", action="store_true", help="write the pruned pipeline, too")
    parser.add_argument("--clean", action="store_true", help="remove the model's folder at the end")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    folder = CACHE / args.model
    if not (folder / "model_index.json").exists():
        print(f"{MODELS[args.model](folder) / 1e9:.2f} B parameters", flush=True)
    found = measure(folder, args)
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"memory-{args.model}.json").write_text(json.dumps(found, indent=1) + "\n")
    plot(args.model, found)
    print({key: value for key, value in found.items() if key != "curve"})
    if args.clean:
        shutil.rmtree(folder)


def measure(folder: Path, args: argparse.Namespace) -> dict[str, Any]:
    """Load, prune and, if asked, save; memory and seconds of each."""
    config = PruningConfig(
        memory_budget_gib=args.memory_budget_gib, calibration=args.calibration, blocks=args.blocks,
        num_inference_steps=args.steps, height=args.side, width=args.side, dtype="bfloat16",
        batch_size=len(PROMPTS),
    )  # fmt: skip
    began, curve, seconds = time.perf_counter(), [], {}
    before = anonymous()
    with watched() as whole:
        pipe, _ = load_pipeline(open_folder(folder), config.dtype)
        seconds["load"] = time.perf_counter() - began
        loaded = anonymous()
        with noted(curve, began):
            report = prune_(pipe, PROMPTS, config)
        seconds |= report.seconds
        if args.save:
            start = time.perf_counter()
            save_pruned(pipe, folder.with_name(folder.name + "-pruned"), report, overwrite=True)
            seconds["save"] = time.perf_counter() - start
    return {
        "model": folder.name, "parameters": report.parameters["before"],
        "weights_gib": 2 * report.parameters["before"] / GIB, "config": config.to_dict(),
        "packages": len(report.packages), "layers": len(report.layers), "sparsity": report.sparsity,
        "seconds": seconds, "imports_gib": before / GIB, "loaded_gib": loaded / GIB,
        "peak_gib": whole["peak_bytes"] / GIB,
        "prune_gib": (report.memory["peak_bytes"] - report.memory["before_bytes"]) / GIB,
        "curve": curve,
    }  # fmt: skip


class noted:  # noqa: N801 (it reads as a verb)
    """While open, appends a point to the curve after every solved layer: (layers, seconds, GiB of
    anonymous memory)."""

    def __init__(self, curve: list, began: float):
        self.curve, self.began, self.spill_ = curve, began, executor.spill_

    def __enter__(self) -> None:
        def spill_(*args: Any) -> None:
            self.spill_(*args)
            done = (self.curve[-1]["layers"] if self.curve else 0) + len(list(args[1]))
            self.curve.append(
                {
                    "layers": done,
                    "seconds": time.perf_counter() - self.began,
                    "gib": anonymous() / GIB,
                }
            )

        executor.spill_ = spill_

    def __exit__(self, *_: Any) -> None:
        executor.spill_ = self.spill_


def plot(model: str, found: dict[str, Any]) -> None:
    figure, axes = plt.subplots(figsize=(7, 3.5), layout="constrained")
    axes.plot(
        [p["layers"] for p in found["curve"]],
        [p["gib"] for p in found["curve"]],
        label="anonymous memory when a layer is done",
    )
    axes.axhline(
        found["peak_gib"], color="C3", label=f"peak of the whole run, {found['peak_gib']:.2f} GiB"
    )
    axes.axhline(
        found["weights_gib"],
        color="0.6",
        linestyle="--",
        label=f"the denoiser's weights, {found['weights_gib']:.2f} GiB",
    )
    axes.set(
        xlabel="layers pruned, in forward order",
        ylabel="GiB",
        ylim=(0, None),
        title=f"{model}, budget {found['config']['memory_budget_gib']:g} GiB",
    )
    axes.legend(fontsize=8)
    figure.savefig(DOCS / f"memory-{model}.png", dpi=150)


if __name__ == "__main__":
    main()
