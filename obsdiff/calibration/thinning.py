"""The tokens of each denoiser call that are kept, and the weight that keeps the Hessian unbiased.

Of the T tokens of an image k are kept, one drawn at random in each of k equal intervals, each with
the weight T / k:

    E[ T/k sum of x x^T over the kept tokens ] = sum of x x^T over all tokens

An image is one row of the denoiser's batch, in one denoiser call: a prompt in one guidance half,
with all its frames. So every prompt, step, stream and guidance half keeps tokens. k follows from a
target of tokens per column before anything runs:

    k = target x columns / (prompts x steps x guidance halves), rounded up

The random numbers depend on the prompt's seed, the step, the call within the step and the guidance
half alone: batch size, number of processes, order and resuming change nothing.

T tokens of an image, I columns of the input.
"""

import hashlib
import math
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from ..models.linear_view import token_count, tokens, tokens_at
from ..pipelines.run import Run


@dataclass
class Thinning:
    """The draw of the kept tokens, for one denoiser call after the other.

    Attributes:
        target: kept tokens per column, at least; None keeps every token.
        prompts: prompts of all processes.
        denoisers: denoisers that share the steps.
        run: the position of the call: prompts, seeds, step.
        images: rows of the denoiser's batch; the prompts of each guidance half in turn.
        number: the call within its step.
        uniforms: numbers in [0, 1) of this call, (images, k) by images and k.
        drawn: the places of the kept tokens of this call, by images, T, k and device.
    """

    target: float | None
    prompts: int
    run: Run
    denoisers: int = 1
    images: int = 1
    number: int = 0
    uniforms: dict[tuple[int, int], Tensor] = field(default_factory=dict, repr=False)
    drawn: dict[tuple[int, int, int, str], "Places"] = field(default_factory=dict, repr=False)

    def begin(self, number: int, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Begin a denoiser call.

        Args:
            number: the call within its step.
            args: the denoiser's arguments.
            kwargs: its keyword arguments.
        """
        self.number, self.images = number, batch_rows((*args, *kwargs.values()), self.run.prompts)
        self.uniforms.clear()
        self.drawn.clear()

    def kept(
        self, layer: nn.Module, x: Tensor, columns: int, routed: bool = False
    ) -> "KeptTokens | None":
        """Return which tokens of a layer's input are kept; None for all.

        Args:
            layer: a linear layer or convolution.
            x: its input.
            columns: I.
            routed: the tokens were sent to this layer one by one, so they belong to no image.
        """
        if self.target is None or routed:
            return None
        count, images = token_count(layer, x), self.images
        rows = 1 if isinstance(layer, nn.Conv2d) and x.dim() == 3 else x.shape[0]
        if rows % images and x.dim() > 2:  # a layer that reads one guidance half
            images = max(1, self.run.prompts)
        if not count or rows % images:
            return None
        each = count // images
        k = kept_of_image(
            each,
            self.target * columns,
            self.prompts * self.run.steps * halves(self.images, self.run.prompts),
            self.denoisers,
        )
        return KeptTokens(self.places(images, each, k, x.device), count) if k < each else None

    def places(self, images: int, each: int, k: int, device: torch.device) -> "Places":
        """Return the places (images k,) of the kept tokens, on the device of the input."""
        key = (images, each, k, str(device))
        if key not in self.drawn:
            places = (torch.arange(k, dtype=torch.float64) + self.uniform(images, k)) * (each / k)
            first = torch.arange(images).unsqueeze(1) * each
            found = (places.long().clamp_(max=each - 1) + first).flatten()
            self.drawn[key] = Places(found, device)
        return self.drawn[key]

    def uniform(self, images: int, k: int) -> Tensor:
        """Return the numbers (images, k) of this call, each row from its own seed."""
        if (images, k) not in self.uniforms:
            run, generator, rows = self.run, torch.Generator(), []
            assert run.seeds, "the position of a call has the seeds of its prompts"
            for image in range(images):
                half, prompt = divmod(image, len(run.seeds))
                generator.manual_seed(seed_of(run.seeds[prompt], run.step, self.number, half))
                rows.append(torch.rand(k, generator=generator, dtype=torch.float64))
            self.uniforms[images, k] = torch.stack(rows)
        return self.uniforms[images, k]


@dataclass(frozen=True)
class Places:
    """The places of kept tokens in an input, on a device as they are asked for.

    Attributes:
        index: their flat indices (n,) among all tokens of the input, on the CPU.
        device: the device of the input.
        known: what is there already, by the length of the rows; 0 for flat indices.
    """

    index: Tensor
    device: torch.device
    known: dict[int, Tensor] = field(default_factory=dict, repr=False)

    def flat(self) -> Tensor:
        """Return the flat indices (n,) on the device."""
        return self.there(0, lambda index: index)

    def in_rows(self, length: int) -> tuple[Tensor, Tensor]:
        """Return row and place in the row (n,) of each token, for rows of so many tokens."""
        pair = self.there(length, lambda index: torch.stack([index // length, index % length]))
        return pair[0], pair[1]

    def there(self, key: int, make: Callable[[Tensor], Tensor]) -> Tensor:
        """Return what is made of the indices, on the device; moved there once."""
        if key not in self.known:
            found = make(self.index)
            self.known[key] = found if self.device.type == "cpu" else moved(found, self.device)
        return self.known[key]


@dataclass(frozen=True)
class KeptTokens:
    """The kept tokens of one input.

    Attributes:
        places: where they are among all tokens of the input.
        count: the number of all tokens, which they represent.
    """

    places: Places
    count: int

    def rows(self, layer: nn.Module, x: Tensor) -> Iterator[tuple[Tensor, float]]:
        """Yield the kept tokens (n, I) in parts, each with the number of tokens it represents."""
        if not isinstance(layer, nn.Conv2d) and x.dim() == 3:
            # no copy of all tokens of a part of longer rows, such as one of two streams
            yield x[self.places.in_rows(x.shape[1])], float(self.count)
            return
        index = self.places.flat()
        for part in tokens_at(layer, x, index):
            yield part, self.count * (len(part) / len(index))


def parts_of(
    layer: nn.Module, x: Tensor, kept: KeptTokens | None
) -> Iterator[tuple[Tensor, float | None]]:
    """Yield the tokens of an input in parts: those kept with the number that they represent.

    Args:
        layer: a linear layer or convolution.
        x: its input.
        kept: the kept tokens; None yields all of them, with None for their own number.
    """
    if kept is None:
        yield from ((part, None) for part in tokens(layer, x))
    else:
        yield from kept.rows(layer, x)


def kept_of_image(each: int, wanted: float, images: int, denoisers: int = 1) -> int:
    """Return k, the number of tokens that an image keeps in one call.

    Args:
        each: T, the tokens of the image.
        wanted: kept tokens of all calls together.
        images: prompts x steps x guidance halves.
        denoisers: denoisers that share the steps.
    """
    return min(each, max(1, math.ceil(wanted * denoisers / images)))


def halves(images: int, prompts: int) -> int:
    """Return the rows of the denoiser's batch for each prompt."""
    return max(1, images // max(1, prompts))


def batch_rows(arguments: tuple[Any, ...], prompts: int) -> int:
    """Return the number of images in a denoiser call: the rows of its first tensor.

    Some denoisers read a list with a tensor for each image.

    Args:
        arguments: all arguments of the call.
        prompts: the number of prompts, returned where no argument has rows.
    """
    for value in arguments:
        if isinstance(value, Tensor) and value.dim() > 1:
            return max(1, value.shape[0])
        if isinstance(value, list | tuple) and value and isinstance(value[0], Tensor):
            return len(value)
    return max(1, prompts)


def seed_of(*numbers: int) -> int:
    """Return a seed for a random generator that depends on all of some numbers."""
    packed = struct.pack(f"<{len(numbers)}q", *numbers)
    return int.from_bytes(hashlib.blake2b(packed, digest_size=8).digest(), "little") >> 1


def moved(index: Tensor, device: torch.device) -> Tensor:
    """Return an index on another device, without waiting for that device."""
    if device.type == "cuda":
        return index.pin_memory().to(device, non_blocking=True)
    return index.to(device, non_blocking=True)
