"""Checks of the inputs that a calibration sums, without waiting for the device in each call.

What a check finds stays on the device until the step is over; then all of it is read at once.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ..errors import CalibrationError

# The squares of inputs in this range, and sums of thousands of them, are finite in float32.
LARGEST_INPUT, SMALLEST_INPUT = 1e15, 1e-15


@dataclass
class InputChecks:
    """Numbers on the device, each with a function that raises an error for a wrong one.

    Attributes:
        pending: the numbers that have not been read yet, in the order of the calls.
    """

    pending: list[tuple[Tensor, Callable[[float], None]]] = field(default_factory=list)

    def summable(self, tokens: Tensor, layer: str, step: int) -> None:
        """Check later that tokens have no inf or NaN, and squares that float32 can sum."""
        if tokens.numel():
            largest = largest_magnitude(tokens.detach())
            self.pending.append((largest, lambda size: require_summable(size, layer, step)))

    def same(self, x: Tensor, other: Tensor, layer: str, reader: str) -> None:
        """Check, at once or later, that two layers read one tensor or equal ones.

        Args:
            x: the input of `layer`, which may be a cast to another number format.
            other: the input of `reader`.
            layer: the layer.
            reader: the layer that read first.
        """
        if x is other or same_memory(x, other):
            return
        if x.shape != other.shape:
            require_same(1.0, layer, reader)
        differ = (x != other.to(x.device)).any().float()
        self.pending.append((differ, lambda found: require_same(found, layer, reader)))

    def settle(self) -> None:
        """Read all numbers, and raise CalibrationError for the first wrong one."""
        pending, self.pending = self.pending, []
        by_device: dict[torch.device, list[int]] = {}
        for i, (number, _) in enumerate(pending):
            by_device.setdefault(number.device, []).append(i)
        read = [0.0] * len(pending)
        for places in by_device.values():
            numbers = torch.stack([pending[i][0].float() for i in places]).tolist()
            for i, value in zip(places, numbers, strict=True):
                read[i] = value
        for found, (_, require) in zip(read, pending, strict=True):
            require(found)


def largest_magnitude(x: Tensor) -> Tensor:
    """Return the largest magnitude in a tensor, a scalar; NaN if it has one.

    vector_norm is one launch on a device; on a CPU it takes 20 times as long as aminmax.
    """
    if x.device.type == "cpu":
        least, greatest = torch.aminmax(x)
        return torch.maximum(-least, greatest)
    wide = torch.promote_types(x.dtype, torch.float32)
    return torch.linalg.vector_norm(x, math.inf, dtype=wide)


def require_summable(size: float, layer: str, step: int) -> None:
    """Raise CalibrationError for a largest magnitude that is not finite, or can't be summed."""
    if not math.isfinite(size):
        raise CalibrationError(
            f"{layer}: the input of step {step} has inf or NaN; try another --dtype "
            "(float16 overflows where bfloat16 does not)"
        )
    if size > LARGEST_INPUT or 0 < size < SMALLEST_INPUT:
        raise CalibrationError(
            f"{layer}: the input of step {step} is up to {size:.1e}: expected between "
            f"{SMALLEST_INPUT:g} and {LARGEST_INPUT:g}, or its squares are lost; "
            f"leave the layer out with --exclude '{layer}'"
        )


def require_same(differ: float, layer: str, reader: str) -> None:
    """Raise CalibrationError if the inputs of two layers differ."""
    if differ:
        raise CalibrationError(
            f"{layer} and {reader}: expected one tensor as the input of both, "
            "found that their inputs differ"
        )


def same_memory(x: Tensor, other: Tensor) -> bool:
    """Return whether two tensors are the same numbers in memory."""
    return (x.data_ptr(), x.shape, x.stride(), x.dtype) == (
        other.data_ptr(),
        other.shape,
        other.stride(),
        other.dtype,
    )
