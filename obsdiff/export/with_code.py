"""A structured result with a modelling file beside its weights, which opens it without obsdiff.

The file is code in a checkpoint: whoever opens the folder by it has to trust its publisher. It is
therefore written on demand alone, and obsdiff never runs it.
"""

from pathlib import Path
from typing import Any

from ..errors import UserError
from ..models.meta_device import build_on_meta
from ..models.own_names import FOLDED_KEY, LAYOUT_KEY, LOW_RANK_KEY
from ..pipelines.folder import Folder
from ..pipelines.loading_code import code_file
from ..pipelines.record import read_record
from ..pipelines.verify import verify_folder
from ..runtime.whole_files import write_whole
from .changed_copy import changed_copy
from .modelling_file import modelling_file

LIBRARY = "obsdiff"  # of a component of pruned shapes, in model_index.json


def export_with_code(folder: Folder, output: Path) -> list[str]:
    """Copy a structured result, and write a modelling file beside its pruned weights.

    Args:
        folder: the checked folder; it is verified first.
        output: the folder to write; must not exist.

    Returns:
        The files of code, relative to the folder.

    Raises:
        UserError: it is no structured result, or has layers that such a file does not make.
        RunFailed: it differs from its record.
    """
    record = read_record(folder.path)
    names = [name for name, (library, _) in folder.classes.items() if library == LIBRARY]
    texts = {name: text_of(folder, name) for name in names}
    if not texts:
        raise UserError(
            f"{folder.path}: expected a structured result of obsdiff, found no component of pruned "
            "shapes; it opens without obsdiff as it is"
        )
    verify_folder(folder.path)
    with changed_copy(folder.path, output, record) as inside:
        for name, text in texts.items():
            write_whole(code_file(inside, name), text)
    return [code_file(Path(), name).as_posix() for name in texts]


def text_of(folder: Folder, component: str) -> str:
    """Return the modelling file of a component; UserError if it has more than removed parts."""
    config: dict[str, Any] = folder.config(component)
    for key, flag in ((LOW_RANK_KEY, "--low-rank"), (FOLDED_KEY, "--modulation")):
        if config.get(key):
            raise UserError(
                f"{folder.path / component}: expected layers that lost heads, neurons or channels "
                f"alone, found those of {flag}, which diffusers has no class for; open it after "
                "import obsdiff"
            )
    if not config.get(LAYOUT_KEY):
        raise UserError(f"{folder.path / component}: expected a pruned layout, found none")
    return modelling_file(build_on_meta(config), folder.pipeline)
