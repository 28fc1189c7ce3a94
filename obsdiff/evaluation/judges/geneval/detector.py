"""Picture -> objects, by a model of transformers that finds boxes, or masks of instances.

A model of queries (MaskFormer, Mask2Former) gives each of Q queries the probabilities of C classes
and of "none", and a mask. An instance is a query with a class; its confidence is the probability of
the class times the mean probability of the pixels of its mask, its box the smallest one around it.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from ..clip import load_transformer
from ..weights import MetricUnavailable
from .files import OF_MASKS
from .rule import THRESHOLD, Found
from .tasks import geneval_name

MOST_INSTANCES = 100  # of a picture
Detector = Callable[[Image.Image], list[Found]]


def open_detector(folder: Path) -> Detector:
    """Return a detector: picture -> all objects above the lower threshold.

    Args:
        folder: a model of transformers, with its preprocessor_config.json.

    Raises:
        MetricUnavailable: tensors are missing.
    """
    from transformers import (
        AutoConfig,
        AutoImageProcessor,
        AutoModelForObjectDetection,
        AutoModelForUniversalSegmentation,
    )

    config = AutoConfig.from_pretrained(folder, local_files_only=True)
    processor = AutoImageProcessor.from_pretrained(folder, local_files_only=True)
    of_masks = config.model_type in OF_MASKS
    kind = AutoModelForUniversalSegmentation if of_masks else AutoModelForObjectDetection
    model = load_transformer(kind, folder)
    names = [geneval_name(model.config.id2label[i]) for i in range(len(model.config.id2label))]

    @torch.no_grad()
    def detect(image: Image.Image) -> list[Found]:
        image = image.convert("RGB")
        out = model(**processor(images=image, return_tensors="pt"))
        size = (image.height, image.width)
        if of_masks:
            return instances(out.class_queries_logits[0], out.masks_queries_logits[0], size, names)
        (boxes,) = processor.post_process_object_detection(
            out, threshold=THRESHOLD, target_sizes=[size]
        )
        return found_boxes(boxes, names)

    return detect


def found_boxes(boxes: dict[str, Tensor], names: list[str]) -> list[Found]:
    """Return the objects of a detector of boxes.

    Args:
        boxes: "scores" (K,), "labels" (K,) and "boxes" (K, 4) in pixels.
        names: of the classes.
    """
    rows = zip(
        boxes["labels"].tolist(), boxes["scores"].tolist(), boxes["boxes"].tolist(), strict=True
    )
    return [Found(names[label], score, tuple(box)) for label, score, box in rows]


def instances(
    classes: Tensor, masks: Tensor, size: tuple[int, int], names: list[str]
) -> list[Found]:
    """Return the instances of a model of queries that can be above the lower threshold.

    Args:
        classes: logits of Q queries (Q, C + 1), the last one of "none".
        masks: logits of their masks (Q, h, w), of the whole picture.
        size: height and width of the picture.
        names: of the C classes.

    Raises:
        MetricUnavailable: the model has another number of classes.
    """
    shares = classes.softmax(-1)[:, :-1]
    if shares.shape[1] != len(names):
        raise MetricUnavailable(
            f"expected a detector of {len(names)} classes, by id2label, found {shares.shape[1]}"
        )
    best = shares.flatten().topk(min(MOST_INSTANCES, shares.numel()))
    found = []
    for share, place in zip(best.values.tolist(), best.indices.tolist(), strict=True):
        if share <= THRESHOLD:  # no mask makes it more
            continue
        query, label = divmod(place, len(names))
        logits = F.interpolate(masks[None, None, query], size, mode="bilinear")[0, 0]
        mask = logits > 0
        if mask.any():
            score = share * float(logits[mask].sigmoid().mean())
            found.append(Found(names[label], score, box_around(mask), mask.numpy()))
    return found


def box_around(mask: Tensor) -> Any:
    """Return the smallest box (left, top, right, bottom) around a mask (H, W) that is not empty."""
    rows, columns = (mask.any(axis).nonzero().flatten().tolist() for axis in (1, 0))
    return (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1)
