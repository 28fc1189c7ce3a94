"""Where the entries of a packed symmetric matrix are, and how many there are (no torch).

The lower triangle is stored in bands of rows: of the rows a ... b the columns 0 ... b.
"""

from collections.abc import Iterator

BAND = 256  # rows of a band


def band_rows(columns: int) -> Iterator[slice]:
    """Yield the rows of each band of a matrix (I, I)."""
    for top in range(0, columns, BAND):
        yield slice(top, min(top + BAND, columns))


def packed_size(columns: int) -> int:
    """Return the number of stored entries of a matrix (I, I)."""
    return sum((rows.stop - rows.start) * rows.stop for rows in band_rows(columns))
