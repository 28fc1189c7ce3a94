"""The largest rank of folded layers: of a share, of the model's class, in units of rounding."""

import pytest

from obsdiff import PruningConfig
from obsdiff.calibration.modulation_selection import select_modulation
from obsdiff.layerwise.modulation import in_units

SD3, QWEN = "SD3Transformer2DModel", "QwenImageTransformer2DModel"
NAMES = {SD3: "transformer_blocks.0.norm1.linear", QWEN: "transformer_blocks.0.img_mod.1"}
ROUNDED = {"preset": "small"}


@pytest.mark.parametrize(
    ("cls", "shape", "settings", "rank"),
    [
        (SD3, (1920, 320), {"target": "modulation", "modulation": 0.5}, 137),
        (SD3, (1920, 320), {"target": "modulation"}, 192),  # 0.7 of the weights
        (QWEN, (1920, 320), {"target": "modulation"}, 27),  # 0.1
        (SD3, (1920, 320), ROUNDED | {"modulation": 0.7}, 192),
        (SD3, (1280, 320), ROUNDED | {"modulation": 0.7}, 128),  # of 179, at most
        (SD3, (1280, 320), ROUNDED, 192),  # of 179, the nearest
        (QWEN, (1280, 320), ROUNDED, 25),  # less than half a unit
        (SD3, (90, 90), ROUNDED, 31),  # 64 would have more weights than the layer
    ],
)
def test_the_largest_rank(cls, shape, settings, rank):
    config = PruningConfig(**settings)
    assert select_modulation(cls, {NAMES[cls]: shape}, config) == {NAMES[cls]: rank}


@pytest.mark.parametrize(
    ("rank", "unit", "expected"),
    [(7, 1, 7), (40, 64, 64), (32, 64, 32), (65, 64, 128), (64, 64, 64)],
)
def test_a_rank_becomes_a_multiple_where_that_takes_fewer_bytes(rank, unit, expected):
    assert in_units(rank, unit) == expected
