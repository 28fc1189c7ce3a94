"""Tokens per column that a calibration needs: the error of the pictures against the kept tokens.

    python -m benchmarks.tokens emoji-unet [emoji-sd3] [--seeds 0 1 2] [--prompts 48] [--threads 1]
        [--targets all 32 16 8 4]
    python -m benchmarks.tokens --summary
    python -m benchmarks.tokens --cost emoji-unet emoji-sd3 [--rounds 3]

One dense pass feeds a Hessian for every target at once: all tokens, and so many kept per column.
Each prunes the model by obs and alps to 50 %, obs to 2:4 and obs structured to 30 %; the relative
latent error is that of the tuning prompts, never of the evaluation's. Rows are kept in
benchmarks/results/tokens-MODEL-PROMPTS.json; a killed measurement continues with the next row.

The summary compares each target with all tokens: the ratio of the two errors, prompts and
calibration seed paired, averaged over models, methods and seeds, with its 95 % interval over these.

The cost is CPU time of a dense pass over that of plain inference of the same prompts, in turn in
one process. A few prompts stand for a whole run: they keep the share of the tokens that each of
RUN_PROMPTS keeps.
"""

import argparse
import json
import math
import statistics
import time
from collections.abc import Callable, Iterator
from itertools import product
from typing import Any

import torch

from obsdiff import PruningConfig
from obsdiff.calibration.calibration_set import CalibrationSet
from obsdiff.calibration.call_audit import CallAudit
from obsdiff.calibration.hessian import Hessian
from obsdiff.calibration.hooks import calibrate
from obsdiff.calibration.thinning import Thinning, parts_of
from obsdiff.models.structure import Tap
from obsdiff.pipelines.builtin import BUILTINS
from obsdiff.pipelines.call import choose_prompts
from obsdiff.pipelines.run import hooked
from obsdiff.runtime.json_files import write_json

from .conditions import RESULTS, conditions, model_version
from .paper.lab import Lab

ALL = "all"
TARGETS = (ALL, "32", "16", "8", "4")
Target = float | None  # None: all tokens
METHODS: dict[str, dict[str, Any]] = {
    "obs 50%": {"method": "obs", "sparsity": 0.5},
    "alps 50%": {"method": "alps", "sparsity": 0.5},
    "obs 2:4": {"method": "obs", "pattern": "2:4"},
    "structured 30%": {"pattern": "structured", "sparsity": 0.3},
}
DRAWN = 24  # tuning prompts
TIMED, RUN_PROMPTS = 4, 64
Hessians = dict[str, Hessian]


class Several:
    """The sums of one tap for every target."""

    def __init__(self, columns: int, targets: list[Target]) -> None:
        self.columns = columns
        self.hessians = {target: Hessian.zeros(columns) for target in targets}

    def add(self, module: torch.nn.Module, x: torch.Tensor, draws: dict, alpha: float) -> None:
        for target, hessian in self.hessians.items():
            kept = draws[target].kept(module, x, self.columns)
            for part, represented in parts_of(module, x, kept):
                hessian.update(part.float(), alpha, represented)


def gathered(lab: Lab, prompts: int, seed: int, targets: list[Target]) -> dict[Target, Hessians]:
    """The Hessians of every target by layer, from one dense pass."""
    config = PruningConfig(num_prompts=prompts, seed=seed)
    chosen, seeds = choose_prompts(lab.calibration, config)
    calibration_set = CalibrationSet(chosen, seeds, lab.settings)
    audit, taps = CallAudit(), lab.taps(config)
    with lab.calibrating(calibration_set) as context:
        run = context.run
        draws = {target: Thinning(target, len(chosen), run) for target in targets}
        sums: dict[Tap, Several] = {
            tap: Several(lab.shapes[tap.layers[0]][1], targets) for tap in taps
        }

        def begin(_: torch.nn.Module, args: tuple, kwargs: dict) -> None:
            audit.begin(run.batch, run.step)
            for draw in draws.values():
                draw.begin(audit.within, args, kwargs)

        def hook(several: Several) -> Any:
            def add(module: torch.nn.Module, args: tuple[torch.Tensor, ...]) -> None:
                alpha = calibration_set.step_weights.at(run.step, run.steps)
                several.add(module, args[0].detach(), draws, alpha)

            return add

        with (
            lab.dense.register_forward_pre_hook(begin, with_kwargs=True),
            hooked(
                lab.dense.get_submodule(tap.layers[0]).register_forward_pre_hook(hook(several))
                for tap, several in sums.items()
            ),
        ):
            for some, their in calibration_set.batches():
                run.latents(some, their, lab.settings)
    found: dict[Target, Hessians] = {target: {} for target in targets}
    for tap, several in sums.items():
        for target, hessian in several.hessians.items():
            hessian.shared = True
            found[target] |= dict.fromkeys(tap.layers, hessian)
    return found


def name_of(method: str, target: Target, seed: int) -> str:
    kept = ALL if target is None else f"{target:g}"
    return f"{method}, {kept} tokens, seed {seed}"


def measured(
    lab: Lab, method: str, hessians: Hessians, target: Target, seed: int
) -> dict[str, Any]:
    """One row: prune and draw."""
    config = PruningConfig(**METHODS[method])
    denoiser, _, _, seconds = lab.pruned(config, hessians)
    error = lab.error_of(denoiser, "tuning")
    each = {layer: hessians[layer] for layer in hessians}.values()
    kept = sorted(h.kept / h.columns for h in each)
    return {
        "method": method,
        "target": target,
        "seed": seed,
        "error": error["value"],
        "per_prompt": [round(value, 6) for value in error["per_prompt"]],
        "kept_per_column": {"least": kept[0], "median": statistics.median(kept), "most": kept[-1]},
        "solve_seconds": round(seconds, 2),
    }


