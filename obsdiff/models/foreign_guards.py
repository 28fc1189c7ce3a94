"""Two places of diffusers that meet a pruned model before the model itself is asked.

Both are functions of diffusers' own classes, and get a check that does nothing for other models:

- FluxPipeline widens layers to the shapes of a LoRA before it loads it; the LoRA is cut first.
- A ControlNet made from a denoiser copies the weights into dense shapes; one line refuses it.
"""

import inspect
from collections.abc import Callable
from functools import cache, wraps
from typing import Any

import diffusers
from diffusers.loaders import FluxLoraLoaderMixin

from ..errors import UserError
from .lora import cut_lora

WIDENING = "_maybe_expand_transformer_param_shape_or_error_"
COPIES = ("from_unet", "from_transformer")  # class methods of ControlNets
WITH_WEIGHTS = ("load_weights_from_unet", "load_weights_from_transformer")  # their arguments
CONTROLNETS = {  # made from a denoiser of this class
    "UNet2DConditionModel": ("ControlNetModel", "ControlNetUnionModel", "UNetControlNetXSModel"),
    "SD3Transformer2DModel": ("SD3ControlNetModel",),
    "FluxTransformer2DModel": ("FluxControlNetModel",),
    "QwenImageTransformer2DModel": ("QwenImageControlNetModel",),
    "HunyuanDiT2DModel": ("HunyuanDiT2DControlNetModel",),
}
Function = Callable[..., Any]


@cache
def guard_diffusers_(base: str) -> None:
    """Put the checks that concern a model class into diffusers' classes, once.

    Args:
        base: the name of the model class.
    """
    if base == "FluxTransformer2DModel":
        guard_(FluxLoraLoaderMixin, WIDENING, cutting_first)
    for name in CONTROLNETS.get(base, ()):
        for copy in COPIES:
            guard_(getattr(diffusers, name), copy, refusing_pruned)


def guard_(cls: type, name: str, guard: Callable[[Function], Function]) -> None:
    """Wrap a class method of a class of diffusers, if it has its own one of this name."""
    method = vars(cls).get(name)
    if isinstance(method, classmethod):
        setattr(cls, name, classmethod(guard(method.__func__)))


def cutting_first(function: Function) -> Function:
    """Return the widening of a transformer that first cuts a LoRA for it, in place."""

    @wraps(function)
    def widen(
        cls: Any,
        transformer: Any,
        lora_state_dict: Any = None,
        norm_state_dict: Any = None,
        prefix: str | None = None,
    ) -> Any:
        if lora_state_dict and is_pruned(transformer):
            start = prefix or cls.transformer_name
            lora_state_dict.update(cut_lora(transformer, lora_state_dict, start))
        return function(cls, transformer, lora_state_dict, norm_state_dict, prefix)

    return widen


def refusing_pruned(function: Function) -> Function:
    """Return the copying of a denoiser's weights that refuses one of a pruned class."""

    @wraps(function)
    def copy(cls: Any, *args: Any, **kwargs: Any) -> Any:
        given = inspect.signature(function).bind(cls, *args, **kwargs).arguments
        copied = all(given.get(name, True) for name in WITH_WEIGHTS)
        for model in given.values():
            if is_pruned(model) and copied:
                raise UserError(
                    f"{cls.__name__}: expected a dense denoiser, whose weights are copied, found a "
                    f"{type(model).__name__}; make the ControlNet from the dense denoiser: it "
                    "works beside the pruned one"
                )
        return function(cls, *args, **kwargs)

    return copy


def is_pruned(model: Any) -> bool:
    """Return whether a model is of a pruned class, and so has a layout."""
    return type(model).__module__ == "obsdiff"
