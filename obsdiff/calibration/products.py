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

from ..runtime.precision import EXACT, ROUNDED, exact_products
from .packed import bands, tiles
from .packed_layout import BAND, WIDE

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


def precision_of(tokens: Tensor) -> str:
    """Return the precision in which the operands of some tokens are multiplied once in float32."""
    return ROUNDED if tokens.dtype in HALF else EXACT


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


@lru_cache(maxsize=64)
def sums_in_place(device: str, dtype: torch.dtype) -> bool:
    """Return whether a device adds such a product in one operation; tried out on a small one.

    torch 2.10 and newer does so on CUDA devices.
    """
    few = torch.ones(16, 16, dtype=dtype, device=device)
    square = torch.ones(16, 16, device=device)
    try:
        add_half_(square, few, few, 2.0)
    except (RuntimeError, TypeError, AttributeError):
        return False
    return bool((square == 33).all())


def add_half_(square: Tensor, left: Tensor, right: Tensor, factor: float) -> None:
    """Add a product of half-precision operands, summed in float32, to a matrix in place."""
    add = torch.ops.aten.addmm.dtype_out
    add(square, left, right, torch.float32, alpha=factor, out=square)


def add_(square: Tensor, left: Tensor, right: Tensor, factor: float) -> None:
    """Add a product of operands to a matrix on their device."""
    if left.dtype not in HALF:
        square.addmm_(left, right, alpha=factor)
    elif sums_in_place(str(left.device), left.dtype):
        add_half_(square, left, right, factor)
    else:
        square.add_(product(left, right), alpha=factor)


@lru_cache(maxsize=64)
def ones(tokens: int, device: str, dtype: torch.dtype) -> Tensor:
    """Return a one for each token (1, T)."""
    return torch.ones(1, tokens, dtype=dtype, device=device)


def add_sum_(x: Tensor, rows: Tensor, factor: float) -> None:
    """Add the sum of operands (T, I) to a vector (I,) on their device."""
    if rows.device.type == "cpu":
        x.add_(rows.sum(0, dtype=x.dtype), alpha=factor)
    else:
        each = ones(len(rows), str(rows.device), rows.dtype)
        add_(x.unsqueeze(0), each, rows, factor)


def product(left: Tensor, right: Tensor) -> Tensor:
    """Return a product of operands, summed in float32 if they are half-precision."""
    if left.dtype in HALF:
        return torch.mm(left, right, out_dtype=torch.float32)
    return left @ right


def add_products_(packed: Tensor, rows: Tensor, factor: float, band: int = BAND) -> None:
    """Add the products of tokens to a packed triangle.

    Args:
        packed: the packed triangle (packed.py), on any device.
        rows: the operands (T, I).
        factor: what the products are multiplied with.
        band: rows of its bands.
    """
    columns = rows.shape[1]
    if rows.device.type == "cpu":
        for tile, left, right in tiles(packed, columns, band):
            tile.addmm_(rows[:, left].T, rows[:, right], alpha=factor)
        return
    if packed.device == rows.device and (band > BAND or columns <= BAND):
        for part, among in bands(packed, columns, band):
            add_(part, rows[:, among].T, rows[:, : among.stop], factor)
        return
    for together in wide_bands(packed, columns, band):
        first, last = together[0][1].start, together[-1][1].stop
        found = product(rows[:, first:last].T, rows[:, :last]).to(packed.device)
        for part, among in together:
            part.add_(found[among.start - first : among.stop - first, : among.stop], alpha=factor)


def add_product_(square: Tensor, left: Tensor, right: Tensor, factor: float) -> None:
    """Add left^T right to a matrix (I, I), wherever it rests.

    Args:
        square: the matrix.
        left: operands (T, I).
        right: operands (T, I).
        factor: what the product is multiplied with.
    """
    with exact_products():
        if right.device == square.device:
            add_(square, left.T, right, factor)
            return
        for part, columns in zip(square.split(WIDE), left.split(WIDE, 1), strict=True):
            part.add_(product(columns.T, right).to(square.device), alpha=factor)


def wide_bands(
    packed: Tensor, columns: int, band: int = BAND
) -> Iterator[list[tuple[Tensor, slice]]]:
    """Yield consecutive bands of a packed triangle, each time up to WIDE rows."""
    together: list[tuple[Tensor, slice]] = []
    for part, rows in bands(packed, columns, band):
        if together and rows.stop - together[0][1].start > WIDE:
            yield together
            together = []
        together.append((part, rows))
    if together:
        yield together
