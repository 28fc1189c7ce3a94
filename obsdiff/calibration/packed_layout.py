"""Where the entries of a packed symmetric matrix are, and how many there are (no torch).

The lower triangle is stored in bands of rows: of the rows a ... b the columns 0 ... b. Narrow bands
need the least memory; an accelerator with room for them has wide ones, which take fewer launches.
"""

from collections.abc import Iterator

BAND = 256  # rows of a band
WIDE = 2048  # rows of a band on an accelerator, at most
FEW = 3  # bands of a matrix on an accelerator, or 2 of one with up to WIDE columns


def band_rows(columns: int, band: int = BAND) -> Iterator[slice]:
    """Yield the rows of each band of a matrix (I, I), `band` in each but the last."""
    for top in range(0, columns, band):
        yield slice(top, min(top + band, columns))


def packed_size(columns: int, band: int = BAND) -> int:
    """Return the number of stored entries of a matrix (I, I) in bands of so many rows."""
    return sum((rows.stop - rows.start) * rows.stop for rows in band_rows(columns, band))


def wide_band(columns: int) -> int:
    """Return the rows of a band on an accelerator: a multiple of BAND."""
    parts = FEW if columns > WIDE else 2
    return min(WIDE, -(-columns // (parts * BAND)) * BAND)
