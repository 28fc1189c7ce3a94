"""Denoisers on the meta device: real diffusers classes with shapes and no weights, and inputs to call them with.

So parameters and multiply-accumulates of a model, dense or pruned, are known from its config.json alone.
"""

import inspect
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from ..errors import UserError
from .linear_view import layer_shapes
from .macs import Macs, count_macs
from .pruned_classes import CLASS_PREFIX, pruned_class

Inputs = dict[str, Any]
TIME_IDS = 6  # SDXL's time_ids: original, crop and target size


def denoiser_class(name: str) -> type[nn.Module]:
    """The diffusers model class of that name, or obsdiff's for pruned shapes. UserError if there is none."""
    import diffusers

    try:
        found = (
            pruned_class(name) if name.startswith(CLASS_PREFIX) else getattr(diffusers, name, None)
        )
    except AttributeError:
        found = None
    if (
        not inspect.isclass(found)
        or not issubclass(found, diffusers.ModelMixin)
        or not hasattr(found, "from_config")
    ):
        raise UserError(f"the installed diffusers has no model class {name!r}")
    return found


def build_on_meta(config: Mapping[str, Any]) -> nn.Module:
    """The model of a config.json, without weights. UserError for a config that its class does not take."""
    cls = denoiser_class(str(config.get("_class_name")))
    try:
        with torch.device("meta"):
            return cls.from_config(
                {key: value for key, value in config.items() if key != "quantization_config"}
            ).eval()
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
        raise UserError(
            f"{cls.__name__} can't be built from this config.json: {' '.join(str(error).split())[:200]}"
        ) from None


def layers_of_config(
    config: Mapping[str, Any], target: str = "linear"
) -> dict[str, tuple[int, int]]:
    """Layer name -> (O, I) of the layers of the model that a config.json describes, convolutions among them for target conv."""
    return layer_shapes(build_on_meta(config), target)


def on_meta(value: Any) -> Any:
    """Tensors of (nested) arguments as meta tensors."""
    if isinstance(value, torch.Tensor):
        return value.to("meta")
    if isinstance(value, Mapping):
        return {key: on_meta(item) for key, item in value.items()}
    return (
        type(value)(on_meta(item) for item in value) if isinstance(value, list | tuple) else value
    )


def forward_macs(model: nn.Module, inputs: Inputs) -> Macs:
    """Of one forward of a model on the meta device."""
    return count_macs(lambda: model(**on_meta(inputs)))


def macs_or_why_not(model: nn.Module, inputs: Inputs) -> dict[str, Any]:
    """Multiply-accumulates of one forward, by kind; for a model that these arguments don't fit, or that can't be run without
    data, a total of None and `why_not`."""
    try:
        return forward_macs(model, inputs).to_dict() | {"why_not": None}
    except (RuntimeError, TypeError, ValueError, ArithmeticError, LookupError) as error:
        reason = " ".join(str(error).split())[:160]
        return {
            "total": None,
            "why_not": f"{type(model).__name__} can't be run on the meta device: {reason}",
        }


def example_inputs(model: nn.Module, height: int, width: int, text_tokens: int) -> Inputs | None:
    """Arguments of one forward for one picture: latents of height x width, text_tokens tokens of text. None for a class whose
    arguments are not known here."""
    make = INPUTS.get(type(model).__name__.removeprefix(CLASS_PREFIX))
    with torch.device("meta"):
        return make(model.config, height, width, text_tokens) if make else None


def joint_inputs(config: Mapping[str, Any], height: int, width: int, text_tokens: int) -> Inputs:
    return {
        "hidden_states": torch.empty(1, config["in_channels"], height, width),
        "encoder_hidden_states": torch.empty(1, text_tokens, config["joint_attention_dim"]),
        "pooled_projections": torch.empty(1, config["pooled_projection_dim"]),
        "timestep": torch.empty(1),
    }


def flux_inputs(config: Mapping[str, Any], height: int, width: int, text_tokens: int) -> Inputs:
    image = (height // 2) * (width // 2)  # the pipeline packs 2 x 2 latents into one token
    return {
        "hidden_states": torch.empty(1, image, config["in_channels"]),
        "encoder_hidden_states": torch.empty(1, text_tokens, config["joint_attention_dim"]),
        "pooled_projections": torch.empty(1, config["pooled_projection_dim"]),
        "timestep": torch.empty(1),
        "img_ids": torch.empty(image, 3),
        "txt_ids": torch.empty(text_tokens, 3),
        "guidance": torch.empty(1) if config.get("guidance_embeds") else None,
    }


def unet_inputs(config: Mapping[str, Any], height: int, width: int, text_tokens: int) -> Inputs:
    inputs = {
        "sample": torch.empty(1, config["in_channels"], height, width),
        "timestep": torch.empty(1),
        "encoder_hidden_states": torch.empty(1, text_tokens, config["cross_attention_dim"]),
    }
    if config.get("addition_embed_type") == "text_time":
        pooled = (
            config["projection_class_embeddings_input_dim"]
            - TIME_IDS * config["addition_time_embed_dim"]
        )
        inputs["added_cond_kwargs"] = {
            "text_embeds": torch.empty(1, pooled),
            "time_ids": torch.empty(1, TIME_IDS),
        }
    return inputs


def unconditional_inputs(
    config: Mapping[str, Any], height: int, width: int, text_tokens: int
) -> Inputs:
    return {
        "sample": torch.empty(1, config["in_channels"], height, width),
        "timestep": torch.empty(1),
    }


INPUTS = {
    "SD3Transformer2DModel": joint_inputs,
    "FluxTransformer2DModel": flux_inputs,
    "UNet2DConditionModel": unet_inputs,
    "UNet2DModel": unconditional_inputs,
}
UNCONDITIONAL = ("UNet2DModel",)  # no text
