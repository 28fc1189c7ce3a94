"""The tensors of a denoiser or VAE under its authors' names, derived from diffusers' converters.

Converters of transformers ask for each tensor by its name: they are asked what they ask for. Those
of UNets and VAEs read the names that are there: they are given the proposals of unet_names.py.
Either way the recipes are what the converter itself does, turned round.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from diffusers.loaders.single_file_model import SINGLE_FILE_LOADABLE_CLASSES

from ..errors import UserError
from ..models.depth_table import UNET
from .inverse import Recipes, inverse
from .traced import Asked, Traced, Untraceable, tensor
from .unet_names import Shapes, require_blocks, unet_names, vae_names

UNET_PREFIX = "model.diffusion_model."  # of a UNet in every file; of a transformer in a whole model


def sd3_hints(names: Shapes) -> list[str]:
    """Return the names by which SD3's converter counts blocks and sees what they have."""
    hints = [f"joint_blocks.{i}." for i in numbers(r"transformer_blocks\.(\d+)\.", names)]
    dual = numbers(r"transformer_blocks\.(\d+)\.attn2\.", names)
    hints += [f"joint_blocks.{i}.x_block.attn2." for i in dual]
    return hints + (["ln_q"] if any(".norm_q." in name for name in names) else [])


def flux_hints(names: Shapes) -> list[str]:
    """Return the names by which FLUX's converter counts blocks and sees what they have."""
    hints = [f"double_blocks.{i}." for i in numbers(r"transformer_blocks\.(\d+)\.", names)]
    singles = numbers(r"single_transformer_blocks\.(\d+)\.", names)
    hints += [f"single_blocks.{i}." for i in singles]
    return hints + (["guidance"] if any("guidance" in name for name in names) else [])


def numbers(pattern: str, names: Shapes) -> list[int]:
    """Return the numbers of the blocks whose names begin as a pattern, which has one group."""
    found = (re.match(pattern, name) for name in names)
    return sorted({int(match[1]) for match in found if match})


ASKING: dict[str, Callable[[Shapes], list[str]]] = {
    "SD3Transformer2DModel": sd3_hints,
    "FluxTransformer2DModel": flux_hints,
}
DENOISER_CLASSES = (UNET, *ASKING)


def original_recipes(cls: str, shapes: Shapes, config: Mapping[str, Any]) -> Recipes:
    """Return how each tensor of the authors is made of those of diffusers.

    Args:
        cls: class of the model in diffusers, one of DENOISER_CLASSES or AutoencoderKL.
        shapes: shape of each tensor, by diffusers' name.
        config: the model's config.

    Raises:
        UserError: the converter of diffusers can't be turned round for this model, or other
            programs would compute something else.
    """
    if cls == UNET:
        require_blocks(shapes)
    known: Any = SINGLE_FILE_LOADABLE_CLASSES
    try:
        return inverse(converted(known[cls]["checkpoint_mapping_fn"], cls, shapes, config), shapes)
    except (Untraceable, LookupError, TypeError, ValueError) as error:
        raise UserError(
            f"export: the tensors of this {cls} have no names of its authors, as far as diffusers "
            f"knows them ({error}); expected a model that diffusers opens from a single file"
        ) from error


def converted(
    convert: Callable[..., Any], cls: str, shapes: Shapes, config: Mapping[str, Any]
) -> dict[str, Traced]:
    """Return what a converter of diffusers makes of stand-ins for the authors' tensors."""
    checkpoint: dict[str, Traced]
    if cls in ASKING:
        checkpoint = Asked(ASKING[cls](shapes))
    else:
        proposed: Mapping[str, Sequence[int]]
        proposed = vae_names(shapes) if cls == "AutoencoderKL" else unet_names(shapes, config)
        prefix = "" if cls == "AutoencoderKL" else UNET_PREFIX
        checkpoint = {
            prefix + name: tensor(prefix + name, shape) for name, shape in proposed.items()
        }
    found: dict[str, Traced] = convert(checkpoint=checkpoint, config=dict(config))
    return found
