"""Calibration by replay: one dense trajectory is recorded, and its calls run again by package.

Every recorded call continues from the border where the last package stopped: the blocks of the
last package run once more, now pruned, then those of this package, whose Hessians are summed.
Their inputs are the pruned model's, as in the paper's algorithm; the denoiser's own inputs remain
those of the dense trajectory. So every block runs about twice in all, for any number of packages,
and the Hessians of the first package are summed during the recording.

For asymmetric calibration the dense model runs beside it, one more run of every block
(dense_model.py): each input then has the cross sums with the dense model's (calibrated_input.py).
"""

import contextlib
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from torch import nn

from ...errors import CalibrationError
from ...models.structure import Tap
from ...pipelines.run import hooked
from ..call_audit import CallAudit
from ..context import CalibratedInputs, CalibrationContext
from ..hooks import calibrate, new_inputs, tapped
from ..packages import Package
from .dense_model import DenseModel
from .recording import Recording, Span, TensorCache, Trajectory, recorded, rerun
from .segments import CallOrder, StopForward, needed_until


def record_trajectory(
    context: CalibrationContext, taps: list[Tap]
) -> tuple[Trajectory, CalibratedInputs]:
    """Run all calibration prompts with the dense model, and record the denoiser's calls.

    Returns:
        The trajectory, and the sums of `taps`.
    """
    cache = TensorCache(context.scratch, context.device)
    recording, order, audit = Recording(cache), CallOrder(context.blocks), CallAudit()
    with recorded(context.run, context.denoiser, recording), order.watched(context.denoiser):
        inputs = calibrate(context, taps, audit=audit)
    recording.steps, recording.others = context.run.steps, audit.others
    trajectory = Trajectory(recording, order, why_not=order.why_not())
    if not trajectory.why_not:
        trajectory.until = all_until(context.denoiser, order, recording)
    return trajectory, inputs


def all_until(denoiser: nn.Module, order: CallOrder, recording: Recording) -> list[list[int]]:
    """Return `needed_until` of every call, computed once for calls of the same segments."""
    found: dict[tuple[str, ...], list[int]] = {}
    for number, (names, call) in enumerate(zip(order.calls, recording.calls, strict=True)):
        if tuple(names) not in found:
            inputs = recording.cache.get_all(call.inputs)
            found[tuple(names)] = needed_until(denoiser, order, inputs, number)
    return [found[tuple(names)] for names in order.calls]


def package_spans(packages: list[Package], trajectory: Trajectory) -> list[tuple[int, int]]:
    """Return the indices of the first and last segment of each package.

    Raises:
        CalibrationError: the packages cannot run one after the other.
    """
    places = {name: i for i, name in enumerate(trajectory.order.names)}
    why_not, found = trajectory.why_not, []
    if not why_not:
        inside = [
            [places[trajectory.order.segments[layer]] for layer in package.layers]
            for package in packages
        ]
        found = [(min(some), max(some)) for some in inside]
        if found != sorted(found):
            why_not = "its packages do not follow the order in which its blocks are called"
    if why_not:
        raise CalibrationError(
            f"calibration replay can't run this model block by block: {why_not}; use live or single"
        )
    return found


def replay_packages(
    context: CalibrationContext,
    trajectory: Trajectory,
    packages: list[Package],
    begin: int = 1,
    dense: DenseModel | None = None,
) -> Iterator[CalibratedInputs]:
    """Yield the sums of packages `begin`, begin + 1, ...

    Args:
        context: the calibration context.
        trajectory: the recorded trajectory.
        packages: all packages; the caller has pruned those before `begin`, and prunes package i
            before it requests those of i + 1.
        begin: the index of the first package to run.
        dense: the dense model, at package `begin`, for cross sums.
    """
    spans = package_spans(packages, trajectory)
    trajectory.outputs = [{} for _ in trajectory.recording.calls]
    calls = range(len(trajectory.recording.calls))
    # The first replay starts at the denoiser's inputs: no output is cached before it.
    starts = [0, *(first for first, _ in spans[begin:])]
    try:
        with context.run.recorded(trajectory.recording.steps):
            for index, (start, (border, last)) in enumerate(
                zip(starts, spans[begin:], strict=False), begin
            ):
                package = packages[index]
                audit = CallAudit(others=trajectory.recording.others.copy())
                inputs = new_inputs(context, list(package.taps), crossed=dense is not None)
                for call in calls:
                    seen = dense.read(call, index) if dense else {}
                    with (
                        tapped(context, inputs, audit, seen),
                        stopped_early(context.denoiser, trajectory, package),
                    ):
                        rerun(context, trajectory, call, Span(start, border, last))
                audit.check(list(package.layers), context.run.steps, context.calibration_set.ranks)
                if dense:
                    dense.advance(index + 1)
                yield inputs
    finally:
        trajectory.clear()


@contextlib.contextmanager
def stopped_early(denoiser: nn.Module, trajectory: Trajectory, package: Package) -> Iterator[None]:
    """End each call as soon as every layer of the package has its input.

    The last of them does not compute. If a layer is not called once in every denoiser call, the
    calls run to their end.
    """
    calls = len(trajectory.recording.calls)
    left: set[str] = set()
    if any(trajectory.order.layers[layer] != calls for layer in package.layers):
        yield
        return

    def begin(*_: Any) -> None:
        left.update(package.layers)

    def seen(layer: str, *_: Any) -> None:
        left.discard(layer)
        if not left:
            raise StopForward

    hooks: list[tuple[nn.Module, Callable]] = [
        (denoiser, begin),
        *((denoiser.get_submodule(layer), partial(seen, layer)) for layer in package.layers),
    ]
    with hooked(module.register_forward_pre_hook(hook) for module, hook in hooks):
        yield
