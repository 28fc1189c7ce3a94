"""The linear layers that are rounded beside the targeted ones: embeddings, modulation, projections.

They have no Hessians, so they get the nearest values of their grids (layerwise/rounding.py).
"""

from collections.abc import Collection
from fnmatch import fnmatchcase

from torch import nn

from ..config import PruningConfig
from ..models.folded import FoldedLinear


def rounded_beside(
    denoiser: nn.Module, others: Collection[str], config: PruningConfig
) -> list[str]:
    """Return the layers that are rounded without Hessians, in registration order.

    All plain linear layers but those that are calibrated, factors of others, or excluded by a
    wildcard. A modulation layer is among them, and is left out once it is folded.

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
        if isinstance(layer, FoldedLinear)
        for part in ("down", "up")
    }
    return [
        name
        for name, layer in denoiser.named_modules()
        if type(layer) is nn.Linear
        and name not in others
        and name not in factors
        and not any(fnmatchcase(name, wild) for wild in config.exclude)
    ]
