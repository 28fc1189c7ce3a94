"""Model classes for pruned shapes, so that plain from_pretrained opens a structured checkpoint.

For every diffusers model there is a class of the same name with the prefix Pruned: built dense from
the same config, then shrunk to the config's `pruned_layout`. diffusers finds it as
obsdiff.PrunedSD3Transformer2DModel once obsdiff is imported. The layout is data, checked against
the model; nothing in a checkpoint names code to run. docs/checkpoints.md states the reasons for
this design and the tests of such models.
"""

import inspect
from collections.abc import Mapping
from functools import cache, wraps
from typing import Any

import diffusers
from diffusers import ConfigMixin
from diffusers.configuration_utils import FrozenDict, LegacyConfigMixin
from diffusers.models.modeling_utils import ModelMixin
from torch import nn

from ..errors import UserError
from .adapter_loading import guarded
from .attention_slices import sliced
from .bitmask import hold_packed_, open_packed_
from .bitmask_format import REMEDY
from .client_marker import add_marker_, remove_marker_
from .dense_shapes import dense_on_meta
from .discovery import find_blocks
from .folded import fold_to_, folded_ranks
from .foreign_guards import guard_diffusers_
from .geometry import items
from .layout import Layout, layout_of, shrink_to_, with_kept
from .linear_view import layer_shapes
from .low_rank import add_corrections_, ranks_of
from .own_names import (
    BITMASK,
    BITMASK_KEY,
    CLASS_PREFIX,
    FOLDED,
    FOLDED_KEY,
    LAYOUT_KEY,
    LOW_RANK,
    LOW_RANK_KEY,
    OWN_SETTINGS,
)


@cache
def pruned_class(name: str) -> type[ModelMixin]:
    """Make the class of a name such as PrunedFluxTransformer2DModel.

    Args:
        name: the prefix and the name of a diffusers model class.

    Returns:
        The class, a subclass of diffusers' own; the same object for the same name.

    Raises:
        AttributeError: diffusers has no such model.
    """
    base = getattr(diffusers, name.removeprefix(CLASS_PREFIX), None)
    if (
        not name.startswith(CLASS_PREFIX)
        or not inspect.isclass(base)
        or not issubclass(base, ModelMixin)
    ):
        raise AttributeError(f"module 'obsdiff' has no attribute {name!r}")
    guard_diffusers_(base.__name__)
    doc = f"{base.__name__} with other layers: its config states which."
    members = {"__init__": constructor(base), "__doc__": doc, "__module__": "obsdiff"}
    members |= own_constructors(base) | guarded(base) | sliced(base)
    return type(name, (base,), members)


def require_pruned_class(model: nn.Module, why: str = "pattern structured") -> None:
    """Refuse a model that has no pruned class, before it is pruned.

    Args:
        model: the denoiser.
        why: the setting that needs the class.

    Raises:
        UserError: its class is none of diffusers, or one below it that computes otherwise.
    """
    base, cls = diffusers_class(type(model)), type(model)
    instead = "use another pattern" if why.startswith("pattern") else f"leave {why} out"
    if base is None:
        raise UserError(
            f"{why}: expected a model class of diffusers, found {cls.__name__}, "
            f"so the pruned shapes could not be opened again; {instead}"
        )
    if cls.forward is not base.forward:
        raise UserError(
            f"{why}: expected the forward of {base.__name__}, found that "
            f"{cls.__name__} has its own, which a saved model would lose; {instead}, "
            f"or build a {base.__name__} with these weights and prune that"
        )


def diffusers_class(cls: type) -> type[ModelMixin] | None:
    """Return the nearest model class of diffusers, or pruned class, among a class's ancestors."""
    for found in cls.__mro__:
        name = found.__name__
        if name.startswith(CLASS_PREFIX) and found.__module__ == "obsdiff":
            return found
        if getattr(diffusers, name, None) is found and issubclass(found, ModelMixin):
            return None if found is ModelMixin else found
    return None


def constructor(base: type[ModelMixin]) -> Any:
    """Return the `__init__` of a pruned class: the dense model's, then its layers change.

    A config without `head_marker` is that of an older file, which has no marker.
    """

    def __init__(  # noqa: N807 - becomes a method
        self: Any,
        *args: Any,
        pruned_layout: Mapping[str, Any] | None = None,
        head_marker: bool | None = None,
        low_rank: Mapping[str, Any] | None = None,
        bitmask: Mapping[str, Any] | None = None,
        folded_modulation: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        base.__init__(self, *args, **kwargs)
        shrink_to_(self, pruned_layout or {})
        self.register_to_config(pruned_layout=dict(pruned_layout or {}))
        if low_rank:
            correct_all_(self, low_rank)
        if folded_modulation:
            fold_to_(self, folded_modulation)
            note_(self, FOLDED, FOLDED_KEY, folded_ranks(self))
        if head_marker is True:
            add_marker_(self)
            self.register_to_config(head_marker=True)
        if bitmask is not None:
            hold_packed_(self, bitmask)
            add_marker_(self, BITMASK)
            self.register_to_config(bitmask=bitmask)

    own = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None)
        for name in OWN_SETTINGS
    ]
    signature = inspect.signature(base.__init__)
    signature = signature.replace(parameters=[*signature.parameters.values(), *own])
    vars(__init__)["__signature__"] = signature  # diffusers reads a config by it
    return __init__


