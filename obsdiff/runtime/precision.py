"""The precision of float32 matrix products: torch's switches for TF32 and bfloat16.

With torch.set_float32_matmul_precision("high") a GPU rounds the operands of a product to TF32 (10
bits), with "medium" some CPUs round them to bfloat16 (7 bits). Solvers of linear systems need all
23: ALPS finds other masks, and errors up to 1.4 times as large.
"""

import contextlib
from collections.abc import Iterator
from typing import Any

import torch

EXACT = "ieee"  # torch's word for float32 operands that are not rounded
ROUNDED = "tf32"  # rounded to 10 bits, which leaves numbers of half precision as they are


def switches() -> list[Any]:
    """Return torch's switches, one a kind of device; none before torch 2.9."""
    backends: list[Any] = [torch.backends.cuda, torch.backends.mkldnn]
    found = [getattr(backend, "matmul", None) for backend in backends]
    return [switch for switch in found if hasattr(switch, "fp32_precision")]


@contextlib.contextmanager
def float32_products(precision: str) -> Iterator[None]:
    """Multiply float32 matrices in a precision; restore the switches at the end.

    torch forbids to read the old switch (allow_tf32) while the two disagree, so the new one alone
    is read and set where torch has it.

    Args:
        precision: EXACT or ROUNDED.
    """
    before = [(switch, switch.fp32_precision) for switch in switches()]
    if not before:
        with by_old_switch(precision == ROUNDED):
            yield
        return
    try:
        for switch, _ in before:
            switch.fp32_precision = precision
        yield
    finally:
        for switch, own in before:
            switch.fp32_precision = own


@contextlib.contextmanager
def by_old_switch(rounded: bool) -> Iterator[None]:
    """Do the same with the switch of torch 2.8 and before: allow_tf32 is two of its three words."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high" if rounded else "highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


@contextlib.contextmanager
def exact_products() -> Iterator[None]:
    """Multiply float32 matrices without rounding their entries."""
    with float32_products(EXACT):
        yield


def product_precision(device_type: str) -> str:
    """Return how a device multiplies float32 matrices: "ieee", "tf32" or "bf16".

    Args:
        device_type: torch's name of the kind of device.
    """
    if device_type not in ("cpu", "cuda"):
        return EXACT
    backend: Any = torch.backends.cuda if device_type == "cuda" else torch.backends.mkldnn
    if switches():
        found = backend.matmul.fp32_precision
        return EXACT if found == "none" else found
    return ROUNDED if device_type == "cuda" and backend.matmul.allow_tf32 else EXACT
