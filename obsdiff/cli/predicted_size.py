"""The shapes and the bytes of a result that is still to be made, on the meta device."""

from torch import nn

from ..allocation.uniform_latency import shrunk
from ..calibration.modulation_selection import select_modulation
from ..calibration.packages import plan_packages
from ..calibration.rounded_too import rounded_beside
from ..config import PruningConfig
from ..models.discovery import find_blocks
from ..models.folded import fold_to_
from ..models.linear_view import layer_shapes, weight_of
from ..models.surgery import sharing_weights
from ..pipelines.low_bits import SCALE_BYTES, roundable

WIDTHS = {"float64": 8, "float32": 4, "bfloat16": 2, "float16": 2}  # bytes of a weight


def predicted_model(
    dense: nn.Module, config: PruningConfig, folded: bool = True
) -> tuple[nn.Module, dict[str, dict[str, int]]]:
    """Return a copy of a model in the shapes of a result, and what was removed.

    Args:
        dense: the model on the meta device; unchanged.
        config: the settings of the pruning.
        folded: whether modulation is folded, if the config says so, to the largest ranks.
    """
    structured = config.pattern == "structured"
    model, gone = shrunk(dense, config) if structured else (sharing_weights(dense), {})
    if folded:
        shapes = layer_shapes(dense)
        fold_to_(model, select_modulation(type(dense).__name__, shapes, config))
    return model, gone


def rounded_layers(dense: nn.Module, model: nn.Module, config: PruningConfig) -> list[str]:
    """Return the layers of a result that are rounded.

    Args:
        dense: the dense model.
        model: the result, as `predicted_model` returns it.
        config: the settings.
    """
    if config.bits is None:
        return []
    shapes = layer_shapes(dense)
    packages = plan_packages(find_blocks(shapes), shapes, config)
    targeted = [layer for package in packages for layer in package.layers]
    layers = {name: model.get_submodule(name) for name in targeted}
    layers |= {name: model.get_submodule(name) for name in rounded_beside(model, targeted, config)}
    return [
        name
        for name, layer in layers.items()
        if roundable(layer, weight_of(layer).shape[1], config.group_size)
    ]


def stored_bytes(model: nn.Module, rounded: list[str], config: PruningConfig, width: float) -> int:
    """Return the bytes of a result's weights.

    Args:
        model: the result.
        rounded: its rounded layers.
        config: the settings.
        width: bytes of a weight that is not rounded.
    """
    found = width * sum(tensor.numel() for tensor in model.state_dict().values())
    for name in rounded:
        assert config.bits is not None
        weights = weight_of(model.get_submodule(name)).numel()
        found += weights * (1 + SCALE_BYTES[config.bits] / config.group_size - width)
    return round(found)
