"""The dense model that a model of a pruned class was: its class, and its shapes without weights."""

from collections.abc import Mapping

import diffusers
import torch
from accelerate import init_empty_weights
from diffusers import ConfigMixin
from diffusers.models.modeling_utils import ModelMixin
from torch import nn

from .own_names import CLASS_PREFIX, OWN_SETTINGS


def dense_on_meta(model: nn.Module) -> nn.Module:
    """Return the dense model that a model of a pruned class was, without weights."""
    base, config = dense_class(model), model.config
    assert isinstance(config, Mapping)  # nn.Module types its attributes as Tensor | Module
    plain = {key: value for key, value in config.items() if key not in OWN_SETTINGS}
    with torch.device("meta"):
        # not base.from_config: diffusers opens some old classes as newer ones
        dense = vars(ConfigMixin)["from_config"].__func__(base, plain)
    assert isinstance(dense, nn.Module)  # from_config is typed for all kinds of configs
    return dense


def without_weights(model: nn.Module) -> nn.Module:
    """Return a model of the same class and config, without adapters and without weights."""
    cls, config = type(model), model.config
    assert issubclass(cls, ConfigMixin)
    assert isinstance(config, dict)
    with init_empty_weights():
        bare = cls.from_config(config)
    assert isinstance(bare, nn.Module)  # from_config is typed for all kinds of configs
    return bare


def dense_class(model: nn.Module) -> type[ModelMixin]:
    """Return the class of diffusers of which a model's class is the pruned one."""
    base = getattr(diffusers, type(model).__name__.removeprefix(CLASS_PREFIX))
    assert issubclass(base, ModelMixin)
    return base
