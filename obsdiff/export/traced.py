"""Stand-ins for tensors that record where their rows come from.

The converters of diffusers turn the tensors of a model's authors into its own. Run on stand-ins,
a converter tells which rows of which tensor each result consists of, and needs no weights.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch

WHOLE = (0, 1)  # the first of one equal part

# source, index, count: the index-th of `count` parts of the source's rows
Rows = tuple[tuple[str, int, int], ...]
AS_IT_IS, TRANSPOSED, CONVOLUTION = "as it is", "transposed", "convolution"


class Untraceable(Exception):
    """A converter did something to a tensor that is not followed here."""


class Traced:
    """A tensor of the authors, or what a converter made of some of them.

    Attributes:
        rows: the parts that its rows are, in their order.
        shape: its shape; (0,) if it is not known.
        form: AS_IT_IS; TRANSPOSED; CONVOLUTION for a matrix that was a convolution of one pixel.
    """

    def __init__(self, rows: Rows, shape: Sequence[int] = (0,), form: str = AS_IT_IS) -> None:
        self.rows, self.shape, self.form = rows, tuple(shape), form

    @property
    def ndim(self) -> int:
        """The number of sides."""
        return len(self.shape)

    @property
    def T(self) -> "Traced":  # noqa: N802 - the name that torch has
        """The matrix transposed."""
        return Traced(self.rows, self.shape[::-1], TRANSPOSED)

    def same(self) -> "Traced":
        """Return itself: what a copy is."""
        return self

    contiguous = clone = detach = same

    def chunk(self, count: int, dim: int = 0) -> list["Traced"]:
        """Return its rows in equal parts, as torch.chunk does."""
        if dim != 0 or len(self.rows) != 1 or self.rows[0][1:] != WHOLE:
            raise Untraceable("chunk")
        shape = (self.shape[0] // count, *self.shape[1:])
        return [Traced(((self.rows[0][0], i, count),), shape) for i in range(count)]

    def __getitem__(self, index: Any) -> "Traced":
        """Return consecutive rows, or a convolution of one pixel as a matrix."""
        first, *others = index if isinstance(index, tuple) else (index,)
        everything = slice(None)
        if others and first == everything and others[1:] in ([0], [0, 0]):
            return Traced(self.rows, self.shape[:2], CONVOLUTION)
        if not isinstance(first, slice) or any(other != everything for other in others):
            raise Untraceable("an index")
        start, stop, _ = first.indices(self.shape[0])
        size = stop - start
        if size <= 0 or self.shape[0] % size or start % size:
            raise Untraceable("unequal parts")
        return self.chunk(self.shape[0] // size)[start // size]

    @classmethod
    def __torch_function__(
        cls, function: Any, _types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        """Follow the functions of torch that converters call."""
        known: dict[Any, Any] = {torch.chunk: chunked, torch.split: split, torch.cat: joined}
        if function not in known:
            raise Untraceable(getattr(function, "__name__", "a function"))
        return known[function](*args, **(kwargs or {}))


def chunked(whole: Traced, chunks: int, dim: int = 0) -> list[Traced]:
    """Follow torch.chunk."""
    return whole.chunk(chunks, dim)


def split(whole: Traced, sizes: Sequence[int], dim: int = 0) -> list[Traced]:
    """Follow torch.split. The sizes are those of the parts that are put in: their number counts."""
    return whole.chunk(len(sizes), dim)


def joined(parts: Sequence[Traced], dim: int = 0) -> Traced:
    """Follow torch.cat."""
    if dim != 0 or any(part.form != AS_IT_IS for part in parts):
        raise Untraceable("cat")
    rows = tuple(row for part in parts for row in part.rows)
    return Traced(rows, (sum(part.shape[0] for part in parts), *parts[0].shape[1:]))


class Asked(dict[str, Traced]):
    """A checkpoint that has every tensor by whose name it is asked; only `names` are listed."""

    def __init__(self, names: Sequence[str]) -> None:
        super().__init__({name: tensor(name) for name in names})

    def __missing__(self, name: str) -> Traced:
        return tensor(name)

    def pop(self, name: str, *_: Any) -> Traced:
        """Return the tensor of a name."""
        return super().pop(name, None) or tensor(name)


def tensor(name: str, shape: Sequence[int] = (0,)) -> Traced:
    """Return the stand-in for a whole tensor of the authors."""
    assert math.prod(shape) >= 0
    return Traced(((name, *WHOLE),), shape)
