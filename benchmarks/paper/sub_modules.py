"""The attentions and FFNs of a denoiser: their weights, switched off, and the cheapest of them."""

import copy
from collections.abc import Iterable

import numpy as np
import torch
from torch import nn

from obsdiff.models.discovery import find_blocks
from obsdiff.models.linear_view import layer_shapes

MOST = 24  # sub-modules whose every subset is compared


def sub_modules(denoiser: nn.Module) -> dict[str, tuple[str, ...]]:
    """The attentions and FFNs of a denoiser and their linear layers, in forward order."""
    found: dict[str, list[str]] = {}
    for block in find_blocks(layer_shapes(denoiser)):
        owners = [group.owner for group in block.groups]
        for layer in block.layers:
            owner = max((o for o in owners if layer.startswith(o + ".")), key=len, default="")
            if owner:
                found.setdefault(owner, []).append(layer)
    return {owner: tuple(layers) for owner, layers in found.items()}


def weights_of(denoiser: nn.Module, layers: tuple[str, ...]) -> int:
    """Number of weights of some layers, without biases."""
    return sum(denoiser.get_submodule(layer).weight.numel() for layer in layers)


@torch.no_grad()
def switched_off(denoiser: nn.Module, layers: Iterable[str]) -> nn.Module:
    """A copy of a denoiser in which the weights of some layers are zero. Their biases stay."""
    denoiser = copy.deepcopy(denoiser)
    for layer in layers:
        denoiser.get_submodule(layer).weight.zero_()
    return denoiser


def cheapest(costs: dict[str, float], weights: dict[str, int], least: float) -> list[str]:
    """The sub-modules with at least `least` weights together and the smallest sum of costs.

    Every subset is compared, so there may be at most MOST sub-modules.
    """
    names = list(costs)
    if len(names) > MOST:
        raise ValueError(f"off: at most {MOST} sub-modules; found {len(names)}")
    subsets = np.arange(2 ** len(names))
    total_cost, total_weights = np.zeros(len(subsets)), np.zeros(len(subsets))
    for i, name in enumerate(names):
        inside = (subsets >> i) & 1
        total_cost += inside * costs[name]
        total_weights += inside * weights[name]
    total_cost[total_weights < least] = np.inf
    best = int(total_cost.argmin())
    return [name for i, name in enumerate(names) if best >> i & 1]
