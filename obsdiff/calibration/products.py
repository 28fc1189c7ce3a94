"""Products of tokens, added to the lower triangle that a Hessian stores: sum of alpha x x^T.

A CPU multiplies tiles that fit into its cache. An accelerator multiplies wide bands of rows, where
the tokens are, and the products are added wherever the triangle rests: on the same device, in host
memory or in a mapped file. Half-precision tokens are multiplied as they are, with float32 sums,
where torch can: a product of two such numbers is exact in float32. Other tokens are multiplied in
the format of the triangle.

T tokens, I inputs.
"""

from collections.abc import Iterator
from functools import lru_cache

import torch
from torch import Tensor

from ..runtime.precision import exact_products
from .packed import bands, tiles

WIDE = 2048  # rows of the triangle in one product of an accelerator, at most
HALF = (torch.float16, torch.bfloat16)


def operands(rows: Tensor, dtype: torch.dtype) -> Tensor:
    """Return tokens (T, I) in the format in which their products are computed.

    Args:
        rows: the tokens, on the device of the products.
        dtype: the format of the sums.
    """
    if dtype == torch.float32 and rows.dtype in HALF and sums_wide(str(rows.device), rows.dtype):
        return rows
    return rows.to(dtype)


@lru_cache(maxsize=64)
def sums_wide(device: str, dtype: torch.dtype) -> bool:
    """Return whether a device multiplies in half precision and sums in float32.

    torch 2.8 and newer does so on CUDA devices.
    """
    if device == "cpu":
        return False
    few = torch.ones(16, 16, dtype=dtype, device=device)
    try:
        torch.mm(few, few, out_dtype=torch.float32)
    except (RuntimeError, TypeError):
        return False
    return True


def product(left: Tensor, right: Tensor) -> Tensor:
    """Return a product of operands, summed in float32 if they are half-precision."""
    if left.dtype in HALF:
        return torch.mm(left, right, out_dtype=torch.float32)
    with exact_products():
        return left @ right


def add_products_(packed: Tensor, rows: Tensor, factor: float) -> None:
    """Add the products of tokens to a packed triangle.

    Args:
        packed: the packed triangle (packed.py), on any device.
        rows: the operands (T, I).
        factor: what the products are multiplied with.
    """
    columns = rows.shape[1]
    if rows.device.type == "cpu":
        for tile, left, right in tiles(packed, columns):
            tile.addmm_(rows[:, left].T, rows[:, right], alpha=factor)
        return
    for together in wide_bands(packed, columns):
        first, last = together[0][1].start, together[-1][1].stop
        found = product(rows[:, first:last].T, rows[:, :last]).to(packed.device)
        for band, among in together:
            band.add_(found[among.start - first : among.stop - first, : among.stop], alpha=factor)


def add_product_(square: Tensor, left: Tensor, right: Tensor, factor: float) -> None:
    """Add left^T right to a matrix (I, I), wherever it rests.

    Args:
        square: the matrix.
        left: operands (T, I).
        right: operands (T, I).
        factor: what the product is multiplied with.
    """
    if right.device == square.device:
        with exact_products():
            square.addmm_(left.T, right, alpha=factor)
        return
    for part, columns in zip(square.split(WIDE), left.split(WIDE, 1), strict=True):
        part.add_(product(columns.T, right).to(square.device), alpha=factor)


def wide_bands(packed: Tensor, columns: int) -> Iterator[list[tuple[Tensor, slice]]]:
    """Yield consecutive bands of a packed triangle, each time up to WIDE rows."""
    together: list[tuple[Tensor, slice]] = []
    for band, rows in bands(packed, columns):
        if together and rows.stop - together[0][1].start > WIDE:
            yield together
            together = []
        together.append((band, rows))
    if together:
        yield together
