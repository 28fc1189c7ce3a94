"""The tensors of one component as its files store them, by the names of today's diffusers."""

import contextlib
import re
from pathlib import Path
from typing import Any

from safetensors import safe_open
from torch import Tensor

from ..models.own_names import MODULE
from ..pipelines.headers import Tensors, read_header

# names in VAEs that older versions of diffusers saved
OLDER = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
COMPUTED = "embeddings.position_ids"  # stored by older versions of transformers


class StoredTensors:
    """The tensors of a component, read one by one.

    Attributes:
        shapes: shape of each tensor but the markers, by the name of today's diffusers.
    """

    def __init__(self, tensors: Tensors, opened: contextlib.ExitStack) -> None:
        """Open the files.

        Args:
            tensors: the component's headers.
            opened: keeps the files open.
        """
        self.stored = {
            present(name): name
            for name in tensors.shapes
            if not name.endswith(COMPUTED) and not name.startswith(MODULE + ".")
        }
        self.shapes = {name: tensors.shapes[stored] for name, stored in self.stored.items()}
        self.homes: dict[str, Any] = {}
        for file in tensors.files:
            handle = opened.enter_context(safe_open(file, framework="pt"))
            self.homes |= dict.fromkeys(names_in(file), handle)

    def read(self, name: str) -> Tensor:
        """Return a tensor by the name of today's diffusers."""
        stored = self.stored[name]
        found: Tensor = self.homes[stored].get_tensor(stored)
        return found


def present(name: str) -> str:
    """Return the name that today's diffusers gives a tensor of an older VAE; others as they are."""
    older = re.fullmatch(r"(.+\.attentions\.\d+\.)(query|key|value|proj_attn)(\.\w+)", name)
    return f"{older[1]}{OLDER[older[2]]}{older[3]}" if older else name


def names_in(file: Path) -> list[str]:
    """Return the names of the tensors in a safetensors file."""
    return list(read_header(file))
