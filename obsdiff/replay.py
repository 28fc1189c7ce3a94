"""Calibration by replay: one dense trajectory is recorded, and its denoiser calls are run again package by package.

Package after package, every recorded call goes on from the border where the last one stopped: the blocks of the last
package run once more, pruned now, then those of this package, whose Hessians are gathered. Their inputs are the pruned
model's, as in the paper's algorithm; the denoiser's own inputs stay those of the dense trajectory. So every block runs
about twice in all, however many packages there are, and the first package's Hessians come with the recording.
"""

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import nn

from .architectures import Block, Tap, segment_of
from .calibration import Account, Plan, calibrate, new_hessians, tapped
from .chain import Order, Stop, answering, needed_until
from .errors import CalibrationError
from .hessian import Hessian
from .packages import Package
from .recording import Call, Recording, Shelf, recorded
from .running import Run, hooked


@dataclass
class Trajectory:
    """A recorded dense trajectory: the calls, the segments they went through, how long each segment's output is needed, and for
    every call the outputs that are on the shelf now, by the segment's place. `why_not` says why it can't be replayed."""

    recording: Recording
    order: Order
    until: list[int] = field(default_factory=list)
    outputs: list[dict[int, Any]] = field(default_factory=list)
    why_not: str | None = None


def record(
    run: Run, denoiser: nn.Module, blocks: list[Block], taps: list[Tap], plan: Plan, shelf: Shelf, device: str | None, on_call: Callable[[int], None]
) -> tuple[Trajectory, dict[Tap, Hessian]]:
    """Draw all calibration prompts with the dense model; the Hessians of `taps` come along."""
    recording, order = Recording(shelf), Order(blocks)
    with recorded(run, denoiser, recording), order.watched(denoiser):
        account = Account()
        hessians = calibrate(run, denoiser, taps, plan, device, on_call, account)
    recording.steps, recording.others = run.steps, account.others
    trajectory = Trajectory(recording, order, why_not=order.why_not())
    if not trajectory.why_not:
        trajectory.until = needed_until(denoiser, order, shelf.get_all(recording.calls[0].inputs))
    return trajectory, hessians


def spans(packages: list[Package], trajectory: Trajectory) -> list[tuple[int, int]]:
    """First and last segment of each package, by their places. CalibrationError if they can't be run one after the other."""
    places = {name: i for i, name in enumerate(trajectory.order.names)}
    why_not, found = trajectory.why_not, []
    if not why_not:
        inside = [[places[segment_of(layer)] for layer in package.layers] for package in packages]
        found = [(min(some), max(some)) for some in inside]
        if found != sorted(found):
            why_not = "its packages do not follow the order in which its blocks are called"
    if why_not:
        raise CalibrationError(f"calibration replay can't run this model block by block: {why_not}; take live or single")
    return found


def replayed(
    run: Run,
    denoiser: nn.Module,
    trajectory: Trajectory,
    packages: list[Package],
    plan: Plan,
    device: str | None,
    on_call: Callable[[int], None],
    begin: int = 1,
) -> Iterator[dict[Tap, Hessian]]:
    """The Hessians of packages `begin`, begin + 1, ...; whoever takes them prunes package i before asking for those of i + 1, and has
    pruned those before `begin`."""
    reach = spans(packages, trajectory)
    trajectory.outputs = [{} for _ in trajectory.recording.calls]
    run.recorded_steps = trajectory.recording.steps
    try:
        starts = [0, *(first for first, _ in reach[begin:])]  # nothing is on the shelf before the first replay, whatever blocks stay dense
        for start, (border, last), package in zip(starts, reach[begin:], packages[begin:], strict=False):
            hessians = new_hessians(denoiser, list(package.taps), device)
            account = Account(others=trajectory.recording.others.copy())
            with tapped(run, denoiser, hessians, account, plan.weighting, on_call), stopped_early(denoiser, trajectory, package):
                for number in range(len(trajectory.recording.calls)):
                    again(run, denoiser, trajectory, number, start, border, last)
            account.settle(list(package.layers), run.steps, plan.ranks)
            yield hessians
    finally:
        run.recorded_steps = None
        for outputs in trajectory.outputs:
            trajectory.recording.shelf.drop_all(list(outputs.values()))
        trajectory.outputs = []


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
            raise Stop

    hooks = [(denoiser, begin), *((denoiser.get_submodule(layer), partial(seen, layer)) for layer in package.layers)]
    with hooked(module.register_forward_pre_hook(hook) for module, hook in hooks):
        yield


def again(run: Run, denoiser: nn.Module, trajectory: Trajectory, number: int, start: int, border: int, last: int) -> None:
    """Run one recorded call from segment `start` to `last`, and keep what those before `border` give: they never change again."""
    call: Call = trajectory.recording.calls[number]
    shelf, order, outputs, until = trajectory.recording.shelf, trajectory.order, trajectory.outputs[number], trajectory.until

    def answer(place: int) -> Any:
        if place not in outputs and until[place] >= start:
            raise RuntimeError(f"replay lost what {order.names[place]} gave, which a later block needs")
        return shelf.get_all(outputs[place]) if place in outputs else order.stand_in(number, place)

    def keep(place: int, module: nn.Module, args: Any, output: Any) -> None:
        if until[place] >= border:
            outputs[place] = shelf.put_all(output)

    def stop() -> None:
        raise Stop

    hooks = (denoiser.get_submodule(order.names[i]).register_forward_hook(partial(keep, i)) for i in range(start, border))
    answers = {i: partial(answer, i) for i in range(start)} | dict.fromkeys(range(last + 1, len(order.names)), stop)
    run.step, run.prompts = call.step, call.prompts
    args, kwargs = shelf.get_all(call.inputs)
    with hooked(hooks), answering(denoiser, order.names, answers), torch.no_grad(), contextlib.suppress(Stop):
        denoiser(*args, **kwargs)
    for place in [place for place in outputs if until[place] < border]:
        shelf.drop_all(outputs.pop(place))