def own_constructors(base: type[ModelMixin]) -> dict[str, Any]:
    """Return class methods that open a model as this very class, its packed weights dense.

    diffusers opens some old classes as newer ones, by their names.
    """
    if not issubclass(base, LegacyConfigMixin):
        opening: Any = base.from_pretrained
        return {"from_pretrained": dense_after(opening.__func__)}
    return {
        "from_config": vars(ConfigMixin)["from_config"],
        "from_pretrained": dense_after(vars(ModelMixin)["from_pretrained"].__func__),
    }


def dense_after(opening: Any) -> Any:
    """Return a class method that opens a model, then makes weights from values and bits.

    Args:
        opening: the function of diffusers' from_pretrained.
    """

    @wraps(opening)
    def from_pretrained(cls: Any, *args: Any, **kwargs: Any) -> Any:
        found = opening(cls, *args, **kwargs)
        model = found[0] if isinstance(found, tuple) else found
        if model.config.get(BITMASK_KEY) is not None:
            if kwargs.get("quantization_config") is not None:
                raise UserError(f"bitmask: expected no quantization_config, found one; {REMEDY}")
            make_dense_(model)
        return found

    return classmethod(from_pretrained)


def make_dense_(model: Any) -> None:
    """Make weights from the values and bits of a model, which then is as if it was stored plainly.

    Args:
        model: of a pruned class; of diffusers' own class afterwards, unless it has other layers.
    """
    open_packed_(model, model.config[BITMASK_KEY])
    remove_marker_(model, BITMASK)
    layers = (LAYOUT_KEY, LOW_RANK_KEY, FOLDED_KEY)
    others = any(model.config.get(key) for key in layers)
    gone = {BITMASK_KEY} if others else set(OWN_SETTINGS)
    settings = {name: value for name, value in model.config.items() if name not in gone}
    setattr(model, "_internal_dict", FrozenDict(settings))  # noqa: B010 - diffusers' config
    if not others:
        model.__class__ = type(model).__mro__[1]


def mark_pruned_(model: nn.Module, layout: Layout) -> nn.Module:
    """Turn a shrunk model into one of the pruned class, so that it saves itself as such.

    Args:
        model: a model of diffusers, of a class below, or of a pruned class, already shrunk.
        layout: owner -> kind -> count of what was shrunk; merged into the model's own layout.

    Returns:
        The same model.
    """
    before = layout_of(model)
    merged = {
        owner: {**before.get(owner, {}), **layout.get(owner, {})} for owner in {**before, **layout}
    }
    base = diffusers_class(type(model))
    assert base is not None  # require_pruned_class has checked it
    name = base.__name__
    model.__class__ = pruned_class(name if name.startswith(CLASS_PREFIX) else CLASS_PREFIX + name)
    assert isinstance(model, ConfigMixin)
    model.register_to_config(pruned_layout=with_kept(model, merged))
    mark_heads_(model)
    return model


def correct_all_(model: nn.Module, ranks: Mapping[str, Any]) -> None:
    """Give a model of a pruned class corrections of low rank, of zeros, and their marker."""
    add_corrections_(model, ranks)
    note_(model, LOW_RANK, LOW_RANK_KEY, dict(ranks))


def note_(model: nn.Module, reason: str, setting: str, ranks: dict[str, int]) -> None:
    """Mark a model of a pruned class, and state the ranks of its layers in its config."""
    add_marker_(model, reason)
    assert isinstance(model, ConfigMixin)
    model.register_to_config(**{setting: ranks})


def mark_corrected_(model: nn.Module) -> nn.Module:
    """Turn a model with corrections of low rank into one of the pruned class, and mark it.

    Args:
        model: a model of diffusers, of a class below, or of a pruned class.

    Returns:
        The same model.
    """
    if ranks := ranks_of(model):
        mark_pruned_(model, {})
        note_(model, LOW_RANK, LOW_RANK_KEY, ranks)
    return model


def mark_folded_(model: nn.Module) -> nn.Module:
    """Turn a model with folded layers into one of the pruned class, and mark it.

    Args:
        model: a model of diffusers, of a class below, or of a pruned class.

    Returns:
        The same model.
    """
    if ranks := folded_ranks(model):
        mark_pruned_(model, {})
        note_(model, FOLDED, FOLDED_KEY, ranks)
    return model


def mark_heads_(model: nn.Module) -> None:
    """Add the marker to a model of a pruned class, and to its config, if it lacks heads."""
    assert isinstance(model, ConfigMixin)
    if lacks_heads(model):
        add_marker_(model)
        model.register_to_config(head_marker=True)


def lacks_heads(model: nn.Module) -> bool:
    """Return whether a model of a pruned class has fewer heads somewhere than its dense class."""
    left = {owner: kinds["heads"] for owner, kinds in layout_of(model).items() if "heads" in kinds}
    if not left:
        return False
    dense = dense_on_meta(model)
    groups = [group for block in find_blocks(layer_shapes(dense)) for group in block.groups]
    return any(
        items(dense, group) > left[group.owner]
        for group in groups
        if group.kind == "heads" and group.owner in left
    )
