"""Whether a pipeline can be saved: tried before a run, so that no work is lost at its end."""

import copy
import json
from collections.abc import Iterable
from typing import Any

from diffusers import ConfigMixin
from diffusers.models.modeling_utils import ModelMixin
from torch import nn

from ..errors import UserError
from ..models.dense_shapes import without_weights
from ..models.own_weights import require_unshared
from .headers import shortened

ERROR_SHOWN = 200  # characters of an error of diffusers that are quoted


def require_saveable(pipe: Any, component: str) -> None:
    """Refuse a pipeline whose configs can't be written, or whose denoiser can't be opened again.

    Args:
        pipe: a diffusers pipeline.
        component: the name of the denoiser.

    Raises:
        UserError: names the component, and what stands in the way.
    """
    for name, part in {"model_index": pipe, **pipe.components}.items():
        if isinstance(part, ConfigMixin):
            require_config(name, part)
    denoiser: nn.Module = getattr(pipe, component)
    if isinstance(denoiser, ModelMixin):
        layers = {f"{component}.{name}" if name else component for name, _ in named(denoiser)}
        require_unshared(pipe, layers)
        require_built(component, denoiser)


def named(model: nn.Module) -> Iterable[tuple[str, nn.Module]]:
    """Return the modules of a model, under each of their names."""
    return model.named_modules(remove_duplicate=False)


def require_config(name: str, part: ConfigMixin) -> None:
    """Refuse a config that can't be written as JSON and read back."""
    probe = copy.copy(part)  # to_json_string adds entries to the config
    vars(probe)["_internal_dict"] = type(part.config)(part.config)
    try:
        json.loads(probe.to_json_string())
    except (TypeError, ValueError, AttributeError, KeyError, RecursionError) as error:
        raise UserError(
            f"{name}: expected a config that can be saved as JSON, found that "
            f"{type(part).__name__} says {' '.join(str(error).split())[:ERROR_SHOWN]!r}; "
            "register plain values with register_to_config"
        ) from error


def require_built(name: str, denoiser: nn.Module) -> None:
    """Refuse a denoiser that its class does not build from its config with the same weights."""
    cls = type(denoiser)
    try:
        built = without_weights(denoiser)
    except (TypeError, ValueError, LookupError, RuntimeError, AttributeError) as error:
        raise UserError(
            f"{name}: expected a {cls.__name__} that its config builds, found that it says "
            f"{' '.join(str(error).split())[:ERROR_SHOWN]!r}; a saved pipeline could not be opened"
        ) from error
    wanted = {key: tuple(x.shape) for key, x in built.state_dict().items()}
    found = {key: tuple(x.shape) for key, x in denoiser.state_dict().items()}
    lacking = [key for key, shape in wanted.items() if found.get(key) != shape]
    if lacking:
        raise UserError(
            f"{name}: expected the weights of the {cls.__name__} that its config describes, found "
            f"that it lacks {shortened(lacking)} or has them in another shape, so a saved pipeline "
            "could not be opened; change the config with register_to_config, too"
        )
