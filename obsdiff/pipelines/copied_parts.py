"""Tokenizers, schedulers and processors of a pruned pipeline: copies of the source's files.

Saved by their own libraries they come out changed: a tokenizer notes the padding and the length of
its last call, and every library adds settings of its version.
"""

import contextlib
import re
import shutil
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from torch import nn

from ..runtime.json_files import read_json, write_json
from .folder import Folder
from .run import replaced

COPIED = (".json", ".txt", ".model", ".jinja")
PLACE = "_name_or_path"  # where a config was loaded from
INDEX = "model_index.json"


@contextlib.contextmanager
def copied_as_stored(pipe: Any, folder: Folder) -> Iterator[None]:
    """Let save_pretrained copy the files of all components without weights inside.

    Args:
        pipe: the pipeline, whose tokenizers and schedulers are as they were opened.
        folder: the model that it was opened from.
    """
    with contextlib.ExitStack() as undo:
        for name, part in pipe.components.items():
            source = folder.path / name
            if part is not None and not isinstance(part, nn.Module) and files_of(source):
                undo.enter_context(replaced(part, "save_pretrained", partial(copy_part, source)))
        yield


def files_of(source: Path) -> list[Path]:
    """Return the files of a tokenizer, scheduler or processor; nothing else that lies there."""
    if not source.is_dir():
        return []
    return sorted(file for file in source.iterdir() if file.suffix in COPIED and file.is_file())


def copy_part(source: Path, target: str | Path, **_: Any) -> None:
    """Save a component in place of its save_pretrained: copies of its files.

    Args:
        source: its folder.
        target: the folder to write.
    """
    folder = Path(target)
    folder.mkdir(parents=True, exist_ok=True)
    for file in files_of(source):
        shutil.copyfile(file, folder / file.name)


def forget_places(folder: Path) -> None:
    """Remove the paths of this machine that libraries write into the configs of a saved pipeline.

    The id of a hub's repository stays; a pipeline that lies in the hub's cache gets its id.

    Args:
        folder: the saved pipeline, which has no record yet.
    """
    for file in (folder / INDEX, *sorted(folder.glob("*/*config.json"))):
        config = read_json(file) if file.is_file() else {}
        place = config.get(PLACE)
        if isinstance(place, str) and (Path(place).is_absolute() or Path(place).exists()):
            others = {key: value for key, value in config.items() if key != PLACE}
            hub_id = cached_id(Path(place)) if file.name == INDEX else None
            write_json(file, others | ({PLACE: hub_id} if hub_id else {}))


def cached_id(place: Path) -> str | None:
    """Return the id of the repository that a path in the hub's cache is of; None for others."""
    found = re.search(r"/models--([\w.-]+?)--([\w.-]+)/snapshots/[0-9a-f]{40}", place.as_posix())
    return "/".join(found.groups()) if found else None
