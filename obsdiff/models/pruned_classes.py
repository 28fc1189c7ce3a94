"""Model classes for pruned shapes, so that plain from_pretrained opens a structured checkpoint.

For every diffusers model there is a class of the same name with Pruned before it: built dense from the same config, then
shrunk to the config's `pruned_layout`. diffusers finds it as obsdiff.PrunedSD3Transformer2DModel once obsdiff is imported.
The layout is data, checked against the model; nothing in a checkpoint names code to run. docs/checkpoints.md says why this
road was taken, and what was tried with such models.
"""

import inspect
from collections.abc import Mapping
from functools import cache
from typing import Any

import diffusers
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import LegacyConfigMixin
from torch import nn

from .adapters import guarded
from .surgery import Layout, shrink_to_

CLASS_PREFIX = "Pruned"


@cache
def pruned_class(name: str) -> type[ModelMixin]:
    """The class of that name, such as PrunedFluxTransformer2DModel. AttributeError if diffusers has no such model."""
    base = getattr(diffusers, name.removeprefix(CLASS_PREFIX), None)
    if (
        not name.startswith(CLASS_PREFIX)
        or not inspect.isclass(base)
        or not issubclass(base, ModelMixin)
    ):
        raise AttributeError(f"module 'obsdiff' has no attribute {name!r}")

    def __init__(  # noqa: N807 - it becomes a method
        self: Any, *args: Any, pruned_layout: Mapping[str, Any] | None = None, **kwargs: Any
    ) -> None:
        base.__init__(self, *args, **kwargs)
        shrink_to_(self, pruned_layout or {})
        self.register_to_config(pruned_layout=dict(pruned_layout or {}))

    signature = inspect.signature(base.__init__)
    own = inspect.Parameter("pruned_layout", inspect.Parameter.KEYWORD_ONLY, default=None)
    __init__.__signature__ = signature.replace(
        parameters=[*signature.parameters.values(), own]
    )  # diffusers reads configs by it
    text = f"{base.__name__} with heads, neurons or channels taken out, as its config's pruned_layout says."
    return type(
        name,
        (base,),
        {"__init__": __init__, "__doc__": text, "__module__": "obsdiff"}
        | itself(base)
        | guarded(base),
    )


def itself(base: type[ModelMixin]) -> dict[str, Any]:
    """diffusers opens some old classes as newer ones, by their names; a pruned class is the one that was pruned."""
    plain = {"from_config": ConfigMixin.from_config, "from_pretrained": ModelMixin.from_pretrained}
    return (
        {name: classmethod(method.__func__) for name, method in plain.items()}
        if issubclass(base, LegacyConfigMixin)
        else {}
    )


def mark_pruned_(model: nn.Module, layout: Layout) -> nn.Module:
    """Make a model whose shapes were changed to `layout` one of the pruned class, so that it saves itself as such."""
    before = dict(model.config.get("pruned_layout") or {})
    merged = {
        owner: {**before.get(owner, {}), **layout.get(owner, {})} for owner in {**before, **layout}
    }
    name = type(model).__name__
    model.__class__ = pruned_class(name if name.startswith(CLASS_PREFIX) else CLASS_PREFIX + name)
    model.register_to_config(pruned_layout=merged)
    return model
