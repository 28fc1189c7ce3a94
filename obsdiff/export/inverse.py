"""The authors' tensors as rows of those of diffusers: a converter of diffusers, turned round."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..pipelines.headers import shortened
from .traced import AS_IT_IS, CONVOLUTION, TRANSPOSED, Traced, Untraceable


@dataclass(frozen=True)
class Piece:
    """The index-th of `count` equal parts of the rows of a tensor of diffusers."""

    name: str
    index: int
    count: int


@dataclass(frozen=True)
class Recipe:
    """How a tensor of the authors is made: the rows of its pieces, one after the other.

    Attributes:
        pieces: the parts, in their order.
        form: what diffusers' converter does to the tensor, as traced.py names it.
    """

    pieces: tuple[Piece, ...]
    form: str = AS_IT_IS

    def made(self, read: Callable[[str], Tensor]) -> Tensor:
        """Return the tensor.

        Args:
            read: returns a tensor of diffusers by its name.

        Raises:
            Untraceable: the rows of a tensor can't be divided into equal parts.
        """
        found = []
        for piece in self.pieces:
            rows = read(piece.name)
            if len(rows) % piece.count:
                raise Untraceable(f"{piece.name}: {len(rows)} rows in {piece.count} equal parts")
            found.append(rows.chunk(piece.count)[piece.index] if piece.count > 1 else rows)
        whole = torch.cat(found) if len(found) > 1 else found[0]
        if self.form == TRANSPOSED:
            whole = whole.T
        if self.form == CONVOLUTION:
            whole = whole[:, :, None, None]
        return whole.contiguous()


Recipes = dict[str, Recipe]  # by the authors' names


def inverse(converted: Mapping[str, Traced], names: Iterable[str]) -> Recipes:
    """Turn round what a converter made of stand-ins.

    Args:
        converted: its result: diffusers' name -> the authors' rows that it is made of.
        names: diffusers' names of all tensors of the model.

    Raises:
        Untraceable: the result has other names, or a tensor of the authors would be incomplete.
    """
    if others := set(names) ^ set(converted):
        raise Untraceable(f"names that differ: {shortened(sorted(others))}")
    parts: dict[str, dict[int, Piece]] = {}
    counts: dict[str, tuple[int, str]] = {}
    for name, value in converted.items():
        for j, (source, index, count) in enumerate(value.rows):
            piece = Piece(name, j, len(value.rows))
            if counts.setdefault(source, (count, value.form)) != (count, value.form):
                raise Untraceable(f"{source}: used in two ways")
            if parts.setdefault(source, {}).setdefault(index, piece) != piece:
                raise Untraceable(f"{source}: used twice")
    for source, (count, _) in counts.items():
        if len(parts[source]) != count:
            raise Untraceable(f"{source}: {len(parts[source])} of {count} parts are used")
    return {
        source: Recipe(tuple(found[i] for i in sorted(found)), counts[source][1])
        for source, found in parts.items()
    }


def renamed(names: Mapping[str, str]) -> Recipes:
    """Return the recipes of tensors that have another name alone: theirs -> ours."""
    return {theirs: Recipe((Piece(ours, 0, 1),)) for theirs, ours in names.items()}


def prefixed(prefix: str, recipes: Mapping[str, Any]) -> dict[str, Any]:
    """Return recipes with a prefix before the authors' names."""
    return {prefix + name: recipe for name, recipe in recipes.items()}
