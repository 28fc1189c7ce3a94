"""A structured result grown back to dense shapes with zeros: a plain diffusers folder.

It opens wherever the dense pipeline opens and draws what the pruned one draws. It saves nothing:
the zeros are stored and multiplied.
"""

from pathlib import Path
from typing import Any

from torch import nn

from ..errors import UserError
from ..models.folded import folded_ranks
from ..models.growth import grow_
from ..models.layout import layout_of
from ..models.low_rank import ranks_of
from ..pipelines.copied_parts import forget_places
from ..pipelines.denoisers import DENOISERS
from ..pipelines.folder import Folder
from ..pipelines.load import load_pipeline
from ..pipelines.loading_code import loading_code
from ..pipelines.model_card import CARD, opening
from ..pipelines.save import whole_folder
from ..pipelines.stored_formats import saved_as_stored
from ..runtime.whole_files import set_modes, write_whole


def export_padded(folder: Folder, output: Path) -> list[str]:
    """Write a pruned pipeline with dense shapes into a new folder, whole or not at all.

    Args:
        folder: a checked folder with a denoiser of pruned shapes.
        output: the folder to write; must not exist.

    Returns:
        The names of the components that were grown.

    Raises:
        UserError: no component has pruned shapes, or the output can't be written.
    """
    with whole_folder(output, overwrite=False, inputs=[folder.path]) as inside:
        pipe, formats = load_pipeline(folder, device="cpu")
        grown = pad_(pipe)
        with saved_as_stored(pipe, folder, None, grown, formats):
            pipe.save_pretrained(inside, safe_serialization=True)
        forget_places(inside)
        set_modes(inside)
        code = loading_code(inside, type(pipe))
        write_whole(inside / CARD, card(type(pipe).__name__, grown, code))
    return grown


def pad_(pipe: Any) -> list[str]:
    """Grow every denoiser of pruned shapes in a pipeline, in place, and return their names."""
    found = {name: getattr(pipe, name, None) for name in DENOISERS}
    parts = {name: part for name, part in found.items() if isinstance(part, nn.Module)}
    grown = [
        name
        for name, part in parts.items()
        if layout_of(part) or ranks_of(part) or folded_ranks(part)
    ]
    if not grown:
        raise UserError(
            "export: expected a denoiser without some heads, neurons or channels, or with "
            "corrections of low rank or folded modulation, found plain dense layers, which "
            "have nothing to pad"
        )
    for name in grown:
        setattr(pipe, name, grow_(parts[name]))
    return grown


def card(pipeline: str, grown: list[str], code: list[str]) -> str:
    """Return the README.md of a padded folder.

    Args:
        pipeline: name of the pipeline's class.
        grown: names of the components that were grown.
        code: the lines of Python that open the folder.
    """
    text = (
        f"The heads, neurons or channels that were removed from {' and '.join(grown)} are zeros "
        "here. Corrections of low rank are added to their weights, which has filled the zeros "
        "there, and folded modulation layers are one layer each again (`obsdiff export --to "
        "padded`). The folder opens wherever the dense pipeline opens, and draws what the pruned "
        "one draws. It is neither smaller nor faster than the dense pipeline."
    )
    title = f"{pipeline}, pruned by obsdiff, in dense shapes"
    lines = [*opening(title, text, code), "The licence of the dense model applies."]
    return "\n".join(lines) + "\n"
