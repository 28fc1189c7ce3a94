"""Masks and boxes of detectors as objects."""

import numpy as np
import pytest
import torch
from PIL import Image

from obsdiff.evaluation.judges.geneval.detector import found_boxes, instances, open_detector
from obsdiff.evaluation.judges.geneval.rule import Found
from obsdiff.evaluation.judges.weights import MetricUnavailable
from obsdiff.pipelines.hub_files import model_files

PICTURE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 24, 3), dtype=np.uint8))


def logits(*rows: tuple[float, ...]) -> torch.Tensor:
    """Logits of probabilities."""
    return torch.tensor(rows).log()


def test_an_instance_is_a_query_with_a_class_and_the_box_of_its_mask():
    masks = torch.full((3, 4, 6), -9.0)
    masks[0, 1:3, 2:5] = 2.0
    masks[1, 0, 0] = 2.0
    classes = logits((0.8, 0.1, 0.1), (0.1, 0.2, 0.7), (0.05, 0.9, 0.05))
    (one,) = instances(classes, masks, (4, 6), ["dog", "cup"])  # another is weak, another empty
    assert (one.name, one.box) == ("dog", (2, 1, 5, 3))
    assert one.score == pytest.approx(0.8 * torch.tensor(2.0).sigmoid().item())
    assert one.mask is not None
    assert one.mask.sum() == 6


def test_one_query_can_be_of_two_classes_and_masks_grow_to_the_picture():
    masks = torch.full((1, 2, 2), 5.0)
    classes = logits((0.45, 0.4, 0.15))
    found = instances(classes, masks, (8, 6), ["dog", "cup"])
    assert [(one.name, one.box) for one in found] == [("dog", (0, 0, 6, 8)), ("cup", (0, 0, 6, 8))]


def test_another_number_of_classes_is_refused():
    with pytest.raises(MetricUnavailable, match="expected a detector of 3 classes, by id2label"):
        instances(torch.zeros(1, 3), torch.zeros(1, 2, 2), (2, 2), ["a", "b", "c"])


def test_boxes_have_names():
    boxes = {"scores": torch.tensor([0.5]), "labels": torch.tensor([1]), "boxes": torch.ones(1, 4)}
    assert found_boxes(boxes, ["dog", "cup"]) == [Found("cup", 0.5, (1, 1, 1, 1))]


@pytest.mark.slow
def test_models_of_transformers_find_objects(mask_detector, box_detector, monkeypatch):
    monkeypatch.setattr("obsdiff.evaluation.judges.geneval.detector.THRESHOLD", 0.0)
    of_masks, of_boxes = open_detector(mask_detector)(PICTURE), open_detector(box_detector)(PICTURE)
    assert 0 < len(of_masks) <= 6 * 7
    assert len(of_boxes) == 5
    assert {one.name for one in of_masks} >= {"tv remote", "bench"}  # GenEval's names
    for one in of_masks:
        left, top, right, bottom = one.box
        assert 0 <= left < right <= 24
        assert 0 <= top < bottom <= 40
        assert one.mask is not None
        assert one.mask.shape == (40, 24)
    for one in (*of_masks, *of_boxes):
        assert 0 < one.score < 1


@pytest.mark.slow
def test_masks_are_as_transformers_has_them(mask_detector):
    """The confidences of the library's own post-processing, which knows pictures of 384 pixels."""
    from transformers import AutoImageProcessor, Mask2FormerForUniversalSegmentation

    model = Mask2FormerForUniversalSegmentation.from_pretrained(mask_detector).eval()
    processor = AutoImageProcessor.from_pretrained(mask_detector)
    with torch.no_grad():
        out = model(**processor(images=PICTURE, return_tensors="pt"))
    out.class_queries_logits = out.class_queries_logits * 50  # a random model is sure of nothing
    names = list(model.config.id2label.values())
    ours = instances(out.class_queries_logits[0], out.masks_queries_logits[0], (384, 384), names)
    theirs = processor.post_process_instance_segmentation(
        out, threshold=0.0, target_sizes=[(384, 384)], return_binary_maps=True
    )[0]["segments_info"]
    assert ours
    for one in ours:
        nearest = min(abs(one.score - each["score"]) for each in theirs)
        assert nearest < 1e-4, one.name


@pytest.mark.slow
def test_the_files_that_are_downloaded_are_enough(box_detector, tmp_path):
    for name in model_files({file.name for file in box_detector.iterdir()}, "geneval"):
        (tmp_path / name).write_bytes((box_detector / name).read_bytes())
    assert isinstance(open_detector(tmp_path)(PICTURE), list)
