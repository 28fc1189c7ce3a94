"""Which pruned shapes a single file can have: programs that open it take widths from the tensors.

They take numbers of heads and norm groups from constants, so a model that lacks some of them would
be refused there, or computed wrongly without an error.
"""

from typing import Any

import torch
from torch import nn

from ..errors import UserError
from ..models.layout import layout_of
from ..models.pruned_classes import lacks_heads, pruned_class
from ..pipelines.folder import Folder


def require_widths_alone(folder: Folder, component: str) -> None:
    """Check that no heads and no channels were removed from a component.

    Args:
        folder: the checked folder.
        component: the component's name.

    Raises:
        UserError: some were; the message has the remedy.
    """
    lost = lost_kinds(folder.config(component))
    if lost:
        raise UserError(
            f"export: {folder.path / component}: expected all heads and channels, found that "
            f"{' and '.join(sorted(lost))} were removed, of which other programs have constant "
            "numbers; add --pad, which puts zeros in their place"
        )


def lost_kinds(config: dict[str, Any]) -> set[str]:
    """Return which of heads and channels were removed from a model, by its config."""
    if not config.get("pruned_layout"):
        return set()
    opener: Any = pruned_class(str(config.get("_class_name")))
    with torch.device("meta"):
        model = opener.from_config(config)
    assert isinstance(model, nn.Module)
    kinds = {kind for owner in layout_of(model).values() for kind in owner} - {"neurons", "heads"}
    return kinds | ({"heads"} if lacks_heads(model) else set())
