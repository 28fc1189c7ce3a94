"""The tensors of a pipeline under their authors' names, made from those of diffusers."""

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import UserError
from ..pipelines.folder import Folder
from .inverse import Recipe, Recipes, prefixed
from .layouts import (
    CLIP,
    CLIP_WITHOUT_PROJECTION,
    DENOISER,
    OPEN_CLIP,
    T5,
    VAE,
    Place,
    class_of,
)
from .original_names import original_recipes
from .stored_tensors import StoredTensors
from .text_names import PROJECTION, clip_recipes, open_clip_recipes, t5_recipes
from .traced import Untraceable


def original_tensors(
    folder: Folder, chosen: Mapping[str, Place], opened: contextlib.ExitStack
) -> dict[str, Tensor]:
    """Return all tensors of some components by the authors' names.

    Args:
        folder: the checked folder.
        chosen: the components and their places in the file.
        opened: keeps the folder's files open.
    """
    return {original.name: original.value() for original in originals(folder, chosen, opened)}


@dataclass(frozen=True)
class Original:
    """A tensor of the authors, not made yet.

    Attributes:
        name: in the file.
        recipe: how it is made.
        part: the tensors of its component.
        where: the component's folder, for messages.
    """

    name: str
    recipe: Recipe
    part: StoredTensors
    where: Path

    def value(self) -> Tensor:
        """Return its numbers."""
        return self.made(self.part.read)

    def steps(self) -> tuple[Tensor, int] | None:
        """Return the scale of each of its weights, and their bits; None unless all are rounded."""
        bits = {self.part.bits.get(piece.name) for piece in self.recipe.pieces}
        (first, *others) = bits
        return None if others or first is None else (self.made(self.part.steps), first)

    def made(self, read: Callable[[str], Tensor]) -> Tensor:
        """Return what its recipe makes of tensors of diffusers."""
        try:
            return self.recipe.made(read)
        except Untraceable as error:
            raise UserError(f"export: {self.where}: {error}") from None


def originals(
    folder: Folder, chosen: Mapping[str, Place], opened: contextlib.ExitStack
) -> Iterator[Original]:
    """Yield the tensors of some components by the authors' names.

    Args:
        folder: the checked folder.
        chosen: the components and their places in the file.
        opened: keeps the folder's files open.
    """
    parts = {name: StoredTensors(folder.components[name], opened) for name in chosen}
    require_two_widths(folder, parts)
    for name, place in chosen.items():
        for key, recipe in recipes_of(folder, name, place, parts[name]).items():
            yield Original(key, recipe, parts[name], folder.path / name)


def recipes_of(folder: Folder, name: str, place: Place, part: StoredTensors) -> Recipes:
    """Return the recipes of a component's tensors, by their names in the file."""
    config = folder.config(name)
    if place.kind in (DENOISER, VAE):
        return prefixed(place.prefix, traced_recipes(folder, name, part))
    if place.kind == T5:
        return prefixed(place.prefix, t5_recipes(part.shapes))
    if place.kind == OPEN_CLIP:
        return prefixed(place.prefix, open_clip_recipes(part.shapes))
    names = set(part.shapes)
    if place.kind == CLIP_WITHOUT_PROJECTION and PROJECTION in names:
        require_identity(folder.path / name, part.read(PROJECTION))
        names.remove(PROJECTION)
    if place.kind == CLIP and "cond_stage" in place.prefix:
        require_clip(folder.path / name, config)
    return prefixed(place.prefix, clip_recipes(names))


def traced_recipes(folder: Folder, name: str, part: StoredTensors) -> Recipes:
    """Return the recipes of a denoiser's or VAE's tensors; UserError where there are none."""
    try:
        return original_recipes(class_of(folder, name), part.shapes, folder.config(name))
    except Untraceable as error:
        raise UserError(f"export: {folder.path / name}: {error}") from None


def require_identity(where: Path, projection: Tensor) -> None:
    """Check that a projection is that of SD3's first text encoder, which single files leave out."""
    if not torch.equal(projection, torch.eye(*projection.shape, dtype=projection.dtype)):
        raise UserError(
            f"export: {where}: expected a text_projection that is the identity, as SD3's is, found "
            "another, and single files of SD3 hold none; write the denoiser alone with "
            "--component transformer"
        )


def require_clip(where: Path, config: Mapping[str, Any]) -> None:
    """Check that a text encoder is SD 1.5's CLIP, and not OpenCLIP as in SD 2."""
    if config.get("hidden_act", "quick_gelu") != "quick_gelu":
        raise UserError(
            f"export: {where}: expected the CLIP of SD 1.5, found hidden_act "
            f"{config['hidden_act']!r}, that of SD 2, whose text encoder has fewer layers here "
            "than in its authors' files; write the denoiser alone with --component unet"
        )


def require_two_widths(folder: Folder, parts: Mapping[str, StoredTensors]) -> None:
    """Check that two CLIPs of SDXL or SD3 differ in width: diffusers tells them apart by that."""
    key = "embeddings.position_embedding.weight"
    clips = {
        name: shape[-1]
        for name, part in parts.items()
        for tensor, shape in part.shapes.items()
        if tensor.endswith(key)
    }
    if len(clips) > len(set(clips.values())):
        raise UserError(
            f"export: {folder.path}: {' and '.join(clips)} have the same width, "
            f"{next(iter(clips.values()))}: diffusers would open one of them as the other; write "
            "the denoiser alone with --component"
        )