def measure(model: str, prompts: int, seeds: list[int], targets: list[Target]) -> None:
    """Measure the missing rows of a model."""
    lab = Lab(model, prompts=DRAWN, prompt_set="tuning")
    file = RESULTS / f"tokens-{model}-{prompts}.json"
    rows: dict[str, Any] = json.loads(file.read_text())["rows"] if file.exists() else {}
    about = {
        "model": model,
        "model_version": model_version(model),
        "settings": lab.settings,
        "calibration_prompts": prompts,
        "tuning_prompts": DRAWN,
    } | conditions("benchmarks.tokens")
    for seed in seeds:
        wanted = [
            (method, target)
            for method in METHODS
            for target in targets
            if name_of(method, target, seed) not in rows
        ]
        if not wanted:
            continue
        hessians = gathered(lab, prompts, seed, targets)
        for method, target in wanted:
            name = name_of(method, target, seed)
            rows[name] = measured(lab, method, hessians[target], target, seed)
            write_json(file, about | {"rows": rows})
            print(f"{model}: {name}: {rows[name]['error']:.4f}", flush=True)


def ratios(target: float, prompts: int, method: str | None = None) -> Iterator[float]:
    """The error with a target over that with all tokens, for each model, method and seed."""
    for file in sorted(RESULTS.glob(f"tokens-*-{prompts}.json")):
        rows = json.loads(file.read_text())["rows"].values()
        base = {(r["method"], r["seed"]): r["error"] for r in rows if r["target"] is None}
        for row in rows:
            key = (row["method"], row["seed"])
            if row["target"] == target and key in base and method in (None, row["method"]):
                yield row["error"] / base[key]


def targets_of(prompts: int) -> list[float]:
    """The targets that were measured with so many prompts, most tokens first."""
    found: set[float] = set()
    for file in RESULTS.glob(f"tokens-*-{prompts}.json"):
        rows = json.loads(file.read_text())["rows"].values()
        found |= {row["target"] for row in rows if row["target"] is not None}
    return sorted(found, reverse=True)


def summary() -> None:
    """Print the mean ratio of each target to all tokens."""
    for prompts in sorted({int(f.stem.rpartition("-")[2]) for f in RESULTS.glob("tokens-*.json")}):
        for target, method in product(targets_of(prompts), (None, *METHODS)):
            found = list(ratios(target, prompts, method))
            if found:
                kept = f"{target:3g} tokens per column"
                what = f"{prompts} prompts, {kept}, {method or 'all methods':14}"
                print(f"{what}: {line(found)}")


def line(found: list[float]) -> str:
    """The mean of some ratios as a change, with its 95 % interval, in percent."""
    mean = statistics.fmean(found) - 1
    if len(found) < 2:
        return f"{100 * mean:+.1f} %"
    wide = 1.96 * statistics.stdev(found) / math.sqrt(len(found))
    return f"{100 * mean:+.1f} % (+-{100 * wide:.1f}, {len(found)} pairs)"


def cost(model: str, rounds: int, targets: list[Target]) -> None:
    """Print the CPU time of a dense pass over that of plain inference, for each target."""
    lab = Lab(model, prompts=TIMED, prompt_set="tuning")
    prompts, seeds = lab.calibration[:TIMED], list(range(TIMED))
    found: dict[Target, list[float]] = {target: [] for target in targets}
    with lab.calibrating(CalibrationSet(prompts, seeds, lab.settings)) as context:
        calibrate(context, lab.taps(PruningConfig()))  # the first pass is slower than all others
    for _ in range(rounds):
        for target, times in found.items():
            share = None if target is None else target * TIMED / RUN_PROMPTS
            drawn = CalibrationSet(prompts, seeds, lab.settings, tokens_per_column=share)
            with lab.calibrating(drawn) as context:
                taps = lab.taps(PruningConfig())
                plain = cpu_seconds(lambda: context.run.latents(prompts, seeds, lab.settings))
                times.append(cpu_seconds(lambda: calibrate(context, taps)) / plain)  # noqa: B023
    for target, times in found.items():
        kept = ALL if target is None else f"{target:g}"
        each = ", ".join(f"{one:.2f}" for one in times)
        print(f"{model}: {kept} tokens per column: {statistics.median(times):.2f} ({each})")


def cpu_seconds(call: Callable[[], Any]) -> float:
    """CPU time of a call."""
    began = time.process_time()
    call()
    return time.process_time() - began


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("models", nargs="*", metavar="MODEL", help=" or ".join(BUILTINS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--prompts", type=int, default=48, help="calibration prompts")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--rounds", type=int, default=3, help="of --cost")
    parser.add_argument("--cost", action="store_true", help="measure the cost of the dense pass")
    parser.add_argument("--summary", action="store_true", help="print the stored rows alone")
    parser.add_argument("--targets", nargs="+", default=list(TARGETS), help="all, or numbers")
    args = parser.parse_args()
    targets = [None if text == ALL else float(text) for text in args.targets]
    torch.set_num_threads(args.threads)
    for model in args.models:
        if args.cost:
            cost(model, args.rounds, targets)
        elif not args.summary:
            measure(model, args.prompts, args.seeds, targets)
    if not args.cost:
        summary()


if __name__ == "__main__":
    main()
