"""Weights on grids of few bits: values in memory, codes and scales of torchao in a file.

A rounded layer computes with its values; its grids are kept beside it, so that saving finds the
codes again. A file has the tensors of torchao's own classes, in the layout that its safetensors
support reads (`LAYER._weight_qdata`, `LAYER._weight_scale`), and config.json has a
`quantization_config`, by which diffusers' from_pretrained opens it:

    8 bits   Int8Tensor                 Int8WeightOnlyConfig(granularity=PerGroup(g))
    4 bits   IntxUnpackedToInt8Tensor   IntxWeightOnlyConfig(torch.int4, granularity=PerGroup(g)),
             a byte a weight: of torchao's layouts the one that runs on every device

The codes are those of solvers/rounding.py; torchao rounds nothing.
"""

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from diffusers.configuration_utils import FrozenDict
from torch import Tensor, nn

from ..errors import UserError
from ..models.low_rank import LowRankLinear
from ..runtime.extras import require_extra
from ..solvers.rounding import Grid

INT4: torch.dtype = getattr(torch, "int4")  # noqa: B009 - torch's stubs lack it
GRID = "obsdiff_grid"  # the attribute of a rounded layer
SCALE = "scale"  # the name of its scales among the tensors of a task
OFF_GRID = 0.02  # of a step, beside what number formats of 16 bits do to a value
HALF_FORMATS = torch.finfo(torch.bfloat16).eps / 2  # of the value
SCALE_BYTES = {8: 2, 4: 3}  # of a group: its scale in half precision, of 4 bits a zero point, too


def roundable(layer: nn.Module, columns: int, group: int) -> bool:
    """Return whether a layer with so many columns can be rounded in groups of a size."""
    return type(layer) in (nn.Linear, LowRankLinear) and columns % group == 0


def put_on_grid_(layer: nn.Module, grid: Grid) -> None:
    """Note the grids that the weights of a layer are on."""
    setattr(layer, GRID, grid)


def grid_of(layer: nn.Module) -> Grid | None:
    """Return the grids of a layer; None if it is not rounded."""
    found = getattr(layer, GRID, None)
    return found if isinstance(found, Grid) else None


def grids_of(model: nn.Module) -> dict[str, Grid]:
    """Return the grids of every rounded layer of a model, by its name."""
    found = {name: grid_of(layer) for name, layer in model.named_modules()}
    return {name: grid for name, grid in found.items() if grid}


@contextlib.contextmanager
def stored_in_bits(model: nn.Module) -> Iterator[None]:
    """Let a model's save_pretrained write codes and scales, inside the block.

    Args:
        model: a model of diffusers; one without rounded layers stays as it is.

    Raises:
        UserError: torchao is not installed, or a layer has other values than it was rounded to.
    """
    grids = grids_of(model)
    if not grids:
        yield
        return
    require_extra("torchao", "bits")
    weights = {name: model.get_submodule(name)._parameters["weight"] for name in grids}
    for name, grid in grids.items():
        require_on_grid(name, weights[name], grid)
    first = next(iter(grids.values()))
    config: Any = getattr(model, "_internal_dict")  # noqa: B009 - diffusers' config
    try:
        for name, grid in grids.items():
            stored = stored_weight(weights[name], grid)
            model.get_submodule(name)._parameters["weight"] = stored
        quantizer = quantizer_of(first.bits, first.group)
        settings = {**config, "quantization_config": quantizer.quantization_config.to_dict()}
        setattr(model, "_internal_dict", FrozenDict(settings))  # noqa: B010
        setattr(model, "hf_quantizer", quantizer)  # noqa: B010
        yield
    finally:
        for name, weight in weights.items():
            model.get_submodule(name)._parameters["weight"] = weight
        setattr(model, "_internal_dict", config)  # noqa: B010
        vars(model).pop("hf_quantizer", None)


def require_on_grid(name: str, weight: Tensor | None, grid: Grid) -> None:
    """Raise UserError for a weight that was changed after it was rounded.

    Args:
        name: the layer's name.
        weight: its weight (O, I); the number format may have rounded it off its grid.
        grid: the grids.
    """
    assert weight is not None
    steps = weight.detach().unflatten(1, (-1, grid.group)) / grid.wide(weight).unsqueeze(2)
    codes = grid.codes(weight.detach()).unflatten(1, (-1, grid.group)).to(steps)
    if ((steps - codes).abs() > OFF_GRID + codes.abs() * HALF_FORMATS).any():
        raise UserError(
            f"{name}: expected the values of {grid.bits} bits that it was rounded to, found others,"
            " as after a fused LoRA; save_pretrained saves them as they are, without codes"
        )


def stored_weight(weight: Tensor | None, grid: Grid) -> nn.Parameter:
    """Return a weight (O, I) as torchao's tensor, from its codes and scales.

    Args:
        weight: values on the grids, rounded to the format to store.
        grid: the grids.
    """
    from torchao.quantization import Int8Tensor, IntxUnpackedToInt8Tensor

    assert weight is not None
    codes, scale = grid.codes(weight.detach()), grid.scale.to(weight.device)
    block = [1, grid.group]
    if grid.bits == 8:
        found: Tensor = Int8Tensor(codes, scale.bfloat16(), block, weight.dtype)  # exact: see Grid
    else:
        zeros = torch.zeros_like(scale, dtype=torch.int8)
        found = IntxUnpackedToInt8Tensor(
            codes, scale.to(weight.dtype), zeros, INT4, tuple(block), weight.dtype, None
        )
    return nn.Parameter(found, requires_grad=False)


def quantizer_of(bits: int, group: int) -> Any:
    """Return diffusers' quantizer of models that are stored so.

    Args:
        bits: 8 or 4.
        group: the group size.
    """
    from diffusers import TorchAoConfig
    from diffusers.quantizers.torchao import TorchAoHfQuantizer
    from torchao.quantization import Int8WeightOnlyConfig, IntxWeightOnlyConfig, PerGroup

    way = (
        Int8WeightOnlyConfig(granularity=PerGroup(group))
        if bits == 8
        else IntxWeightOnlyConfig(weight_dtype=INT4, granularity=PerGroup(group))
    )
    found = TorchAoHfQuantizer(TorchAoConfig(way), pre_quantized=True)
    found.validate_environment()
    return found
