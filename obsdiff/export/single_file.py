"""A pipeline as one safetensors file under its authors' names, as ComfyUI and others open it.

The weights are those of the folder, bit for bit and in their stored formats. The configs of all
components, and what was pruned, are in the file's metadata.
"""

import contextlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from ..errors import UserError
from ..pipelines.folder import Folder
from ..pipelines.output_path import absolute
from ..runtime.json_files import read_json
from ..runtime.version import VERSION
from ..runtime.whole_files import whole_file
from .inverse import Recipes, prefixed
from .layouts import (
    CLIP,
    CLIP_WITHOUT_PROJECTION,
    DENOISER,
    OPEN_CLIP,
    T5,
    VAE,
    Place,
    class_of,
    places,
)
from .original_names import original_recipes
from .shapes import require_widths_alone
from .stored_tensors import StoredTensors
from .text_names import PROJECTION, clip_recipes, open_clip_recipes, t5_recipes
from .traced import Untraceable

FORMAT = 1  # of the metadata


def export_single_file(folder: Folder, output: Path, component: str | None) -> list[str]:
    """Write a pipeline, or its denoiser alone, as one file.

    Args:
        folder: a checked folder.
        output: the file to write.
        component: the denoiser to write alone; None for the whole model.

    Returns:
        The names of the components in the file.

    Raises:
        UserError: the model can't be written as one file; the message says why.
    """
    chosen = places(folder, component)
    for name in chosen:
        require_widths_alone(folder, name)
    with contextlib.ExitStack() as opened:
        tensors = original_tensors(folder, chosen, opened)
        write_tensors(folder, list(chosen), tensors, output)
    return list(chosen)


def write_tensors(
    folder: Folder, names: list[str], tensors: dict[str, Tensor], output: Path
) -> None:
    """Write a file whole.

    Args:
        folder: the checked folder.
        names: the components whose tensors these are.
        tensors: by their names in the file.
        output: the file.
    """
    output = absolute(output)
    output.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(output) as beside:
        save_file(tensors, beside, metadata(folder, names))


def original_tensors(
    folder: Folder, chosen: Mapping[str, Place], opened: contextlib.ExitStack
) -> dict[str, Tensor]:
    """Return all tensors of some components by the authors' names.

    Args:
        folder: the checked folder.
        chosen: the components and their places in the file.
        opened: keeps the folder's files open.
    """
    tensors: dict[str, Tensor] = {}
    parts = {name: StoredTensors(folder.components[name], opened) for name in chosen}
    require_two_widths(folder, parts)
    for name, place in chosen.items():
        recipes = recipes_of(folder, name, place, parts[name])
        try:
            tensors |= {key: recipe.made(parts[name].read) for key, recipe in recipes.items()}
        except Untraceable as error:
            raise UserError(f"export: {folder.path / name}: {error}") from None
    return tensors


def recipes_of(folder: Folder, name: str, place: Place, part: StoredTensors) -> Recipes:
    """Return the recipes of a component's tensors, by their names in the file."""
    config = folder.config(name)
    if place.kind in (DENOISER, VAE):
        return prefixed(place.prefix, original_recipes(class_of(folder, name), part.shapes, config))
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


def metadata(folder: Folder, names: list[str]) -> dict[str, str]:
    """Return the texts in the file's header: configs, what was pruned, the version.

    Args:
        folder: the checked folder.
        names: the components in the file.
    """
    configs = {f"{name}/config.json": folder.config(name) for name in names}
    layouts = {name: folder.config(name).get("pruned_layout") for name in names}
    others = ("model_index.json", "scheduler/scheduler_config.json")
    configs |= {f: read_json(folder.path / f) for f in others if (folder.path / f).is_file()}
    for config in configs.values():
        config.pop("_name_or_path", None)
    own = {
        "format": FORMAT,
        "version": VERSION,
        "pipeline": folder.pipeline,
        "classes": {name: list(folder.classes[name]) for name in names},
        "pruned_layout": {name: layout for name, layout in layouts.items() if layout},
    }
    texts = {name: json.dumps(config) for name, config in configs.items()}
    return {"format": "pt", "obsdiff": json.dumps(own)} | texts
