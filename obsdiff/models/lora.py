"""Cut a LoRA made for a dense model to what a pruned one kept.

A LoRA adds B A to a layer's weight, times a number that does not depend on the shapes. The pruned
layer has some rows and columns of the dense one, so the rows of B and the columns of A of the same
numbers are its LoRA: exactly what would be left if the LoRA had been part of the weight before the
cut, but for the repair of the other weights. The names of the tensors and the numbers stay.

O outputs, I inputs, R rank.
"""

import math
import re
from collections.abc import Mapping
from typing import NamedTuple

from diffusers.utils import convert_unet_state_dict_to_peft
from torch import Tensor, nn

from ..errors import UserError
from .cuts import Cut, cuts_of
from .folded import folded_ranks

FUSE_PIPELINE = (
    "load the LoRA into the dense pipeline, call pipe.fuse_lora(); pipe.unload_lora_weights(), "
    "then prune"
)
PART = re.compile(
    r"(?P<layer>.+)\.(?:lora_(?P<side>[AB])(?:\.[^.]+)?\.(?P<of>weight|bias)"
    r"|(?P<magnitude>lora_magnitude_vector)(?:\..+)?|(?P<number>alpha))"
)
NUMBERED = re.compile(r"\.(\d{1,9})(?=\.)", re.ASCII)


class Part(NamedTuple):
    """A tensor of a LoRA: its name in the file, and what it is: A, B, bias, magnitude, alpha."""

    name: str
    kind: str


def cut_lora(
    model: nn.Module, tensors: Mapping[str, Tensor], prefix: str | None = None
) -> dict[str, Tensor]:
    """Return a LoRA with the shapes of a pruned model.

    Args:
        model: a model of a pruned class.
        tensors: the LoRA, under the names that diffusers gives it: those of peft or its own. What
            already has the pruned shapes, or is of no pruned layer, stays.
        prefix: the first part of the names of the model's own tensors; others stay.

    Returns:
        The same names with the tensors that fit.

    Raises:
        UserError: a layer's tensors are for other shapes than the dense and the pruned ones, or
            are no LoRA, or which rows and columns were kept is not known; or the LoRA is for more
            blocks than there are, or for a folded modulation layer.
    """
    require_blocks(model, tensors, prefix)
    require_unfolded(model, tensors, prefix)
    cut, cuts = dict(tensors), cuts_of(model)
    for layer, parts in parts_by_layer(tensors, prefix, cuts).items():
        cut |= cut_layer(f"{layer} of this {type(model).__name__}", cuts[layer], parts, tensors)
    return cut


def require_blocks(model: nn.Module, tensors: Mapping[str, Tensor], prefix: str | None) -> None:
    """Check that a model has the blocks of a LoRA, by their numbers.

    Args:
        model: the denoiser.
        tensors: the LoRA.
        prefix: the first part of the names of the model's own tensors.

    Raises:
        UserError: it lacks one, so it has fewer blocks than the model that the LoRA is for.
    """
    start = f"{prefix}." if prefix else ""
    lists = {name: len(m) for name, m in model.named_modules() if isinstance(m, nn.ModuleList)}
    for name in tensors:
        own = name.removeprefix(start) if name.startswith(start) else ""
        for match in NUMBERED.finditer(own):
            owner = own[: match.start()]
            if int(match[1]) >= lists.get(owner, int(match[1]) + 1):
                raise UserError(
                    f"LoRA: {owner}.{match[1]} is not part of this {type(model).__name__}, which "
                    f"has {lists[owner]} {owner}: the LoRA is for a model with more of them; where "
                    "--pattern depth removed blocks, obsdiff lora numbers them anew, once for the "
                    "folder of each such run, in their order"
                )


def require_unfolded(model: nn.Module, tensors: Mapping[str, Tensor], prefix: str | None) -> None:
    """Check that a LoRA is for no folded modulation layer: there is no weight to add it to.

    Args:
        model: the denoiser.
        tensors: the LoRA.
        prefix: the first part of the names of the model's own tensors.

    Raises:
        UserError: it is for one.
    """
    start = f"{prefix}." if prefix else ""
    for layer in folded_ranks(model):
        if any(name.startswith(f"{start}{layer}.") for name in tensors):
            raise UserError(
                f"LoRA: {layer} of this {type(model).__name__} is folded into two layers "
                f"(--modulation), which have no weight to add a LoRA to; {FUSE_PIPELINE}"
            )


