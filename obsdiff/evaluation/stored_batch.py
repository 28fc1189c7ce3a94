"""A batch of drawn pictures on disk: the pictures, and one file with tensors and the hash of all.

The file is written after the pictures, so a batch without it was not finished. A batch of which a
picture or the file was lost, cut off or changed does not count: it is drawn again.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

from PIL.Image import Image
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from ..runtime.file_hashing import file_hash
from ..runtime.hashed_json import content_hash
from ..runtime.hashing import tensors_hash
from ..runtime.regular_files import is_special
from ..runtime.whole_files import whole_file


def write_batch(
    file: Path, tensors: Mapping[str, Tensor], images: Sequence[Image], part: Path, paths: list[str]
) -> None:
    """Write a batch: its pictures first, then its tensors with the hash of all.

    Args:
        file: the file of the tensors.
        tensors: what is stored beside the pictures, such as the latents.
        images: B pictures.
        part: the folder that the run fills.
        paths: their B paths in it.
    """
    save_images(images, part, paths)
    file.parent.mkdir(parents=True, exist_ok=True)
    stored = {name: tensor.contiguous() for name, tensor in tensors.items()}
    with whole_file(file) as beside:
        save_file(stored, beside, {"sha256": batch_hash(stored, part, paths)})


def save_images(images: Sequence[Image], folder: Path, paths: list[str]) -> None:
    """Write pictures as PNG to their paths below `folder`, each file whole."""
    for image, path in zip(images, paths, strict=True):
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        with whole_file(folder / path) as beside:
            image.save(beside, format="PNG")


def read_batch(file: Path, part: Path, paths: list[str]) -> dict[str, Tensor] | None:
    """Return the tensors of a batch; None if a file of it is missing, damaged or changed.

    Args:
        file: the file of the tensors.
        part: the folder that the run fills.
        paths: the paths of the batch's pictures in it.
    """
    if not file.is_file() or any(is_special(part / path) for path in paths):
        return None
    try:
        with safe_open(file, "pt") as opened:
            names = opened.keys()
            tensors = {name: opened.get_tensor(name) for name in names}
            wanted = (opened.metadata() or {}).get("sha256")
        return tensors if wanted == batch_hash(tensors, part, paths) else None
    except (SafetensorError, OSError):
        return None


def batch_hash(tensors: Mapping[str, Tensor], part: Path, paths: list[str]) -> str:
    """Return one hash of the tensors of a batch and of its pictures."""
    pictures = {path: file_hash(part / path) for path in paths}
    return content_hash([tensors_hash(sorted(tensors.items())), pictures])
