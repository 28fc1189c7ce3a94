"""A denoiser in its pruned shapes, heads too, for obsdiff's node in ComfyUI.

The names are the authors' without a prefix. If heads are missing, the file has the marker: the
loader of ComfyUI itself, which would compute another attention, finds no model in it and stops.
"""

import contextlib
from pathlib import Path

import torch

from ..errors import UserError
from ..models.client_marker import MARKER_KEY
from ..pipelines.folder import Folder
from .layouts import places
from .original_names import UNET_PREFIX
from .originals import original_tensors
from .shapes import HEAD_SIZE, lost_kinds, require_plain_layers
from .single_file import write_tensors


def export_comfyui(folder: Folder, output: Path, component: str) -> list[str]:
    """Write the denoiser of a pipeline as one file for obsdiff's node in ComfyUI.

    Args:
        folder: a checked folder.
        output: the file to write.
        component: the denoiser.

    Returns:
        The names of the components in the file.

    Raises:
        UserError: the model can't be written as one file, or ComfyUI has no
            place for what was pruned.
    """
    chosen = places(folder, component)
    require_plain_layers(folder, component)
    require_head_size(folder, component)
    lost = lost_kinds(folder.config(component))
    if others := lost - {"heads"}:
        raise UserError(
            f"export: {folder.path / component}: expected heads and neurons alone to be removed, "
            f"found that {' and '.join(sorted(others))} were, for which ComfyUI's layers have no "
            "place; export to single-file with --pad"
        )
    with contextlib.ExitStack() as opened:
        found = original_tensors(folder, chosen, opened)
        tensors = {name.removeprefix(UNET_PREFIX): value for name, value in found.items()}
        if "heads" in lost:
            tensors[MARKER_KEY] = torch.zeros(1)
        write_tensors(folder, list(chosen), tensors, output)
    return list(chosen)


def require_head_size(folder: Folder, component: str) -> None:
    """Check that the heads of an SD3 have the only size that ComfyUI builds; UserError if not."""
    config = folder.config(component)
    size = config.get("attention_head_dim")
    if str(config.get("_class_name")).endswith("SD3Transformer2DModel") and size != HEAD_SIZE:
        raise UserError(
            f"export: {folder.path / component}: expected heads of {HEAD_SIZE}, the only size that "
            f"ComfyUI builds for SD3, found heads of {size}; no file for ComfyUI is written"
        )