def parts_by_layer(
    tensors: Mapping[str, Tensor], prefix: str | None, layers: Mapping[str, Cut]
) -> dict[str, list[Part]]:
    """Return the parts of a LoRA for each of some layers that it has.

    Args:
        tensors: the LoRA.
        prefix: as in cut_lora.
        layers: the layers.

    Raises:
        UserError: a tensor of such a layer is no part of a LoRA.
    """
    start = f"{prefix}." if prefix else ""
    own = {name.removeprefix(start): name for name in tensors if name.startswith(start)}
    by_peft: dict[str, str] = convert_unet_state_dict_to_peft(own)
    found: dict[str, list[Part]] = {}
    for peft_name, name in by_peft.items():
        match = PART.fullmatch(peft_name)
        layer = match["layer"] if match else layer_above(peft_name, layers)
        if layer not in layers:
            continue
        if match is None:
            raise UserError(
                f"LoRA: {layer}: expected lora_A and lora_B, or lora.down and lora.up, found "
                f"{name!r}, which can't be cut to the pruned shapes; {FUSE_PIPELINE}"
            )
        kind = match["side"] if match["of"] == "weight" else match["of"]
        kind = kind or ("magnitude" if match["magnitude"] else "alpha")
        found.setdefault(layer, []).append(Part(name, kind))
    return found


def layer_above(name: str, layers: Mapping[str, Cut]) -> str:
    """Return the layer to which a tensor's name belongs, or ""."""
    while name:
        name = name.rpartition(".")[0]
        if name in layers:
            return name
    return ""


def cut_layer(
    where: str, cut: Cut, parts: list[Part], tensors: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Return the tensors of one layer's LoRA with the pruned shapes.

    Args:
        where: the layer, for messages.
        cut: what is left of it.
        parts: its parts of the LoRA.
        tensors: the LoRA.

    Raises:
        UserError: as in cut_lora.
    """
    kinds = {part.kind: tensors[part.name] for part in parts}
    if "A" not in kinds or "B" not in kinds:
        return {}  # diffusers decides
    down, up = kinds["A"], kinds["B"]
    if min(down.dim(), up.dim()) < 2 or down.shape[0] != up.shape[1]:
        raise UserError(
            f"LoRA: {where}: expected lora_A (rank, inputs) and lora_B (outputs, rank), found "
            f"{tuple(down.shape)} and {tuple(up.shape)}"
        )
    found = len(up), math.prod(down.shape[1:])
    if found == cut.left:
        return {}
    require_dense(where, cut, found)
    if "magnitude" in kinds and cut.left[1] < cut.shape[1]:
        raise UserError(
            f"LoRA: {where} has fewer inputs than the dense one, and a DoRA's magnitudes are those "
            f"of all inputs; {FUSE_PIPELINE}"
        )
    for part in parts:
        size = tensors[part.name].numel()
        if part.kind in ("bias", "magnitude") and size != cut.shape[0]:
            raise UserError(f"LoRA: {where}: {part.name} has {size} numbers, expected {found[0]}")
    return {part.name: taken(part.kind, tensors[part.name], cut) for part in parts}


def require_dense(where: str, cut: Cut, found: tuple[int, int]) -> None:
    """Raise UserError unless a LoRA is for the dense shape, and it is known what was kept."""
    if found != cut.shape:
        raise UserError(
            f"LoRA: {where} has shape {cut.left}, the dense one {cut.shape}; found a LoRA for "
            f"{found}, made for another model"
        )
    if not cut.known:
        raise UserError(
            f"LoRA: {where} has shape {cut.left}, found a LoRA for {found}; its config.json does "
            "not state which rows and columns those are, as an older version of obsdiff wrote it; "
            f"prune again, or {FUSE_PIPELINE}"
        )


def taken(kind: str, tensor: Tensor, cut: Cut) -> Tensor:
    """Return what is left of one tensor of a LoRA.

    Args:
        kind: A (R, I) or (R, I / (kh kw), kh, kw); B (O, R) or (O, R, 1, 1); bias or magnitude
            with O numbers; alpha.
        tensor: the tensor.
        cut: what is left of the layer.
    """
    if kind == "A":
        matrix = tensor.flatten(1)[:, cut.columns.to(tensor.device)]
        return matrix.unflatten(1, (-1, *tensor.shape[2:])).contiguous()
    if kind in ("B", "bias"):
        return tensor[cut.rows.to(tensor.device)].contiguous()
    if kind == "magnitude":
        axis = next(i for i, size in enumerate(tensor.shape) if size == cut.shape[0])
        return tensor.index_select(axis, cut.rows.to(tensor.device)).contiguous()
    return tensor
