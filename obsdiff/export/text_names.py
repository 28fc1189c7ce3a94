"""The tensors of text encoders under the names that single files give them.

CLIP and T5 keep the names of transformers behind a prefix. The second encoder of SDXL has those of
OpenCLIP: proposed here from diffusers' own table, and put through its converter.
"""

import re
from collections.abc import Iterable
from types import SimpleNamespace
from typing import Any

from diffusers.loaders.single_file_utils import (
    DIFFUSERS_TO_LDM_MAPPING,
    convert_open_clip_checkpoint,
)

from ..errors import UserError
from .inverse import Recipes, inverse, renamed
from .traced import Untraceable, tensor
from .unet_names import Shapes

TEXT = "text_model."
PROJECTION = "text_projection.weight"
TABLE = "shared.weight"  # of T5; some files have it under the name of the encoder's own table
ENCODER_TABLE = "encoder.embed_tokens.weight"


def clip_recipes(names: Iterable[str]) -> Recipes:
    """Return the recipes of a CLIP without a projection: the names of transformers.

    Args:
        names: the names that its file has; CLIPTextModel drops the module around it in some
            versions of transformers.
    """
    return renamed({full(name): name for name in names})


def full(name: str) -> str:
    """Return the name that a tensor of a CLIP has in all versions of transformers."""
    return name if name.startswith((TEXT, "text_projection.")) else TEXT + name


def t5_recipes(names: Iterable[str]) -> Recipes:
    """Return the recipes of a T5 encoder: the names of transformers."""
    known = {name: name for name in names}
    if TABLE not in known and ENCODER_TABLE in known:
        known[TABLE] = ENCODER_TABLE
    return renamed(known)


def open_clip_recipes(shapes: Shapes) -> Recipes:
    """Return the recipes of a CLIP with projection under the names of OpenCLIP.

    Args:
        shapes: shape of each tensor, by the name of transformers.

    Raises:
        UserError: the converter of diffusers can't be turned round for this model.
    """
    checkpoint = {}
    for name, shape in shapes.items():
        theirs, sides = open_clip_name(name), tuple(shape)
        if theirs.endswith(("in_proj_weight", "in_proj_bias")):
            sides = (3 * sides[0], *sides[1:])
        if name == PROJECTION:
            sides = sides[::-1]
        checkpoint[theirs] = tensor(theirs, sides)
    width = next((shape[0] for name, shape in shapes.items() if name == PROJECTION), 0)
    model = SimpleNamespace(config=SimpleNamespace(hidden_size=width))
    try:
        return inverse(convert_open_clip_checkpoint(model, checkpoint, prefix=""), shapes)
    except (Untraceable, LookupError) as error:
        raise UserError(
            f"export: this text encoder has no names of OpenCLIP ({error}); expected a CLIP with "
            "a projection as wide as itself; write the denoiser alone with --component"
        ) from error


def open_clip_name(name: str) -> str:
    """Return the name in OpenCLIP of a tensor, by its name in transformers."""
    tables: Any = DIFFUSERS_TO_LDM_MAPPING["openclip"]
    if name in tables["layers"]:
        return str(tables["layers"][name])
    for ours, theirs in tables["transformer"].items():
        name = name.replace(ours, theirs)
    name = re.sub(r"\.attn\.[qkv]_proj\.(weight|bias)$", r".attn.in_proj_\1", name)
    return f"transformer.{name}"
