"""Features for FID and KID: of drawn pictures, and of the real ones they are compared with.

The extractor is Inception, or any CLIP image tower (its projected, not normalised embedding). Real features are computed from a folder of
pictures, or were saved: a safetensors file with "features" (M, F), whose metadata may name the extractor's digest.
"""

import hashlib
from collections.abc import Callable, Iterable
from itertools import islice
from pathlib import Path

import torch
from PIL import Image
from safetensors import safe_open
from torch import Tensor

from .clip import BATCH, as_tensor, load, reader
from .files import Judges, picture_files
from .inception import load_inception
from .weights import NotAtHand

Extractor = Callable[[list[Image.Image]], Tensor]


def open_extractor(path: Path | None) -> Extractor:
    """Pictures (B) -> features (B, F). A folder is a CLIP image tower; a file, or None for torch's cache, Inception."""
    if path is None or path.is_file():
        net = load_inception(path)
        return lambda images: torch.cat([net(as_tensor(image)[None]) for image in images])
    from transformers import CLIPVisionModelWithProjection

    tower, read = load(CLIPVisionModelWithProjection, path), reader(path)
    return lambda images: tower(pixel_values=read(images)).image_embeds


@torch.no_grad()
def features_of(images: Iterable[Image.Image], extract: Extractor) -> Tensor:
    """Features (N, F) of N pictures."""
    waiting, found = iter(images), []
    while batch := list(islice(waiting, BATCH)):
        found.append(extract(batch))
    return torch.cat(found).float()


def real_features(judges: Judges, extract: Extractor) -> Tensor:
    """Features (M, F) of the real pictures, which have been given: computed, or as saved by the same extractor."""
    if judges.real.is_dir():
        return features_of(
            (Image.open(file).convert("RGB") for file in picture_files(judges.real)), extract
        )
    with safe_open(judges.real, "pt") as file:
        made_by, features = (
            (file.metadata() or {}).get("digest"),
            file.get_tensor("features").float(),
        )
    if made_by and made_by != file_digest(judges.features):
        raise NotAtHand(
            f"the features in {judges.real} were made by another extractor than --features; save them again with this one"
        )
    return features


def file_digest(path: Path | None) -> str | None:
    """SHA-256 of an extractor's weights; None for torch's cache."""
    if path is None:
        return None
    found = hashlib.sha256()
    for file in [path] if path.is_file() else sorted(path.glob("model*.safetensors")):
        found.update(file.read_bytes())
    return found.hexdigest()
