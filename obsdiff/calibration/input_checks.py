"""Checks of the inputs that a calibration sums, without waiting for the device in each call.

What a check finds stays on the device until the step is over; then all of it is read at once. An
accelerator, whose launches count, has a norm of every token, which serves to count distinct tokens,
too (hessian.py); a CPU finds the largest magnitude.
"""

import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ..errors import CalibrationError

# The squares of inputs in this range, and sums of thousands of them, are finite in float32.
LARGEST_INPUT, SMALLEST_INPUT = 1e15, 1e-15


@dataclass
class InputChecks:
    """Numbers on the device, with a function that raises an error if the largest is wrong.

    Attributes:
        pending: the numbers that have not been read yet, a tensor a check, in the order of the
            calls.
    """

    pending: list[tuple[Tensor, Callable[[float], None]]] = field(default_factory=list)

    def summable(self, tokens: Tensor, layer: str, step: int, norms: Tensor | None = None) -> None:
        """Check later that tokens have no inf or NaN, and squares that float32 can sum.

        Args:
            tokens: the tokens (T, I).
            layer: the layer that reads them.
            step: the step, from 1.
            norms: a norm (T,) of each, which no magnitude exceeds; None: the largest magnitude is
                found here.
        """
        if tokens.numel():
            sizes = largest_magnitude(tokens.detach()) if norms is None else norms
            self.pending.append((sizes, lambda size: require_summable(size, layer, step)))

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
        found = largest_of([numbers for numbers, _ in pending])
        for size, (_, require) in zip(found, pending, strict=True):
            require(size)


def largest_of(tensors: list[Tensor]) -> list[float]:
    """Return the largest number of each tensor, NaN if it has one, with one wait for each device.

    Args:
        tensors: scalars, or vectors of at least one number.
    """
    found = [0.0] * len(tensors)
    for device in dict.fromkeys(numbers.device for numbers in tensors):
        places = [i for i, numbers in enumerate(tensors) if numbers.device == device]
        places.sort(key=lambda i: tensors[i].numel())
        sizes = [tensors[i].numel() for i in places]
        together = torch.cat([tensors[i].reshape(-1).float() for i in places])
        parts = together.split([size * count for size, count in Counter(sizes).items()])
        rows = [part.view(-1, size) for part, size in zip(parts, dict.fromkeys(sizes), strict=True)]
        values = torch.cat([row.amax(1) if row.shape[1] > 1 else row[:, 0] for row in rows])
        for i, value in zip(places, values.tolist(), strict=True):
            found[i] = value
    return found


def largest_magnitude(x: Tensor) -> Tensor:
    """Return the largest magnitude in a tensor, a scalar; NaN if it has one."""
    least, greatest = torch.aminmax(x)  # on a CPU 20 times as fast as vector_norm
    return torch.maximum(-least, greatest)


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
