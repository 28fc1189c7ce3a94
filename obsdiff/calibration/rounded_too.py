"""The linear layers that are rounded beside the targeted ones: embeddings, modulation, projections.

They have no Hessians, so they get the nearest values of their grids (layerwise/rounding.py). Of
folded modulation both factors are rounded to 8 bits; 4 bits would add up.
"""

from collections.abc import Collection, Iterable
from fnmatch import fnmatchcase

from torch import nn

from ..config import PruningConfig
from ..models.folded import FoldedLinear

PARTS = ("down", "up")  # the factors of a folded layer


def rounded_beside(
    denoiser: nn.Module, others: Collection[str], config: PruningConfig
) -> list[str]:
    """Return the layers that are rounded without Hessians, in registration order.

    All plain linear layers but those that are calibrated, or excluded by a wildcard.

    Args:
        denoiser: the model, dense or shrunk.
        others: the layers that are calibrated.
        config: the settings.
    """
    if config.bits is None or config.round_layers != "all":
        return []
    factors = {
        f"{name}.{part}"
        for name, layer in denoiser.named_modules()
        if isinstance(layer, FoldedLinear) and not config.rounds_factors
        for part in PARTS
    }
    return [
        name
        for name, layer in denoiser.named_modules()
        if type(layer) is nn.Linear
        and name not in others
        and name not in factors
        and not any(fnmatchcase(name, wild) for wild in config.exclude)
    ]


def with_factors(denoiser: nn.Module, names: Iterable[str], config: PruningConfig) -> list[str]:
    """Return layers to round, those that are folded by now as their factors, or without them."""
    found = []
    for name in names:
        if not isinstance(denoiser.get_submodule(name), FoldedLinear):
            found.append(name)
        elif config.rounds_factors:
            found += [f"{name}.{part}" for part in PARTS]
    return found
