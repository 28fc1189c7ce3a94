"""One dense pass over the calibration prompts, for several prunings of one model."""

import contextlib
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from ..config import PruningConfig
from ..config.choices import CALL_SETTINGS
from ..errors import UserError
from ..pipelines.call import Prompt
from ..pipelines.placement import placed
from ..pipelines.prompt_records import prompts_hash
from ..runtime.display import current
from ..runtime.distributed import Ranks
from ..runtime.scratch import open_scratch
from ..runtime.torch_state import plain_torch
from .calibration_set import CalibrationSet
from .context import prepared_run
from .devices import device_rooms
from .gather import DENSE_PASS, DensePass, gather_dense
from .packages import Package, scratch_room
from .plan import PruningPlan, plan_pruning


@contextlib.contextmanager
def dense_pass(
    pipe: Any,
    prompts: Sequence[Prompt],
    configs: Sequence[PruningConfig],
    *,
    progress: bool | None = None,
) -> Iterator[DensePass]:
    """Calibrate once for several configs with the same prompts, seeds and call settings.

        with obsdiff.dense_pass(pipe, prompts, configs) as dense:
            for config in configs:
                obsdiff.prune_(load(), prompts, config, dense=dense)

    With calibration single all configs share the Hessians; with replay they share the recording and
    the Hessians of the first package. Tensors that exceed the memory are stored in files until the
    block ends.

    Args:
        pipe: the diffusers pipeline.
        prompts: the calibration prompts.
        configs: the prunings that will read the pass.
        progress: False shows nothing; see `prune_`.

    Raises:
        UserError: the configs cannot share a pass, or the input cannot be used.
        CalibrationError: the calibration is not complete or not finite, with the layer's name.
    """
    if not configs:
        raise UserError("dense pass: expected at least one config, found none")
    with plain_torch(), contextlib.ExitStack() as files:
        dense = one_pass(pipe, prompts, configs, files, progress)
        kept = files.pop_all()
    with kept:
        yield dense


def one_pass(
    pipe: Any,
    prompts: Sequence[Prompt],
    configs: Sequence[PruningConfig],
    files: contextlib.ExitStack,
    progress: bool | None,
) -> DensePass:
    """Calibrate once for several configs; the tensors are there until `files` closes."""
    plans = [plan_pruning(pipe, prompts, config) for config in configs]
    first = plans[0]
    for plan in plans:
        require_shared(plan.config, first.config)
    wanted = {
        layer for plan in plans for package in first_packages(plan) for layer in package.layers
    }
    taps = [
        replace(tap, layers=tuple(layer for layer in tap.layers if layer in wanted))
        for block in first.blocks
        for unit in block.units
        for tap in unit
        if wanted & set(tap.layers)
    ]
    room = min(scratch_room(plan.config, plan.packages, plan.shapes) for plan in plans)
    ranks = Ranks.here()
    with placed(pipe, first.component, first.config):
        rooms = device_rooms(pipe, plans, ranks)
        scratch = files.enter_context(open_scratch(ranks.least(room), rooms))
        with prepared_run(pipe, first, scratch, progress=progress) as context:
            current().plan(DENSE_PASS, first.calibration_set.here, unit="prompts", repeats=1)
            began = time.perf_counter()
            dense = gather_dense(context, taps, first.config.calibrating)
            dense.seconds = time.perf_counter() - began
    for calibrated in dense.inputs.values():
        calibrated.share()
    return dense


def first_packages(plan: PruningPlan) -> list[Package]:
    """Return the packages whose Hessians a dense pass sums: all, or for replay the first."""
    return plan.packages if plan.config.calibrating == "single" else plan.packages[:1]


SHARED_SETTINGS = (
    *("num_prompts", "held_out", *CALL_SETTINGS, "step_share", "batch_size", "seed"),
    *("step_weighting", "step_weight_min", "step_weight_max", "tokens_per_column"),
    *("target", "component", "dtype", "device", "offload", "offload_device"),
)


def require_shared(config: PruningConfig, other: PruningConfig) -> None:
    """Raise UserError unless two configs can share a dense pass."""
    require_layerwise(config)
    if config.calibrating == "live":
        raise UserError("dense pass: calibration live has none to share; use single or replay")
    mine, theirs = (
        {"calibration": c.calibrating} | {name: getattr(c, name) for name in SHARED_SETTINGS}
        for c in (config, other)
    )
    for name, value in theirs.items():
        if mine[name] != value:
            raise UserError(
                f"dense pass: {name} has to be the same for all configs, "
                f"found {value!r} and {mine[name]!r}"
            )


def require_layerwise(config: PruningConfig) -> None:
    """Raise UserError for a pruning that has no Hessians."""
    if not config.layerwise:
        what = "pattern depth" if config.depth else "target modulation"
        raise UserError(f"dense pass: {what} has no Hessians to share; prune without one")


def require_fitting(dense: DensePass | None, plan: PruningPlan) -> None:
    """Raise UserError for a dense pass of other prompts or settings.

    Args:
        dense: the pass; None is not checked.
        plan: the pruning that would use it.
    """
    if not dense:
        return
    require_layerwise(plan.config)
    if (
        drawn(dense.calibration_set) != drawn(plan.calibration_set)
        or plan.config.calibrating == "live"
    ):
        raise UserError(
            "dense pass: it was made with other prompts, seeds or settings, "
            "or the config says calibration live; make it with this config"
        )
    if plan.config.calibrating == "replay" and dense.trajectory is None:
        raise UserError(
            "dense pass: it was made for calibration single and has no trajectory to replay; "
            "make it with this config"
        )


def drawn(calibration_set: CalibrationSet) -> list[Any]:
    """Return the values that decide which pictures a calibration set draws, for a comparison."""
    return [
        (prompts_hash(part.prompts, part.seeds), replace(part, prompts=[], seeds=[], held_out=None))
        for part in calibration_set.parts
    ]
