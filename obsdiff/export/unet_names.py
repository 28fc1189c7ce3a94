"""The names that CompVis gave the tensors of a UNet and a VAE, proposed from those of diffusers.

diffusers' converters read these names one by one, so they can't be asked for the names. What is
proposed here is put through the converter, and refused unless it returns the model's own names.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from diffusers.loaders.single_file_utils import DIFFUSERS_TO_LDM_MAPPING

from ..errors import UserError

Shapes = Mapping[str, Sequence[int]]
RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "time_emb_proj": "emb_layers.1",
    "conv_shortcut": "skip_connection",
}
ATTENTION = {  # of a VAE
    "to_q": "q",
    "to_k": "k",
    "to_v": "v",
    "to_out.0": "proj_out",
    "group_norm": "norm",
}
FIRST = ".transformer_blocks.0.norm1.weight"  # the first tensor of an attention's blocks
PLACE = re.compile(r"(down|up|mid)_blocks?\.(?:(\d+)\.)?(\w+)\.(\d+)\.(.+)")


def unet_names(shapes: Shapes, config: Mapping[str, Any]) -> dict[str, Sequence[int]]:
    """Return the authors' names of a UNet's tensors, with their shapes.

    Args:
        shapes: shape of each tensor, by diffusers' name.
        config: the model's config.
    """
    table: Any = DIFFUSERS_TO_LDM_MAPPING["unet"]
    outer = dict(table["layers"]) | {"class_embedding.weight": "label_emb.weight"}
    outer |= table["class_embed_type"] | table["addition_embed_type"]
    attended = {m[1] for name in shapes if (m := re.match(r"(up_blocks\.\d+)\.attentions", name))}
    return {outer.get(name) or unet_place(name, config, attended): shapes[name] for name in shapes}


def require_blocks(shapes: Shapes) -> None:
    """Check that every attention on the way down and up has a transformer block.

    Programs that read the authors' names find an attention by its blocks. Of one without they take
    the projections for unknown tensors, and compute without them.

    Args:
        shapes: shape of each tensor, by diffusers' name.

    Raises:
        UserError: an attention has none, after pattern depth.
    """
    for name in shapes:
        owner = name.removesuffix(".proj_in.weight")
        if owner != name and not owner.startswith("mid_") and f"{owner}{FIRST}" not in shapes:
            raise UserError(
                f"export: expected a transformer block in {owner}, found none (pattern depth took "
                "all): programs that read these names would leave out its projections, too; remove "
                "fewer blocks (--sparsity, --blocks), or open the folder with diffusers"
            )


def unet_place(name: str, config: Mapping[str, Any], attended: set[str]) -> str:
    """Return the authors' name of a tensor inside of a UNet's blocks.

    Args:
        name: diffusers' name; one of another form stays as it is.
        config: the model's config.
        attended: the up blocks that have attention.
    """
    found, layers = PLACE.fullmatch(name), config.get("layers_per_block")
    if not found or not isinstance(layers, int):
        return name
    side, block, kind, index, rest = found[1], int(found[2] or 0), found[3], int(found[4]), found[5]
    if kind == "resnets":
        rest = begun(rest, RESNET)
    if side == "mid":
        return f"middle_block.{2 * index if kind == 'resnets' else 2 * index + 1}.{rest}"
    each = layers + 1
    if kind == "downsamplers":
        return f"input_blocks.{(block + 1) * each}.0.{begun(rest, {'conv': 'op'})}"
    if kind == "upsamplers":
        slot = 2 if f"up_blocks.{block}" in attended else 1
        return f"output_blocks.{(block + 1) * each - 1}.{slot}.{rest}"
    place = (
        f"input_blocks.{1 + block * each}" if side == "down" else f"output_blocks.{block * each}"
    )
    head, _, number = place.rpartition(".")
    return f"{head}.{int(number) + index}.{0 if kind == 'resnets' else 1}.{rest}"


def vae_names(shapes: Shapes) -> dict[str, Sequence[int]]:
    """Return the authors' names of a VAE's tensors, with the authors' shapes.

    Args:
        shapes: shape of each tensor, by diffusers' name.
    """
    table: Any = DIFFUSERS_TO_LDM_MAPPING["vae"]
    levels = 1 + max(
        (int(n) for s in shapes for n in re.findall(r"up_blocks\.(\d+)", s)), default=0
    )
    found = {}
    for name, shape in shapes.items():
        attention = ".attentions." in name and len(shape) == 2
        found[table.get(name) or vae_place(name, levels)] = (*shape, 1, 1) if attention else shape
    return found


def vae_place(name: str, levels: int) -> str:
    """Return the authors' name of a tensor inside of a VAE's blocks.

    Args:
        name: diffusers' name; one of another form stays as it is.
        levels: number of up blocks, which the authors count from the other end.
    """
    half, _, inner = name.partition(".")
    found = PLACE.fullmatch(inner)
    if not found:
        return name
    side, block, kind, index, rest = found[1], int(found[2] or 0), found[3], int(found[4]), found[5]
    rest = begun(rest, ATTENTION if kind == "attentions" else {"conv_shortcut": "nin_shortcut"})
    if side == "mid":
        return f"{half}.mid.{'block' if kind == 'resnets' else 'attn'}_{index + 1}.{rest}"
    level = block if side == "down" else levels - 1 - block
    inside = {"resnets": f"block.{index}"}.get(kind, f"{side}sample")
    return f"{half}.{side}.{level}.{inside}.{rest}"


def begun(name: str, table: Mapping[str, str]) -> str:
    """Return a name, its beginning replaced by the table's entry for it, if there is one."""
    for ours, theirs in table.items():
        if name.startswith(ours + "."):
            return theirs + name.removeprefix(ours)
    return name
