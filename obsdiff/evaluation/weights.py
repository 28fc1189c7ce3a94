"""What a model is known by: one SHA-256 of each component's stored tensors.

Paths don't tell models apart: every experiment may have its base in ./model. The hash is that of
names, formats, shapes and values, so shards, folders, metadata and bitmasks don't count.
"""

import contextlib
from typing import Any

from safetensors import safe_open

from ..pipelines.bitmask_files import names_in, read_weight
from ..pipelines.folder import Folder
from ..pipelines.headers import Tensors
from ..runtime.hashing import tensors_hash
from .flaws import checkers_of


def weight_hashes(folder: Folder) -> dict[str, str]:
    """Return the SHA-256 of the weights of every component that draws, by its name."""
    left_out = checkers_of(folder)
    return {
        name: stored_hash(tensors)
        for name, tensors in folder.components.items()
        if tensors.shapes and name not in left_out
    }


def stored_hash(stored: Tensors) -> str:
    """Return the SHA-256 of a component's tensors, in the order of their names."""
    with contextlib.ExitStack() as opened:
        files: list[Any] = [opened.enter_context(safe_open(file, "pt")) for file in stored.files]
        packed = stored.bitmasks
        places = {
            name: file for file in files for name in stored.shapes.keys() & names_in(file, packed)
        }
        return tensors_hash((n, read_weight(places[n], n, packed)) for n in sorted(places))
