"""A full disk, foreseen before a run: what its outputs take at least. No torch."""

import math
from collections.abc import Sequence
from pathlib import Path

from ..config import PruningConfig
from ..config.choices import MOST_ALLOCATED
from ..errors import UserError
from ..pipelines.folder import Folder
from ..pipelines.headers import Tensors
from ..runtime.disk import free_disk

BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}


def require_room(output: Path, folder: Folder, configs: Sequence[PruningConfig]) -> None:
    """Check that the disk has room for the outputs of a run.

    Args:
        output: the folder to write.
        folder: the model, with weights.
        configs: the prunings that are left to do.

    Raises:
        UserError: it has less than they take at least.
    """
    needed, free = least_bytes(folder, configs), free_disk(output)
    if needed > free:
        several = f"{len(configs)} pruned pipelines take" if len(configs) > 1 else "a result takes"
        raise UserError(
            f"output: {several} at least {in_words(needed)}, and the disk of {output} has "
            f"{in_words(free)} free; free some, or choose an output on another disk"
        )


def in_words(size: int) -> str:
    """Return bytes of files as text: 33.8 GB, 55 MB."""
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.0f} MB"


def least_bytes(folder: Folder, configs: Sequence[PruningConfig]) -> int:
    """Return the bytes that the outputs take at least; what they share is counted once.

    Args:
        folder: the model, with weights.
        configs: the prunings.
    """
    if not configs:
        return 0
    component, dtype = folder.denoiser(configs[0].component), configs[0].dtype
    sizes = {name: bytes_in(tensors, dtype) for name, tensors in folder.components.items()}
    denoiser = sizes.pop(component)
    return round(sum(sizes.values()) + sum(least_left(c) * denoiser for c in configs))


def bytes_in(tensors: Tensors, dtype: str | None) -> int:
    """Return the bytes of a component in a number format; None is the stored one."""
    if dtype is None:
        return tensors.size
    return BYTES[dtype] * sum(math.prod(shape) for shape in tensors.shapes.values())


def least_left(config: PruningConfig) -> float:
    """Return the share of the denoiser's bytes that a pruning leaves at least."""
    if config.pattern != "structured" and not config.depth:
        return 1.0
    budget = config.budget is not None or config.target_latency is not None
    return 1 - (MOST_ALLOCATED["structured"] if budget else config.removed)
