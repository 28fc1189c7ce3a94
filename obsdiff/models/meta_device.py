"""Denoisers on the meta device: real diffusers classes with shapes and no weights.

The config.json of a dense or pruned model is enough to count its parameters and the
multiply-accumulates of a forward.
"""

import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import diffusers
import torch
from diffusers.models.modeling_utils import ModelMixin
from torch import nn

from ..errors import UserError
from .call_shapes import ARGUMENTS, VIDEO_ARGUMENTS, CallArguments
from .discovery import find_blocks
from .linear_view import layer_shapes
from .macs import Macs, count_macs
from .own_names import CLASS_PREFIX
from .pruned_classes import pruned_class
from .structure import Shape

OLD_ATTENTION = (".query.weight", ".proj_attn.weight")  # names in old checkpoints
LONGEST_REASON = 160  # characters of torch's or diffusers' own error that are quoted


def denoiser_class(name: str) -> Any:
    """Return the diffusers model class of that name, or obsdiff's for pruned shapes.

    Args:
        name: a class name, such as SD3Transformer2DModel or PrunedSD3Transformer2DModel.

    Raises:
        UserError: there is no such class.
    """
    is_pruned = name.startswith(CLASS_PREFIX)
    try:
        found = pruned_class(name) if is_pruned else getattr(diffusers, name, None)
    except AttributeError:
        found = None
    is_model = inspect.isclass(found) and issubclass(found, ModelMixin)
    if not is_model or not hasattr(found, "from_config"):
        raise UserError(f"the installed diffusers has no model class {name!r}")
    return found


def build_on_meta(config: Mapping[str, Any], file: Path | str = "this config.json") -> nn.Module:
    """Build the model of a config.json, without weights.

    Args:
        config: the contents of the file; a quantization_config in it is ignored.
        file: the file, for the message.

    Returns:
        The model in evaluation mode, on the meta device.

    Raises:
        UserError: the class is unknown, or does not accept the config.
    """
    cls = denoiser_class(str(config.get("_class_name")))
    plain = {key: value for key, value in config.items() if key != "quantization_config"}
    try:
        with torch.device("meta"):
            return cls.from_config(plain).eval()
    except UserError:
        raise
    except (
        TypeError,
        ValueError,
        LookupError,
        RuntimeError,
        AttributeError,
        ArithmeticError,
    ) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"{cls.__name__} can't be built from {file}: {reason}; correct the value there, or "
            "fetch the file again"
        ) from None


def require_fitting(
    config: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]], where: str
) -> None:
    """Check that a config describes the model whose weights are beside it.

    Args:
        config: the contents of the config.json.
        shapes: the shape of each stored tensor, by its name.
        where: the folder of both, for the message.

    Raises:
        UserError: they contradict each other; the message names the first tensor.
    """
    model = build_on_meta(config, f"{where}/config.json")
    described = {name: tuple(w.shape) for name, w in model.state_dict().items()}
    stored_layers, own_layers = block_layers(shapes), block_layers(described)
    more, lacking = sorted(stored_layers - own_layers), sorted(own_layers - stored_layers)
    old_names = any(name.endswith(OLD_ATTENTION) for name in shapes)  # which diffusers renames
    if more:
        raise UserError(
            f"{where}: its weights have {more[0]}, and config.json describes no such layer; "
            "fetch both again"
        )
    if lacking and not old_names:
        raise UserError(
            f"{where}: its weights lack {lacking[0]}, which config.json describes; fetch both again"
        )
    for name, shape in described.items():
        if shapes.get(name, shape) != shape:
            raise UserError(
                f"{where}: config.json describes {name} as {shape}, and the weights have "
                f"{shapes[name]}; fetch both again"
            )


def block_layers(shapes: Mapping[str, tuple[int, ...]]) -> set[str]:
    """Return the linear layers of the blocks among some tensors."""
    return {layer for block in find_blocks(matrices(shapes)) for layer in block.layers}


def matrices(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Shape]:
    """Return the layers (O, I) among stored tensors."""
    return {
        name.removesuffix(".weight"): (shape[0], shape[1])
        for name, shape in shapes.items()
        if name.endswith(".weight") and len(shape) == 2
    }


def layers_of_config(config: Mapping[str, Any], target: str = "linear") -> dict[str, Shape]:
    """List the layers of the model that a config.json describes.

    Args:
        config: the contents of the file.
        target: "linear" for linear layers, "conv" for convolutions, too.

    Returns:
        Layer name -> (O, I), the shape of its weight as a matrix.

    Raises:
        UserError: the class is unknown, or does not accept the config.
    """
    return layer_shapes(build_on_meta(config), target)


def on_meta(value: Any) -> Any:
    """Copy (nested) arguments with meta tensors in place of tensors.

    Args:
        value: a tensor, mapping, list or tuple; any other value is returned as it is.
    """
    if isinstance(value, torch.Tensor):
        return value.to("meta")
    if isinstance(value, Mapping):
        return {key: on_meta(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(on_meta(item) for item in value)
    return value


def forward_macs(model: nn.Module, arguments: CallArguments) -> Macs:
    """Count one forward of a model on the meta device.

    Args:
        model: the model.
        arguments: keyword arguments of its forward, on any device.
    """
    return count_macs(lambda: model(**on_meta(arguments)))


def macs_or_why_not(model: nn.Module, arguments: CallArguments) -> dict[str, Any]:
    """Count one forward of a model on the meta device, or return the reason why it fails.

    Args:
        model: the model.
        arguments: keyword arguments of its forward, on any device.

    Returns:
        Multiply-accumulates by kind, their "total", and "why_not" = None. If the arguments do not
        fit, or the model cannot run without data: "total" = None and the reason in "why_not".
    """
    try:
        return forward_macs(model, arguments).to_dict() | {"why_not": None}
    except (RuntimeError, TypeError, ValueError, ArithmeticError, LookupError) as error:
        reason = " ".join(str(error).split())[:LONGEST_REASON]
        why_not = f"{type(model).__name__} can't be run on the meta device: {reason}"
        return {"total": None, "why_not": why_not}


def example_inputs(
    model: nn.Module, height: int, width: int, text_tokens: int, frames: int = 1
) -> CallArguments | None:
    """Make the arguments of one forward for one picture, on the meta device.

    Args:
        model: the model.
        height: height of the latents.
        width: width of the latents.
        text_tokens: text tokens; ignored by models without text.
        frames: frames of latents; ignored by models of pictures.

    Returns:
        Keyword arguments; None for a class without an entry in call_shapes.ARGUMENTS or
        VIDEO_ARGUMENTS.
    """
    cls, config = type(model).__name__.removeprefix(CLASS_PREFIX), getattr(model, "config", None)
    make, of_video = ARGUMENTS.get(cls), VIDEO_ARGUMENTS.get(cls)
    if not isinstance(config, Mapping):
        return None
    with torch.device("meta"):
        if of_video:
            return of_video(config, height, width, text_tokens, frames)
        return make(config, height, width, text_tokens) if make else None
