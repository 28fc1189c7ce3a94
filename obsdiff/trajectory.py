"""A recorded dense trajectory, and how one of its denoiser calls is run again from one segment to another."""

import contextlib
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import nn

from .chain import Order, Stop, answering
from .recording import Call, Recording
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

    def clear(self) -> None:
        """Take everything off the shelf but the recording."""
        for outputs in self.outputs:
            self.recording.shelf.drop_all(list(outputs.values()))
        self.outputs = []


def again(
    run: Run,
    denoiser: nn.Module,
    trajectory: Trajectory,
    number: int,
    start: int,
    border: int,
    last: int,
) -> None:
    """Run one recorded call from segment `start` to `last`, and keep what those before `border` give: they never change again. All before
    `start` answer from the shelf."""
    call: Call = trajectory.recording.calls[number]
    shelf, order, outputs, until = (
        trajectory.recording.shelf,
        trajectory.order,
        trajectory.outputs[number],
        trajectory.until,
    )

    def answer(place: int) -> Any:
        if place not in outputs and until[place] >= start:
            raise RuntimeError(
                f"replay lost what {order.names[place]} gave, which a later block needs"
            )
        return shelf.get_all(outputs[place]) if place in outputs else order.stand_in(number, place)

    def keep(place: int, module: nn.Module, args: Any, output: Any) -> None:
        if until[place] >= border:
            outputs[place] = shelf.put_all(output)

    def stop() -> None:
        raise Stop

    hooks = (
        denoiser.get_submodule(order.names[i]).register_forward_hook(partial(keep, i))
        for i in range(start, border)
    )
    answers = {i: partial(answer, i) for i in range(start)} | dict.fromkeys(
        range(last + 1, len(order.names)), stop
    )
    run.step, run.prompts = call.step, call.prompts
    args, kwargs = shelf.get_all(call.inputs)
    with (
        hooked(hooks),
        answering(denoiser, order.names, answers),
        torch.no_grad(),
        contextlib.suppress(Stop),
    ):
        denoiser(*args, **kwargs)
    for place in [place for place in outputs if until[place] < border]:
        shelf.drop_all(outputs.pop(place))
