"""Which pruned shapes a single file can have: programs that open it take widths from the tensors.

They take numbers of heads and norm groups from constants, so a model that lacks some of them would
be refused there, or computed wrongly without an error.
"""

from typing import Any

import torch
from torch import nn

from ..errors import UserError
from ..models.layout import layout_of
from ..models.own_names import FOLDED_KEY, LOW_RANK_KEY
from ..models.pruned_classes import lacks_heads, pruned_class
from ..pipelines.folder import Folder
from ..pipelines.rounded_files import is_declared

HEAD_SIZE = 64  # of SD3 in ComfyUI, a constant there


def require_widths_alone(folder: Folder, component: str) -> None:
    """Check that no heads and no channels were removed from a component.

    Args:
        folder: the checked folder.
        component: the component's name.

    Raises:
        UserError: some were, or a layer has a correction; the message has the remedy.
    """
    require_plain_layers(folder, component)
    lost = lost_kinds(folder.config(component))
    if lost:
        raise UserError(
            f"export: {folder.path / component}: expected all heads and channels, found that "
            f"{' and '.join(sorted(lost))} were removed, of which other programs have constant "
            f"numbers; {by_padding(folder, component, 'puts zeros in their place')}"
        )


def require_plain_layers(folder: Folder, component: str) -> None:
    """Check that no layer has a correction of low rank, or is folded; UserError with the remedy."""
    if folder.config(component).get(LOW_RANK_KEY):
        raise UserError(
            f"export: {folder.path / component}: expected plain layers, found corrections of low "
            "rank beside the weights, which other programs would skip; "
            f"{by_padding(folder, component, 'adds them to the weights')}"
        )
    if folded := folder.config(component).get(FOLDED_KEY):
        raise UserError(
            f"export: {folder.path / component}: expected plain layers, found {len(folded)} "
            "modulation layers folded into two each, which other programs do not know; "
            f"{by_padding(folder, component, 'makes them one again')}"
        )


def by_padding(folder: Folder, component: str, what: str) -> str:
    """Return how a component is exported with --pad, in words.

    Args:
        folder: the checked folder.
        component: the component's name.
        what: what --pad does to it.
    """
    if is_declared(folder.path / component):
        return (
            f"--pad, which {what}, takes no rounded weights: use the same pruning without bits, "
            "and export that to gguf with --pad --type q8_0"
        )
    return f"export to single-file or gguf with --pad, which {what}"


def unlike_width(folder: Folder, component: str) -> str | None:
    """Return what to say of an SD3 whose number of blocks does not follow from its width.

    stable-diffusion.cpp takes it for the number of heads, too (97d2990, model/diffusion/mmdit.hpp).
    ComfyUI builds one block for 64 features of width, so it refuses the file or stops at a step;
    obsdiff's node for it counts the file's blocks.

    Args:
        folder: the checked folder.
        component: the component's name.

    Returns:
        A line; None for models that ComfyUI builds as they are.
    """
    config = folder.config(component)
    if not str(config.get("_class_name")).endswith("SD3Transformer2DModel"):
        return None
    blocks = config["num_layers"]
    built = config["num_attention_heads"] * config["attention_head_dim"] // HEAD_SIZE
    if blocks == built:
        return None
    line = (
        f"{component} has {blocks} blocks: ComfyUI builds {built} for this width, whatever the "
        "file has, and so can't run it; stable-diffusion.cpp refuses fewer than 24 blocks, and "
        "computes as many heads as blocks"
    )
    if config["attention_head_dim"] != HEAD_SIZE:
        return line
    return f"{line}; obsdiff's node for ComfyUI can run it, after export --to comfyui"


def lost_kinds(config: dict[str, Any]) -> set[str]:
    """Return which of heads and channels were removed from a model, by its config."""
    if not config.get("pruned_layout"):
        return set()
    opener: Any = pruned_class(str(config.get("_class_name")))
    with torch.device("meta"):
        model = opener.from_config(config)
    assert isinstance(model, nn.Module)
    kinds = {kind for owner in layout_of(model).values() for kind in owner} - {"neurons", "heads"}
    return kinds | ({"heads"} if lacks_heads(model) else set())
