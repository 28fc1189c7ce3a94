"""Calibration by replay: one dense trajectory is recorded, and its denoiser calls are run again package by package.

Package after package, every recorded call goes on from the border where the last one stopped: the blocks of the last
package run once more, pruned now, then those of this package, whose Hessians are gathered. Their inputs are the pruned
model's, as in the paper's algorithm; the denoiser's own inputs stay those of the dense trajectory. So every block runs
about twice in all, however many packages there are, and the first package's Hessians come with the recording.

For asymmetric calibration the dense model goes along, one more run of every block (calibration/replay/dense_model.py): each Hessian then has
the cross sums of its inputs with what the dense model's were (calibration/hessian.py).
"""

import contextlib
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from torch import nn

from ...errors import CalibrationError
from ...models.structure import Block, Tap
from ...pipelines.run import Run, hooked
from ..context import CalibrationSet
from ..hessian import Hessian
from ..hooks import CallAudit, calibrate, new_hessians, tapped
from ..packages import Package
from .dense_model import DenseModel
from .recording import Recording, TensorCache, Trajectory, recorded, rerun
from .segments import CallOrder, StopForward, needed_until


def record_trajectory(
    run: Run,
    denoiser: nn.Module,
    blocks: list[Block],
    taps: list[Tap],
    calibration_set: CalibrationSet,
    cache: TensorCache,
    device: str | None,
    on_call: Callable[[int], None],
) -> tuple[Trajectory, dict[Tap, Hessian]]:
    """Draw all calibration prompts with the dense model; the Hessians of `taps` come along."""
    recording, order = Recording(cache), CallOrder(blocks)
    with recorded(run, denoiser, recording), order.watched(denoiser):
        audit = CallAudit()
        hessians = calibrate(run, denoiser, taps, calibration_set, device, on_call, audit)
    recording.steps, recording.others = run.steps, audit.others
    trajectory = Trajectory(recording, order, why_not=order.why_not())
    if not trajectory.why_not:
        trajectory.until = needed_until(denoiser, order, cache.get_all(recording.calls[0].inputs))
    return trajectory, hessians


def spans(packages: list[Package], trajectory: Trajectory) -> list[tuple[int, int]]:
    """First and last segment of each package, by their places. CalibrationError if they can't be run one after the other."""
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
            f"calibration replay can't run this model block by block: {why_not}; take live or single"
        )
    return found


def replay_packages(
    run: Run,
    denoiser: nn.Module,
    trajectory: Trajectory,
    packages: list[Package],
    calibration_set: CalibrationSet,
    device: str | None,
    on_call: Callable[[int], None],
    begin: int = 1,
    dense: DenseModel | None = None,
) -> Iterator[dict[Tap, Hessian]]:
    """The Hessians of packages `begin`, begin + 1, ...; whoever takes them prunes package i before asking for those of i + 1, and has
    pruned those before `begin`. With `dense`, which stands before package `begin`, they have cross sums."""
    reach = spans(packages, trajectory)
    trajectory.outputs = [{} for _ in trajectory.recording.calls]
    run.recorded_steps = trajectory.recording.steps
    try:
        starts = [
            0,
            *(first for first, _ in reach[begin:]),
        ]  # nothing is on the shelf before the first replay, whatever blocks stay dense
        for index, (start, (border, last)) in enumerate(
            zip(starts, reach[begin:], strict=False), begin
        ):
            package = packages[index]
            hessians = new_hessians(denoiser, list(package.taps), device, crossed=dense is not None)
            audit = CallAudit(others=trajectory.recording.others.copy())
            for number in range(len(trajectory.recording.calls)):
                seen = dense.read(number, index) if dense else {}
                with (
                    tapped(
                        run, denoiser, hessians, audit, calibration_set.weighting, on_call, seen
                    ),
                    stopped_early(denoiser, trajectory, package),
                ):
                    rerun(run, denoiser, trajectory, number, start, border, last)
            audit.check(list(package.layers), run.steps, calibration_set.ranks)
            if dense:
                dense.go_on(index + 1)
            yield hessians
    finally:
        run.recorded_steps = None
        trajectory.clear()


@contextlib.contextmanager
def stopped_early(denoiser: nn.Module, trajectory: Trajectory, package: Package) -> Iterator[None]:
    """Calls end as soon as every layer of the package has its input, before the last of them computes; only where each of them is
    called once in every call."""
    calls, left = len(trajectory.recording.calls), set()
    if any(trajectory.order.layers[layer] != calls for layer in package.layers):
        yield
        return

    def begin(*_: Any) -> None:
        left.update(package.layers)

    def seen(layer: str, *_: Any) -> None:
        left.discard(layer)
        if not left:
            raise StopForward

    hooks = [
        (denoiser, begin),
        *((denoiser.get_submodule(layer), partial(seen, layer)) for layer in package.layers),
    ]
    with hooked(module.register_forward_pre_hook(hook) for module, hook in hooks):
        yield
