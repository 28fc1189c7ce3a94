"""Symmetric matrices of which the lower triangle is stored."""

import pytest
import torch

from obsdiff.calibration.packed import (
    bands,
    diagonal,
    packed_of,
    tiles,
    unpacked,
)
from obsdiff.calibration.packed_layout import BAND, WIDE, band_rows, packed_size, wide_band

SIZES = [1, 7, 256, 257, 700, 1100]


def symmetric(columns: int) -> torch.Tensor:
    x = torch.randn(columns, columns, generator=torch.Generator().manual_seed(columns))
    return x + x.T


@pytest.mark.parametrize("columns", SIZES)
@pytest.mark.parametrize("band", [BAND, 768])
def test_what_is_packed_and_unpacked_is_the_same(columns, band):
    square = symmetric(columns)
    packed = packed_of(square, band)
    assert packed.shape == (packed_size(columns, band),)
    assert torch.equal(unpacked(packed, columns, band=band), square)
    assert torch.equal(unpacked(packed, columns, 3.0, band), square * 3.0)
    assert torch.equal(diagonal(packed, columns, band), square.diagonal())


@pytest.mark.parametrize("columns", SIZES)
def test_tiles_and_bands_are_views_of_every_stored_entry_once(columns):
    for parts in (bands, tiles):
        packed = torch.zeros(packed_size(columns))
        for part, *_ in parts(packed, columns):
            part.add_(1)
        assert torch.equal(packed, torch.ones_like(packed))
    square = symmetric(columns)
    for tile, rows, across in tiles(packed_of(square), columns):
        assert torch.equal(tile, square[rows, across])


@pytest.mark.parametrize("columns", [*SIZES, 1536, 2048, 3072, 6144, 12288, 15360])
def test_wide_bands_are_few_and_need_a_third_more(columns):
    band = wide_band(columns)
    assert band % BAND == 0
    assert len(list(band_rows(columns, band))) <= max(3, columns / WIDE + 1)
    assert packed_size(columns, band) <= 4 / 3 * packed_size(columns)


def test_a_wide_matrix_needs_little_more_than_half():
    assert packed_size(6144) < 0.53 * 6144**2
    assert packed_size(256) == 256**2
