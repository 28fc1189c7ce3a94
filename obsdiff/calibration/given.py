"""What a caller wants removed: heads, neurons and channels by their indices, or weights by masks.

obsdiff then decides nothing, and repairs what is left with its Hessians. Groups and layers that are
not given stay as they are. So masks of other methods can be compared, and another model's layout
taken over.
"""

import hashlib
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from numbers import Integral
from typing import Any

import torch
from torch import Tensor

from ..config import PruningConfig
from ..errors import UserError
from ..models.structure import Block, Shape
from .groups import PrunableGroup

Given = Mapping[str, Sequence[int] | Tensor]  # group -> what leaves; or layer -> mask of it
SHOWN = 3  # names in an error message
DECIDING = ("method", "allocation", "include", "permute", "low_rank", "target_latency", "refine")
DEFAULT = PruningConfig()


@dataclass(frozen=True)
class GivenRemoval:
    """What leaves.

    Attributes:
        items: the heads, neurons or norm groups that leave, by the name of their group.
        masks: True where a weight leaves (O, I), by layer.
        share: of the heads, neurons and norm groups, or of the weights, that leave.
        sha256: the hash of all of it.
    """

    items: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    masks: Mapping[str, Tensor] = field(default_factory=dict)
    share: float = 0.0
    sha256: str = ""

    def sparsity_of(self, config: PruningConfig) -> PruningConfig:
        """Return the config with the share that leaves as its sparsity, unless N:M fixes it."""
        if not self.share:
            raise UserError("removed: expected something that leaves, found nothing")
        return config if config.group else replace(config, sparsity=self.share)


def selecting(given: Given, blocks: list[Block], config: PruningConfig) -> PruningConfig:
    """Return the config that selects what is given, and nothing else.

    Args:
        given: what leaves.
        blocks: the blocks of the model.
        config: the settings.

    Raises:
        UserError: a setting would decide what leaves, or a name is not one of the model.
    """
    if config.kind == "depth" or not config.layerwise:
        raise UserError(
            f"removed: expected pattern structured, unstructured or N:M, found {config.pattern}"
        )
    for name in DECIDING:
        if getattr(config, name) != getattr(DEFAULT, name):
            raise UserError(
                f"removed: expected the default of {name}, {getattr(DEFAULT, name)!r}, since what "
                f"leaves is given; found {getattr(config, name)!r}"
            )
    if config.budget:
        raise UserError("removed: expected no target size, since what leaves is given")
    if config.pattern != "structured":
        layers = [layer for block in blocks for layer in block.layers]
        require_names(given, layers, "layer")
        return replace(config, include=tuple(sorted(given)))
    groups = {group.name: group for block in blocks for group in block.groups}
    require_names(given, groups, "group")
    consumers = [layer for name in given for layer in groups[name].consumers]
    return replace(config, include=tuple(sorted(set(consumers))), keep_first_last=False)


def require_names(given: Given, names: Collection[str], what: str) -> None:
    """Raise UserError unless something is given, and only by names of the model."""
    if not isinstance(given, Mapping):
        raise UserError(
            f"removed: expected a mapping by the name of a {what}, found {type(given).__name__}"
        )
    if not given:
        raise UserError(f"removed: expected at least one {what}, found none")
    unknown = [name for name in given if name not in names]
    if unknown:
        raise UserError(
            f"removed: this model has no {what} {', '.join(map(repr, unknown[:SHOWN]))}; "
            f"expected names such as {', '.join(map(repr, list(names)[:SHOWN]))}"
        )


def given_groups(
    given: Given, groups: list[PrunableGroup]
) -> tuple[list[PrunableGroup], GivenRemoval]:
    """Return the given groups, each with the number of items that leave it, and these.

    Args:
        given: by the name of a group the indices of the heads, neurons or channels that leave.
        groups: the groups that the config selects.

    Raises:
        UserError: a group is not among them, or its indices are none of it, or all of it.
    """
    by_name = {prunable.name: prunable for prunable in groups}
    require_selected(given, by_name)
    items = {name: items_of(by_name[name], given[name]) for name in by_name if name in given}
    found = [replace(by_name[name], uniform=len(some)) for name, some in items.items()]
    share = sum(map(len, items.values())) / sum(prunable.total for prunable in found)
    listed = sorted((name, sorted(some)) for name, some in items.items())
    digest = hashlib.sha256(repr(listed).encode()).hexdigest()
    return found, GivenRemoval(items, share=share, sha256=digest)


