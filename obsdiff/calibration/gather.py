"""Where the Hessians of the packages come from: three ways to calibrate.

    live     the paper's: before each package all calibration prompts are drawn anew, with the model as pruned so far
    replay   one dense trajectory is recorded, and its calls are run again package by package        (calibration/replay/run.py)
    single   one dense pass gathers every Hessian; nothing is run again

Each is a generator of {tap: Hessian}, one package after the other; whoever takes them prunes a package before asking for the
next. What does not fit in memory waits on disk. A run that goes on names the layers that are solved already: packages of nothing else
get no Hessians, and are to be pruned as they were when their turn comes, since a dense pass may come first.

The dense pass of single and replay does not depend on what is then pruned: `DensePass` keeps it, for many prunings of one model.
"""

import contextlib
from collections.abc import Callable, Iterator, Set
from dataclasses import dataclass, field
from itertools import chain

from ..errors import CalibrationError, UserError
from ..models.structure import Tap
from .context import CalibrationContext, CalibrationSet, Hessians
from .hessian import Hessian
from .hooks import calibrate
from .packages import Package
from .replay.dense_model import DenseModel
from .replay.recording import TensorCache, Trajectory
from .replay.run import record_trajectory, replay_packages, spans


@dataclass
class DensePass:
    """What one dense pass over the calibration prompts left: the Hessians by layer, each with that of the held-out prompts if there are
    any, and for replay the recorded trajectory; and the seconds that it took."""

    calibration_set: CalibrationSet
    hessians: dict[str, Hessian] = field(default_factory=dict)
    trajectory: Trajectory | None = None
    seconds: float = 0.0

    def of(self, taps: tuple[Tap, ...]) -> Hessians:
        missing = [tap.layers[0] for tap in taps if tap.layers[0] not in self.hessians]
        if missing:
            raise UserError(
                f"dense pass: it has no Hessian for {missing[0]} and {len(missing) - 1} others; give dense_pass this config as well"
            )
        return {tap: self.hessians[tap.layers[0]] for tap in taps}


def live(
    context: CalibrationContext,
    packages: list[Package],
    dense: DensePass | None = None,
    solved: Set[str] = frozenset(),
) -> Iterator[Hessians]:
    """The paper's: every package draws all calibration prompts anew."""
    for package in packages:
        if solved >= set(package.layers):
            yield {}
        else:
            yield context.added_up(
                calibrate(
                    context.run,
                    context.denoiser,
                    list(package.taps),
                    context.calibration_set,
                    context.device,
                    context.on_call,
                )
            )


def single(
    context: CalibrationContext,
    packages: list[Package],
    dense: DensePass | None = None,
    solved: Set[str] = frozenset(),
) -> Iterator[Hessians]:
    """Everything from one dense pass."""
    wanted = [
        [tap for tap in package.taps if not solved >= set(tap.layers)] for package in packages
    ]
    own = dense or (
        gather(context, list(chain(*wanted)), "single")
        if any(wanted)
        else DensePass(context.calibration_set)
    )
    for taps in wanted:
        yield own.of(tuple(taps))


def replay(
    context: CalibrationContext,
    packages: list[Package],
    dense: DensePass | None = None,
    solved: Set[str] = frozenset(),
) -> Iterator[Hessians]:
    """The first package from the dense pass, the others by replay."""
    done = leading(packages, solved)
    if done == len(packages):
        yield from ({} for _ in packages)
        return
    first, begin = () if done else packages[0].taps, max(1, done)
    own = dense or gather(context, list(first), "replay")
    dense_model = (
        DenseModel(
            context.run, context.denoiser, own.trajectory, packages, spans(packages, own.trajectory)
        )
        if context.asymmetric
        else None
    )
    with contextlib.closing(dense_model) if dense_model else contextlib.nullcontext():
        if dense_model:
            dense_model.begin(begin)
        yield own.of(first)
        if not dense:
            own.hessians.clear()
        yield from ({} for _ in packages[1:done])
        for found in replay_packages(
            context.run,
            context.denoiser,
            own.trajectory,
            packages,
            context.calibration_set,
            context.device,
            context.on_call,
            begin,
            dense_model,
        ):
            yield context.added_up(found)


def leading(packages: list[Package], solved: Set[str]) -> int:
    """How many packages, from the first on, are solved."""
    return next(
        (i for i, package in enumerate(packages) if not solved >= set(package.layers)),
        len(packages),
    )


GATHER: dict[str, Callable[..., Iterator[Hessians]]] = {
    "live": live,
    "replay": replay,
    "single": single,
}


def gather(context: CalibrationContext, taps: list[Tap], calibration: str) -> DensePass:
    """One dense pass: the Hessians of the taps, and for replay the recorded trajectory."""
    trajectory = None
    if calibration == "replay":
        cache = TensorCache(context.scratch, context.device)
        trajectory, found = record_trajectory(
            context.run,
            context.denoiser,
            context.blocks,
            taps,
            context.calibration_set,
            cache,
            context.device,
            context.on_call,
        )
    else:
        found = calibrate(
            context.run,
            context.denoiser,
            taps,
            context.calibration_set,
            context.device,
            context.on_call,
            scratch=context.scratch,
        )
    context.added_up(found)
    if context.calibration_set.held_out:
        for tap, hessian in held_out(context, taps).items():
            found[tap].held_out = hessian
    return DensePass(
        context.calibration_set,
        {layer: hessian for tap, hessian in found.items() for layer in tap.layers},
        trajectory,
    )


def held_out(context: CalibrationContext, taps: list[Tap]) -> Hessians:
    """The Hessians of the prompts that are kept apart, in the same dense pass after the others."""
    try:
        return context.added_up(
            calibrate(
                context.run,
                context.denoiser,
                taps,
                context.calibration_set.held_out,
                context.device,
                context.on_call,
                scratch=context.scratch,
            )
        )
    except CalibrationError as error:
        raise CalibrationError(f"held-out prompts: {error}") from None
