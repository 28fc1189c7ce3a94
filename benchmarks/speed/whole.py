"""Whole prunings beside plain inference of the same prompts, in turn, round by round: CPU time,
phases, peak memory.

The plain algorithm runs once, in the first round; its figure for 12 packages is computed from the
parts of its run with 4.
"""

import copy
import tempfile
import time
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.plain.calibrate import BATCH, draw
from benchmarks.plain.prune import prune_plain_
from obsdiff import PruningConfig, prune_, save_pruned
from obsdiff.pipelines.call import denoiser_name

from .clock import measured
from .rows import ROWS

STEPS, PACKAGES = 10, 4
LIVE = {"calibration": "live", "packages": PACKAGES}
STRUCTURED = {"pattern": "structured", "sparsity": 0.25}
CONFIGS: dict[str, dict[str, Any]] = {  # row -> settings of obsdiff
    "whole/default": {},
    "whole/live-4": LIVE,
    "whole/replay-12": {"calibration": "replay", "packages": 12},
    "whole/structured": STRUCTURED,
    "whole/best": {"preset": "best"},
}
AS_PLAIN: dict[str, dict[str, Any]] = {"plain": LIVE, "plain, structured": LIVE | STRUCTURED}
ONCE = (
    "Hessian",
    "factor",
    "sweep",
)  # phases of the plain algorithm that do not grow with the number of packages
Model = tuple[Any, list[str], dict[str, Any]]  # pipeline, prompts, settings of its call
Measured = dict[str, list[dict[str, Any]]]  # call -> one entry a round


def measure(
    model: Model, rows: list[str], rounds: int, steps: int = STEPS, with_plain: bool = True
) -> Measured:
    """Plain inference, obsdiff and, unless told not to, the plain algorithm, as far as the rows
    need them."""
    pipe, prompts, settings = model
    component = denoiser_name(pipe, None)
    dense, settings = getattr(pipe, component), settings | {"num_inference_steps": steps}
    pipe.set_progress_bar_config(disable=True)
    calls: dict[str, Callable[[], Any]] = {"inference": partial(inference, pipe, prompts, settings)}
    calls |= {
        row: partial(prune, pipe, prompts, PruningConfig(**CONFIGS[row], **settings))
        for row in rows
    }
    once = {
        name: partial(prune_plain_, pipe, prompts, PruningConfig(**AS_PLAIN[name], **settings))
        for name in ({plain_of(row): 0 for row in rows} if with_plain else ())
    }
    found: Measured = {}
    spare = sum(
        p.numel() * p.element_size() for p in dense.parameters()
    )  # the dense weights are kept for the next call
    draw(pipe, prompts[:1], [0], settings, "np")  # warm
    for i in range(rounds):
        names = [*calls, *(once if i == 0 else ())]
        for name in names if i % 2 == 0 else reversed(names):
            setattr(pipe, component, copy.deepcopy(dense))
            figures = measured(pipe, (calls | once)[name])
            if figures["peak_bytes"]:
                figures["peak_bytes"] -= spare
            found.setdefault(name, []).append(figures)
            print(
                f"round {i + 1}: {name}: {figures['cpu']:.1f} s of CPU time, "
                f"{figures['wall']:.1f} s",
                flush=True,
            )
    setattr(pipe, component, dense)
    return found


def inference(pipe: Any, prompts: list[str], settings: dict[str, Any]) -> None:
    """Draw the prompts in batches of as many as the prunings draw together."""
    for i in range(0, len(prompts), BATCH):
        some = prompts[i : i + BATCH]
        draw(pipe, some, list(range(i, i + len(some))), settings, "latent")


def plain_of(row: str) -> str:
    return "plain, structured" if row == "whole/structured" else "plain"


def prune(pipe: Any, prompts: list[str], config: PruningConfig) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # few tokens for each column
        return prune_(pipe, prompts, config, progress=False)


def saving(model: Model) -> dict[str, float]:
    """CPU and wall seconds of saving a pruned pipeline, which no ratio counts. They do not depend
    on the mask."""
    pipe, prompts, settings = model
    component = denoiser_name(pipe, None)
    dense = getattr(pipe, component)
    setattr(pipe, component, copy.deepcopy(dense))
    report = prune(
        pipe, prompts[:1], PruningConfig(method="magnitude", num_inference_steps=1, **settings)
    )
    with tempfile.TemporaryDirectory() as folder:
        cpu, wall = time.process_time(), time.perf_counter()
        save_pruned(pipe, Path(folder) / "pruned", report)
        seconds = {"cpu": time.process_time() - cpu, "wall": time.perf_counter() - wall}
    setattr(pipe, component, dense)
    return seconds


def rows_of(found: Measured) -> list[dict[str, Any]]:
    """The rows of the table: ratios of CPU time, each to the inference of its own round."""
    base = [one["cpu"] for one in found["inference"]]
    rows = []
    for name in (name for name in found if name in CONFIGS):
        runs = [one["cpu"] / inference for one, inference in zip(found[name], base, strict=True)]
        once = found.get(plain_of(name))
        packages = 12 if name == "whole/replay-12" else PACKAGES
        plain = plain_seconds(once[0], packages) / median(base) if once else None
        rows.append(
            {
                "name": name,
                "value": median(runs),
                "target": ROWS[name].target,
                "plain": plain,
                "runs": runs,
            }
        )
    return rows


def plain_seconds(once: dict[str, Any], packages: int) -> float:
    """CPU seconds of the plain algorithm with so many packages, from the parts of its run."""
    fixed = sum(once["phases"].get(phase, 0.0) for phase in ONCE)
    return fixed + (once["cpu"] - fixed) * packages / PACKAGES


def details(found: Measured) -> dict[str, Any]:
    """Medians over the rounds of every call: CPU and wall seconds, CPU seconds by phase, peak
    bytes."""
    calls = {}
    for name, rounds in found.items():
        phases = {
            phase: median(one["phases"].get(phase, 0.0) for one in rounds)
            for phase in {p: 0 for one in rounds for p in one["phases"]}
        }
        peaks = [one["peak_bytes"] for one in rounds if one["peak_bytes"]]
        calls[name] = {
            "cpu": median(one["cpu"] for one in rounds),
            "wall": median(one["wall"] for one in rounds),
            "phases": phases,
            "peak_bytes": median(peaks) if peaks else None,
            "rounds": len(rounds),
        }
    return calls
