"""Linear layers with a correction of low rank beside their weight.

    y = W' x + U (V x) + b                                                       (1)

W' (O, I) the pruned weight, U (O, R), V (R, I) its correction, b (O,), R the rank. A file has two
tensors beside the weight, `low_rank_up` and `low_rank_down`. config.json has the rank of each such
layer under `low_rank`, from which the shapes are built before the weights are read.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .linear_view import weight_of
from .own_names import LOW_RANK_KEY
from .stored_ranks import checked_ranks

UP, DOWN = "low_rank_up", "low_rank_down"  # the tensors' names, behind the layer's


class LowRankLinear(nn.Linear):
    """A linear layer that computes (1)."""

    low_rank_up: nn.Parameter
    low_rank_down: nn.Parameter

    def forward(self, input: Tensor) -> Tensor:
        """Return y (..., O) of x (..., I)."""
        correction = F.linear(F.linear(input, self.low_rank_down), self.low_rank_up)
        return super().forward(input) + correction

    def extra_repr(self) -> str:
        """Return the sizes, as the layer is printed."""
        return f"{super().extra_repr()}, rank={len(self.low_rank_down)}"


def correct_by_(layer: nn.Module, up: Tensor, down: Tensor) -> None:
    """Give a linear layer a correction, in place; one that it has already is replaced.

    Args:
        layer: a torch.nn.Linear, which becomes a LowRankLinear.
        up: U (O, R); stored on the device and in the format of the weight.
        down: V (R, I).
    """
    assert type(layer) in (nn.Linear, LowRankLinear), type(layer).__name__
    like = weight_of(layer)
    layer.__class__ = LowRankLinear
    for name, value in {UP: up, DOWN: down}.items():
        stored = value.to(like.device, like.dtype, copy=True).contiguous()
        setattr(layer, name, nn.Parameter(stored, like.requires_grad))


def correction_of(layer: nn.Module) -> tuple[Tensor, Tensor] | None:
    """Return U (O, R) and V (R, I) of a layer, without gradient; None for one without."""
    if not isinstance(layer, LowRankLinear):
        return None
    return layer.low_rank_up.detach(), layer.low_rank_down.detach()


def ranks_of(model: nn.Module) -> dict[str, int]:
    """Return the rank of every layer of a model that has a correction, by its name."""
    return {
        name: len(layer.low_rank_down)
        for name, layer in model.named_modules()
        if isinstance(layer, LowRankLinear)
    }


def correctable(layer: nn.Module) -> bool:
    """Return whether a layer may be given a correction: a plain linear layer."""
    return type(layer) in (nn.Linear, LowRankLinear)


def add_corrections_(model: nn.Module, ranks: Mapping[str, Any]) -> None:
    """Give layers of a model corrections of zeros, which the weights of a file then fill.

    Args:
        model: the model.
        ranks: layer -> rank; checked, since it comes from a config.json.

    Raises:
        UserError: the ranks do not fit the model.
    """
    for _, layer, rank in checked_ranks(model, ranks, LOW_RANK_KEY, correctable):
        weight = weight_of(layer)
        outputs, inputs = weight.shape
        up = torch.zeros(outputs, rank, device=weight.device)
        correct_by_(layer, up, torch.zeros(rank, inputs, device=weight.device))


def merge_(model: nn.Module) -> list[str]:
    """Add every correction to its weight and remove it: the same function, without zeros.

    Args:
        model: the model; its layers become torch.nn.Linear again.

    Returns:
        The names of the layers.
    """
    names = list(ranks_of(model))
    for name in names:
        layer = model.get_submodule(name)
        assert isinstance(layer, LowRankLinear)
        with torch.no_grad():
            product = layer.low_rank_up.float() @ layer.low_rank_down.float()
            layer.weight.copy_(layer.weight.float() + product)
        del layer.low_rank_up, layer.low_rank_down
        setattr(layer, "__class__", nn.Linear)  # noqa: B010 - a class of a wider type
    return names
