"""One dense pass over the calibration prompts, for several prunings of one model."""

import contextlib
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from ..config import PruningConfig
from ..errors import UserError
from ..pipelines.call import Prompt
from ..pipelines.prompt_records import prompts_hash
from ..pipelines.run import prepared
from ..runtime.distributed import Ranks
from ..runtime.progress import Progress
from ..runtime.scratch import open_scratch
from .context import CalibrationContext, CalibrationSet
from .gather import DensePass, gather
from .packages import Package, memory_for_waiting
from .plan import PruningPlan, plan_pruning


@contextlib.contextmanager
def dense_pass(
    pipe: Any,
    prompts: Sequence[Prompt],
    configs: Sequence[PruningConfig],
    *,
    progress: bool | None = None,
) -> Iterator[DensePass]:
    """Calibrate once for several configs that differ in what is pruned, not in what is drawn.

        with obsdiff.dense_pass(pipe, prompts, configs) as dense:
            for config in configs:
                obsdiff.prune_(load(), prompts, config, dense=dense)

    With calibration single the Hessians serve all of them; with replay the recording does, and the Hessians of the first
    package. What memory has no room for lies on disk until the block ends. Raises what prune_ raises.
    """
    jobs = [plan_pruning(pipe, prompts, config) for config in configs]
    first = jobs[0]
    for plan in jobs:
        require_shared(plan.config, first.config)
    if first.config.device:
        pipe.to(first.config.device)
    wanted = {
        layer for plan in jobs for package in first_packages(plan) for layer in package.layers
    }
    taps = [
        tap
        for block in first.blocks
        for unit in block.units
        for tap in unit
        if wanted & set(tap.layers)
    ]
    taps = [
        replace(tap, layers=tuple(layer for layer in tap.layers if layer in wanted)) for tap in taps
    ]
    smallest = min(memory_for_waiting(plan.config, plan.packages, plan.shapes) for plan in jobs)
    with open_scratch(smallest) as scratch:
        ranks = Ranks.here()
        shown = progress if ranks.rank == 0 else False
        with (
            prepared(pipe, first.scheduler) as run,
            Progress(shown, 1, first.calibration_set.here) as bar,
        ):
            advance = partial(bar.advance_of, run)
            context = CalibrationContext(
                run,
                first.denoiser,
                first.blocks,
                first.calibration_set,
                scratch,
                first.config.offload_device,
                advance,
                ranks,
            )
            began = time.perf_counter()
            found = gather(context, taps, first.config.calibrating)
            found.seconds = time.perf_counter() - began
        for hessian in found.hessians.values():
            hessian.share()
        yield found


def first_packages(plan: PruningPlan) -> list[Package]:
    """The packages whose Hessians a dense pass gathers: all, or for replay the first."""
    return plan.packages if plan.config.calibrating == "single" else plan.packages[:1]


WHAT_IS_DRAWN = (
    "num_prompts", "held_out", "num_inference_steps", "guidance_scale", "height", "width", "batch_size", "seed", "step_weighting",
    "step_weight_min", "step_weight_max", "target", "component", "dtype", "device", "offload_device",
)  # fmt: skip


def require_shared(config: PruningConfig, other: PruningConfig) -> None:
    """UserError unless two configs can share a dense pass."""
    if config.calibrating == "live":
        raise UserError("dense pass: calibration live has none to share; use single or replay")
    mine, theirs = (
        {"calibration": c.calibrating} | {name: getattr(c, name) for name in WHAT_IS_DRAWN}
        for c in (config, other)
    )
    for name, value in theirs.items():
        if mine[name] != value:
            raise UserError(
                f"dense pass: {name} has to be the same for all configs, found {value!r} and {mine[name]!r}"
            )


def require_fitting(dense: DensePass | None, plan: PruningPlan) -> None:
    """UserError for a dense pass that drew something else."""
    if not dense:
        return
    if (
        drawn(dense.calibration_set) != drawn(plan.calibration_set)
        or plan.config.calibrating == "live"
    ):
        raise UserError(
            "dense pass: it was made with other prompts, seeds or settings, or the config says calibration live; make it with this config"
        )
    if plan.config.calibrating == "replay" and dense.trajectory is None:
        raise UserError(
            "dense pass: it was made for calibration single and has no trajectory to replay; make it with this config"
        )


def drawn(calibration_set: CalibrationSet) -> list[Any]:
    """What two plans have in common if they draw the same."""
    return [
        (prompts_hash(part.prompts, part.seeds), replace(part, prompts=[], seeds=[], held_out=None))
        for part in calibration_set.parts
    ]
