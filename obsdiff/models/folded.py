"""Linear layers folded into two of low rank.

    y = U (V x) + b                                                                (1)

V (R, I), U (O, R), b (O,), R the rank. A file has `down.weight` (V), `up.weight` (U) and `up.bias`
behind the layer's name, in place of its weight and bias. config.json has the rank of each such
layer under `folded_modulation`, from which the layers are built before the weights are read.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from .linear_view import weight_of
from .own_names import FOLDED_KEY
from .stored_ranks import checked_ranks

DOWN, UP = "down.weight", "up.weight"  # the tensors' names, behind the layer's


class FoldedLinear(nn.Module):
    """Two linear layers that compute (1).

    Args:
        inputs: I.
        outputs: O.
        rank: R.
        bias: whether there is b.
    """

    def __init__(self, inputs: int, outputs: int, rank: int, bias: bool) -> None:
        super().__init__()
        self.in_features, self.out_features = inputs, outputs
        self.down = nn.Linear(inputs, rank, bias=False)
        self.up = nn.Linear(rank, outputs, bias=bias)

    @property
    def rank(self) -> int:
        """R."""
        return self.down.out_features

    def forward(self, input: Tensor) -> Tensor:
        """Return y (..., O) of x (..., I)."""
        out: Tensor = self.up(self.down(input))
        return out


def foldable(layer: nn.Module) -> bool:
    """Return whether a layer can be folded: a plain linear layer."""
    return type(layer) is nn.Linear


def fold_(model: nn.Module, name: str, up: Tensor, down: Tensor) -> None:
    """Replace a linear layer of a model by two, in place; the bias stays.

    Args:
        model: the model.
        name: the layer, a torch.nn.Linear.
        up: U (O, R); stored on the device and in the format of the weight.
        down: V (R, I).
    """
    layer = model.get_submodule(name)
    folded = emptied(layer, len(down))
    with torch.no_grad():
        folded.down.weight.copy_(down)
        folded.up.weight.copy_(up)
        if isinstance(layer.bias, Tensor):
            folded.up.bias.copy_(layer.bias)
    put_(model, name, folded)


def emptied(layer: nn.Module, rank: int) -> FoldedLinear:
    """Return a folded layer like a linear one, with weights that are still to be set."""
    like, bias = weight_of(layer), layer.bias
    outputs, inputs = like.shape
    with torch.device("meta"):
        folded = FoldedLinear(inputs, outputs, rank, isinstance(bias, Tensor))
    folded.to(like.dtype).to_empty(device=like.device)
    folded.train(layer.training).requires_grad_(like.requires_grad)
    return folded


def put_(model: nn.Module, name: str, layer: nn.Module) -> None:
    """Put a layer at a place of a model where there is one already."""
    owner, _, own = name.rpartition(".")
    setattr(model.get_submodule(owner), own, layer)


def folded_ranks(model: nn.Module) -> dict[str, int]:
    """Return the rank of every folded layer of a model, by its name."""
    return {
        name: layer.rank for name, layer in model.named_modules() if isinstance(layer, FoldedLinear)
    }


def fold_to_(model: nn.Module, ranks: Mapping[str, Any]) -> None:
    """Fold layers of a model to given ranks, with weights that those of a file then fill.

    Args:
        model: the model.
        ranks: layer -> rank; checked, since it comes from a config.json.

    Raises:
        UserError: the ranks do not fit the model.
    """
    for name, layer, rank in checked_ranks(model, ranks, FOLDED_KEY, foldable):
        put_(model, name, emptied(layer, rank))


def unfold_(model: nn.Module) -> list[str]:
    """Make one linear layer of every folded one again: the same function, and its dense size.

    Args:
        model: the model.

    Returns:
        The names of the layers.
    """
    names = list(folded_ranks(model))
    for name in names:
        layer = model.get_submodule(name)
        assert isinstance(layer, FoldedLinear)
        down, up = layer.down.weight.detach(), layer.up.weight.detach()
        bias = layer.up.bias
        with torch.device("meta"):
            plain = nn.Linear(layer.in_features, layer.out_features, bias is not None)
        plain.weight = nn.Parameter((up.float() @ down.float()).to(up.dtype), up.requires_grad)
        if bias is not None:
            plain.bias = bias
        put_(model, name, plain.train(layer.training))
    return names