def require_selected(given: Given, selected: Collection[str]) -> None:
    """Raise UserError unless the config selects every group or layer that is given."""
    absent = [name for name in given if name not in selected]
    if absent:
        raise UserError(
            f"removed: {absent[0]} is not selected by target, blocks and exclude; "
            "set them so that they select all that is given"
        )


def items_of(prunable: PrunableGroup, given: Sequence[int] | Tensor) -> tuple[int, ...]:
    """Return the items of a group that leave, by the indices of its heads, neurons or channels."""
    each, name = prunable.each, prunable.name
    channels = prunable.total * each
    listed = indices(given)
    if listed is None:
        raise UserError(
            f"removed: {name}: expected a list of indices, found {type(given).__name__}"
        )
    wrong = [i for i in listed if type(i) is not int or not 0 <= i < channels]
    if wrong or len(set(listed)) != len(listed) or len(listed) >= channels:
        found = repr(wrong[0]) if wrong else f"{len(listed)}, {len(set(listed))} different ones"
        raise UserError(
            f"removed: {name}: expected different indices from 0 to {channels - 1}, "
            f"not all of them; found {found}"
        )
    items = tuple(dict.fromkeys(i // each for i in listed))
    if len(items) * each != len(listed):
        raise UserError(
            f"removed: {name}: expected all {each} channels of a norm group or none of them"
        )
    return items


def indices(given: Any) -> list[Any] | None:
    """Return what a list, tensor or array lists, whole numbers as int; None if it is no list."""
    if isinstance(given, Tensor):
        return list(given.tolist()) if given.dim() else None
    if not isinstance(given, Iterable):
        return None
    return [int(i) if isinstance(i, Integral) and not isinstance(i, bool) else i for i in given]


def given_masks(
    given: Given, selected: Collection[str], shapes: Mapping[str, Shape], config: PruningConfig
) -> GivenRemoval:
    """Return the masks of layers.

    Args:
        given: True where a weight leaves, in the shape of the layer's weight or of its matrix.
        selected: the layers that the config selects.
        shapes: (O, I) of every layer.
        config: the settings; of an N:M pattern every mask has to have it.

    Raises:
        UserError: a layer is not among them, or a mask has another shape or format, or not the
            pattern.
    """
    require_selected(given, selected)
    masks, digest = {}, hashlib.sha256()
    for name in sorted(given):
        mask = given[name]
        if not isinstance(mask, Tensor) or mask.dtype != torch.bool:
            found = mask.dtype if isinstance(mask, Tensor) else type(mask).__name__
            raise UserError(f"removed: {name}: expected a tensor of bool, found {found}")
        if mask.dim() < 2 or tuple(mask.flatten(1).shape) != shapes[name]:
            raise UserError(
                f"removed: {name}: expected a mask {shapes[name]}, found {tuple(mask.shape)}"
            )
        masks[name] = mask.flatten(1).cpu()
        require_pattern(name, masks[name], config.group)
        digest.update(name.encode())
        digest.update(masks[name].numpy().tobytes())
    share = sum(int(mask.sum()) for mask in masks.values()) / sum(map(torch.numel, masks.values()))
    if share == 1:
        raise UserError("removed: expected some weights that stay, found masks of all of them")
    return GivenRemoval(masks=masks, share=share, sha256=digest.hexdigest())


def require_pattern(name: str, mask: Tensor, group: tuple[int, int] | None) -> None:
    """Raise UserError unless a mask (O, I) keeps at most n of every m consecutive inputs."""
    if group is None:
        return
    n, m = group
    kept = (~mask).unflatten(1, (-1, m)).sum(-1)
    if int(kept.max()) > n:
        raise UserError(
            f"removed: {name}: expected at most {n} of every {m} consecutive inputs to stay, "
            f"found {int(kept.max())}"
        )
