"""Features for FID and KID, of drawn and of real pictures.

The extractor is Inception, or a CLIP image tower (its projected embedding, not normalised). The
features of real pictures are computed from a folder of pictures, or read from a safetensors file
with a tensor "features" (M, F), whose metadata may contain the extractor's digest.
"""

import hashlib
from collections.abc import Callable, Iterable
from itertools import islice
from pathlib import Path

import torch
from PIL import Image
from safetensors import safe_open
from torch import Tensor

from ...errors import UserError
from ..picture_files import read_picture
from .clip import BATCH, as_tensor, load_transformer, preprocessing
from .files import Judges, picture_files
from .inception import load_inception
from .weights import MetricUnavailable

NO_REAL = "no real pictures to compare with were given: --real FOLDER --download"
Extractor = Callable[[list[Image.Image]], Tensor]


def open_extractor(path: Path | None) -> Extractor:
    """Return the extractor: B pictures -> features (B, F).

    Args:
        path: a folder with a CLIP image tower, a file with Inception's weights, or None for
            Inception from torch's cache.

    Raises:
        MetricUnavailable: the weights are missing or do not fit.
    """
    if path is None or path.is_file():
        net = load_inception(path)
        return lambda images: torch.cat([net(as_tensor(image)[None]) for image in images])
    from transformers import CLIPVisionModelWithProjection

    tower, preprocess = load_transformer(CLIPVisionModelWithProjection, path), preprocessing(path)
    return lambda images: tower(pixel_values=preprocess(images)).image_embeds


@torch.no_grad()
def features_of(images: Iterable[Image.Image], extract: Extractor) -> Tensor:
    """Return the features (N, F) of N pictures, float32.

    Args:
        images: pictures; an iterator is read one batch at a time.
        extract: see open_extractor.
    """
    remaining, found = iter(images), []
    while batch := list(islice(remaining, BATCH)):
        found.append(extract(batch))
    return torch.cat(found).float()


def real_features(judges: Judges, extract: Extractor) -> Tensor:
    """Return the features (M, F) of the real pictures: computed, or read from a file.

    Args:
        judges: with `real`, a folder of pictures or a file of features, and the extractor's path.
        extract: see open_extractor.

    Raises:
        MetricUnavailable: there are no real pictures, or their features are of another extractor.
    """
    if judges.real is None:
        raise MetricUnavailable(NO_REAL)
    if judges.real.is_dir():
        return features_of((real_picture(file) for file in picture_files(judges.real)), extract)
    with safe_open(judges.real, "pt") as file:
        digest = (file.metadata() or {}).get("digest")
        features = file.get_tensor("features").float()
    if digest and digest != file_digest(judges.features):
        raise MetricUnavailable(
            f"{judges.real}: expected features of the extractor --features, found those of another "
            "extractor; save them again with this one"
        )
    return features


def real_picture(file: Path) -> Image.Image:
    """Return a real picture's pixels; MetricUnavailable for a file that is no picture."""
    try:
        return read_picture(file, "remove it from the folder of --real")
    except UserError as error:
        raise MetricUnavailable(str(error)) from None


def file_digest(path: Path | None) -> str | None:
    """Return the SHA-256 of an extractor's weights; None for torch's cache.

    Args:
        path: a file of weights, a folder with model*.safetensors, or None.
    """
    if path is None:
        return None
    found = hashlib.sha256()
    for file in [path] if path.is_file() else sorted(path.glob("model*.safetensors")):
        found.update(file.read_bytes())
    return found.hexdigest()
