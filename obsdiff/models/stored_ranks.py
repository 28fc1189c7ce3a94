"""Ranks of layers as a config.json states them, checked."""

from collections.abc import Callable, Iterator
from typing import Any

from torch import nn

from ..errors import UserError
from .linear_view import weight_of


def checked_ranks(
    model: nn.Module, ranks: Any, setting: str, possible: Callable[[nn.Module], bool]
) -> Iterator[tuple[str, nn.Module, int]]:
    """Yield the name, the layer and its rank for every layer of a setting.

    Args:
        model: the model.
        ranks: layer -> rank; checked, since it comes from a config.json.
        setting: its name in the config.
        possible: whether a layer may have a rank.

    Raises:
        UserError: the ranks do not fit the model.
    """
    if not isinstance(ranks, dict):
        raise UserError(f"{setting}: expected an object of layers, found {type(ranks).__name__}")
    layers = {name: layer for name, layer in model.named_modules() if possible(layer)}
    for name, rank in ranks.items():
        if name not in layers:
            raise UserError(f"{setting}: {type(model).__name__} has no linear layer {name!r}")
        most = min(weight_of(layers[name]).shape)
        if type(rank) is not int or not 1 <= rank <= most:
            raise UserError(f"{setting}: {name}: expected a rank from 1 to {most}, found {rank!r}")
        yield name, layers[name], rank
