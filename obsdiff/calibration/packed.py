"""Symmetric matrices (I, I) in half the memory: the lower triangle, in bands of rows.

The band of rows a ... b stores the block of its rows and the columns 0 ... b, row by row; the bands
follow each other in one vector. Of the upper triangle only the corners of the blocks on the
diagonal are stored, too.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from .packed_layout import band_rows, packed_size

TILE = 512  # columns of a band that are summed together


def bands(packed: Tensor, columns: int) -> Iterator[tuple[Tensor, slice]]:
    """Yield a view (b - a, b) of each band, with its rows."""
    first = 0
    for rows in band_rows(columns):
        size = (rows.stop - rows.start) * rows.stop
        yield packed[first : first + size].view(-1, rows.stop), rows
        first += size


def tiles(packed: Tensor, columns: int) -> Iterator[tuple[Tensor, slice, slice]]:
    """Yield views of all stored entries, of limited size, with their rows and columns."""
    for band, rows in bands(packed, columns):
        for left in range(0, rows.stop, TILE):
            across = slice(left, min(left + TILE, rows.stop))
            yield band[:, across], rows, across


def unpacked(packed: Tensor, columns: int, factor: float = 1.0) -> Tensor:
    """Return the matrix (I, I), times a factor, in new memory."""
    square = packed.new_empty(columns, columns)
    for tile, rows, across in tiles(packed, columns):
        part = tile * factor
        square[rows, across] = part
        square[across, rows] = part.T
    return square


def packed_of(square: Tensor) -> Tensor:
    """Return the stored entries of a symmetric matrix (I, I)."""
    found = square.new_empty(packed_size(len(square)))
    for band, rows in bands(found, len(square)):
        band.copy_(square[rows, : rows.stop])
    return found


def diagonal(packed: Tensor, columns: int) -> Tensor:
    """Return the diagonal (I,) of the matrix."""
    parts = [band[:, rows].diagonal() for band, rows in bands(packed, columns)]
    return torch.cat(parts) if parts else packed.new_empty(0)
