"""Rounded weights in the blocks of a GGUF file: the codes and scales of a folder, not new ones.

A block is 32 consecutive weights d c of a row with one scale d, a float16:

    Q8_0   d, then a byte for each code
    Q4_0   d, then 16 bytes: byte j has c_j + 8 in its lower half, c_(j+16) + 8 in its upper

The groups of a folder (solvers/rounding.py) are whole blocks. Their scales are values of bfloat16,
which float16 holds from 8e-6 up to 65,504; smaller ones are rounded to multiples of 6e-8.

References:
    https://github.com/ggml-org/ggml, docs/gguf.md and src/ggml-common.h (block_q4_0, block_q8_0)
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor

BLOCK = 32  # weights of a row that share a scale
TYPES = {8: "Q8_0", 4: "Q4_0"}  # bits -> the name in the gguf package
SHIFT = 8  # of the codes of Q4_0


def in_blocks(values: Tensor, steps: Tensor, bits: int) -> Any:
    """Return the bytes of a rounded weight.

    Args:
        values: Q (O, I), on the grids.
        steps: s (O, I), the scale of each weight, the same throughout a block.
        bits: 8 or 4.

    Returns:
        A numpy array (O, bytes of a row), uint8.
    """
    scale = steps.unflatten(1, (-1, BLOCK))[..., :1]
    codes = (values.unflatten(1, (-1, BLOCK)) / scale).round().to(torch.int8).numpy()
    if bits == 4:
        low, high = np.split((codes + SHIFT).view(np.uint8), 2, axis=2)
        codes = low | high << 4
    parts = scale.numpy().astype("<f2").view(np.uint8), codes.view(np.uint8)
    return np.concatenate(parts, axis=2).reshape(len(values), -1)
