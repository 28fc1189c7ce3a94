"""Symmetric matrices (I, I) in half the memory: the lower triangle, in bands of rows.

The band of rows a ... b stores the block of its rows and the columns 0 ... b, row by row; the bands
follow each other in one vector. Of the upper triangle only the corners of the blocks on the
diagonal are stored, too.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from .packed_layout import BAND, band_rows, packed_size

TILE = 512  # columns of a band that are summed together


def bands(packed: Tensor, columns: int, band: int = BAND) -> Iterator[tuple[Tensor, slice]]:
    """Yield a view (b - a, b) of each band, with its rows; `band` in each but the last."""
    first = 0
    for rows in band_rows(columns, band):
        size = (rows.stop - rows.start) * rows.stop
        yield packed[first : first + size].view(-1, rows.stop), rows
        first += size


def tiles(
    packed: Tensor, columns: int, band: int = BAND, width: int = TILE
) -> Iterator[tuple[Tensor, slice, slice]]:
    """Yield views of all stored entries, of limited width, with their rows and columns."""
    for part, rows in bands(packed, columns, band):
        for left in range(0, rows.stop, width):
            across = slice(left, min(left + width, rows.stop))
            yield part[:, across], rows, across


def unpacked(packed: Tensor, columns: int, factor: float = 1.0, band: int = BAND) -> Tensor:
    """Return the matrix (I, I), times a factor, in new memory."""
    square = packed.new_empty(columns, columns)
    width = TILE if packed.device.type == "cpu" else columns
    for tile, rows, across in tiles(packed, columns, band, max(1, width)):
        part = tile * factor
        square[rows, across] = part
        square[across, rows] = part.T
    return square


def packed_of(square: Tensor, band: int = BAND) -> Tensor:
    """Return the stored entries of a symmetric matrix (I, I)."""
    found = square.new_empty(packed_size(len(square), band))
    for part, rows in bands(found, len(square), band):
        part.copy_(square[rows, : rows.stop])
    return found


def diagonal(packed: Tensor, columns: int, band: int = BAND) -> Tensor:
    """Return the diagonal (I,) of the matrix."""
    parts = [part[:, rows].diagonal() for part, rows in bands(packed, columns, band)]
    return torch.cat(parts) if parts else packed.new_empty(0)
