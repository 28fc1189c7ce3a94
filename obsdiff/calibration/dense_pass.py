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
from ..runtime.scratch import store
from .context import Plan, Site
from .gather import DensePass, gather
from .packages import Package, room
from .plan import Job, job_of


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
    jobs = [job_of(pipe, prompts, config) for config in configs]
    first = jobs[0]
    for job in jobs:
        require_shared(job.config, first.config)
    if first.config.device:
        pipe.to(first.config.device)
    wanted = {layer for job in jobs for package in first_packages(job) for layer in package.layers}
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
    smallest = min(room(job.config, job.packages, job.linears) for job in jobs)
    with store(smallest) as waiting:
        ranks = Ranks.here()
        shown = progress if ranks.rank == 0 else False
        with prepared(pipe, first.scheduler) as run, Progress(shown, 1, first.plan.here) as bar:
            advance = partial(bar.advance_of, run)
            site = Site(
                run,
                first.denoiser,
                first.blocks,
                first.plan,
                waiting,
                first.config.offload_device,
                advance,
                ranks,
            )
            began = time.perf_counter()
            found = gather(site, taps, first.config.calibrating)
            found.seconds = time.perf_counter() - began
        for hessian in found.hessians.values():
            hessian.share()
        yield found


def first_packages(job: Job) -> list[Package]:
    """The packages whose Hessians a dense pass gathers: all, or for replay the first."""
    return job.packages if job.config.calibrating == "single" else job.packages[:1]


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


def require_fitting(dense: DensePass | None, job: Job) -> None:
    """UserError for a dense pass that drew something else."""
    if not dense:
        return
    if drawn(dense.plan) != drawn(job.plan) or job.config.calibrating == "live":
        raise UserError(
            "dense pass: it was made with other prompts, seeds or settings, or the config says calibration live; make it with this config"
        )
    if job.config.calibrating == "replay" and dense.trajectory is None:
        raise UserError(
            "dense pass: it was made for calibration single and has no trajectory to replay; make it with this config"
        )


def drawn(plan: Plan) -> list[Any]:
    """What two plans have in common if they draw the same."""
    return [
        (prompts_hash(part.prompts, part.seeds), replace(part, prompts=[], seeds=[], held_out=None))
        for part in plan.parts
    ]
