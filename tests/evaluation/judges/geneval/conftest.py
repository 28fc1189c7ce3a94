"""GenEval's prompts, and tiny detectors of their own classes with random weights."""

import json
from pathlib import Path

import pytest
import torch
from transformers import (
    Mask2FormerConfig,
    Mask2FormerForUniversalSegmentation,
    Mask2FormerImageProcessor,
    SwinConfig,
    YolosConfig,
    YolosForObjectDetection,
    YolosImageProcessor,
)

from ....conftest import randomise
from .lines import LINES

SIDE = {"height": 32, "width": 32}
CLASSES = ["bench", "remote", "clock", "car", "cup", "dog", "horse"]
NAMED = {
    "id2label": dict(enumerate(CLASSES)),
    "label2id": {name: i for i, name in enumerate(CLASSES)},
}


@pytest.fixture
def metadata(tmp_path) -> Path:
    """One prompt of each kind."""
    file = tmp_path / "evaluation_metadata.jsonl"
    file.write_text("\n".join(map(json.dumps, LINES)) + "\n")
    return file


def of_masks() -> Mask2FormerForUniversalSegmentation:
    """A Mask2Former with a Swin of four stages, 6 queries."""
    swin = SwinConfig(
        image_size=32, patch_size=4, embed_dim=8, depths=[1, 1, 1, 1], num_heads=[1, 1, 2, 2],
        window_size=2, out_features=["stage1", "stage2", "stage3", "stage4"],
    )  # fmt: skip
    config = Mask2FormerConfig(
        backbone_config=swin, feature_size=32, mask_feature_size=32, hidden_dim=32, num_queries=6,
        encoder_feedforward_dim=16, dim_feedforward=16, encoder_layers=1, decoder_layers=2,
        num_attention_heads=2, **NAMED,
    )  # fmt: skip
    return Mask2FormerForUniversalSegmentation(config)


def of_boxes() -> YolosForObjectDetection:
    """A YOLOS of two layers, 5 queries."""
    config = YolosConfig(
        hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
        image_size=[32, 32], patch_size=8, num_detection_tokens=5, **NAMED,
    )  # fmt: skip
    return YolosForObjectDetection(config)


def saved(model: torch.nn.Module, processor: object, folder: Path) -> Path:
    """Save a model with its preprocessing."""
    randomise(model).save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def mask_detector(tmp_path_factory) -> Path:
    pytest.importorskip("scipy")
    torch.manual_seed(0)
    processor = Mask2FormerImageProcessor(size={"height": 64, "width": 64})
    return saved(of_masks(), processor, tmp_path_factory.mktemp("detectors") / "masks")


@pytest.fixture(scope="session")
def box_detector(tmp_path_factory) -> Path:
    torch.manual_seed(0)
    processor = YolosImageProcessor(size=SIDE)
    return saved(of_boxes(), processor, tmp_path_factory.mktemp("detectors") / "boxes")
