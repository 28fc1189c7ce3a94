"""One update of a Hessian, and other ways to make it."""

import contextlib
from collections.abc import Callable
from functools import partial

import torch

from obsdiff.calibration.hessian import Hessian, row_sums

from .check import Check
from .measurement import free_memory, seconds, tf32

SHAPES = [(8, 4096, 1536), (8, 4096, 6144), (4, 4608, 15360)]  # images, tokens, columns
TINY_SHAPES = [(2, 64, 96)]
FLOAT32, HALF = "update, float32", "update, half precision"


def sums(check: Check) -> None:
    """Time the update and its rivals for every shape."""
    for images, tokens, columns in TINY_SHAPES if check.tiny else SHAPES:
        with check.recorded_errors("sums", f"{images}x{tokens}x{columns}"):
            sums_of(check, images, tokens, columns)
        free_memory()


def sums_of(check: Check, images: int, tokens: int, columns: int) -> None:
    """One shape of `sums`."""
    x = torch.randn(images, tokens, columns, device=check.device, dtype=torch.bfloat16)
    timed = partial(seconds, rounds=1 if columns > 10_000 else 3, warmup=1)
    ways = in_float32(x.float(), timed)
    if check.gpu:
        ways |= in_half_precision(x, timed)
    name = f"{images}x{tokens}x{columns}"
    square = 2 * images * tokens * columns**2 / 1e12
    for way, took in ways.items():
        speed = f"{square / took:.0f} TFLOP/s of the square"
        check.figure("sums", f"{name} {way}: ms", took * 1e3, speed)
    if check.gpu:
        gain = ways[FLOAT32] / ways[HALF]
        expected = ">= 4 (calculated 8 to 15)"
        what = f"{name}: update of float32 / half precision"
        check.figure("sums", what, gain, expected, gain >= 4)
        off = errors_of_products(x.view(-1, columns)[:, :256])
        what = f"{name}: error of float32 products, of bfloat16 ones with float32 sums"
        found = ", ".join(f"{o:.1e}" for o in off)
        check.figure("sums", what, found, "both < 1e-5", max(off) < 1e-5)


def in_float32(x: torch.Tensor, timed: Callable[..., float]) -> dict[str, float]:
    """Seconds of each way to sum float32 tokens of shape (images, tokens, columns)."""
    columns = x.shape[-1]
    flat, xx = x.view(-1, columns), torch.zeros(columns, columns, device=x.device)
    hessian = Hessian.zeros(columns, x.device)
    ways = {FLOAT32: timed(lambda: hessian.update(x, 1.0))}
    with tf32(True):
        ways["update, float32, the user's TF32"] = timed(lambda: hessian.update(x, 1.0))
    ways["row sums and unique alone"] = timed(lambda: row_sums(flat).unique())
    ways["square, float32"] = timed(lambda: xx.addmm_(flat.T, flat))
    with tf32(True):
        ways["square, TF32"] = timed(lambda: xx.addmm_(flat.T, flat))
    return ways


def in_half_precision(x: torch.Tensor, timed: Callable[..., float]) -> dict[str, float]:
    """Seconds of each way to sum half-precision tokens in float32 on a GPU."""
    columns = x.shape[-1]
    flat, xx = x.view(-1, columns), torch.zeros(columns, columns, device=x.device)
    mm = partial(torch.mm, out_dtype=torch.float32)
    ways = {"square, mm(out_dtype=float32)": timed(lambda: xx.add_(mm(flat.T, flat)))}
    with contextlib.suppress(RuntimeError, TypeError, AttributeError):
        addmm = torch.ops.aten.addmm.dtype_out
        way = "square, addmm(out_dtype, out=)"
        ways[way] = timed(lambda: addmm(xx, flat.T, flat, torch.float32, out=xx))
    hessian = Hessian.zeros(columns, x.device)
    ways[HALF] = timed(lambda: hessian.update(x, 1.0))
    return ways


def errors_of_products(flat: torch.Tensor) -> list[float]:
    """Relative errors of the products of tokens: of float32, and of half precision with float32
    sums."""
    exact, single = flat.double(), flat.float()
    exact = exact.T @ exact
    products = single.T @ single, torch.mm(flat.T, flat, out_dtype=torch.float32)
    return [((product.double() - exact).norm() / exact.norm()).item() for product in products]
