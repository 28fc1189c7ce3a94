"""The memory layouts of two CUDA kernels of 4-bit weights, as diffusers' nunchaku_lite stores them.

A kernel reads a weight in the order in which its threads multiply, so the codes of a row do not lie
one behind the other. Codes q are whole numbers of [-8, 7], W = q s with a scale s for each group of
64 inputs of a row.

`awq_w4a16`: weights of 4 bits, activations in half precision. W = (q + 8) s + z with z = -8 s. In
32 inputs of a row the 16-bit word j has those of index j, 8 + j, 16 + j and 24 + j, the first in
its low bits; four rows take turns of 16 words, which are 64 inputs.

`svdq_w4a4`: weights of 4 bits beside a correction of low rank, activations rounded to 4 bits, too.
A tile has 128 rows and 64 inputs; 32 lanes hold 8 neighbouring inputs in 32 bits each.

O outputs, I inputs, G = I / 64 groups, R rank.

References:
    Lin et al., "AWQ: Activation-aware Weight Quantization for LLM Compression and Acceleration",
        2024. https://arxiv.org/abs/2306.00978 (TinyChat's kernels)
    Li et al., "SVDQuant: Absorbing Outliers by Low-Rank Components for 4-Bit Diffusion Models",
        2025. https://arxiv.org/abs/2411.05007
    NVIDIA, "PTX ISA", matrix fragments of mma.m16n8k64 and m16n8k16.
"""

import torch
from torch import Tensor

GROUP = 64  # inputs that share a scale
OFFSET = 8  # codes are stored from 0 to 15 where the kernel adds an offset
AWQ_ROWS = 4  # that take turns
ROWS, INPUTS, UNROLLED = 128, 64, 2  # of a tile; the kernel computes two tiles of inputs at once
RANKS = 16  # the rank is a multiple


def awq_weight(codes: Tensor) -> Tensor:
    """Return codes (O, I) as awq_w4a16 reads them, int32 (O / 4, I / 2).

    Args:
        codes: int8 of [-8, 7]; O is a multiple of 4, I of 64.
    """
    outputs, inputs = codes.shape
    nibbles = (codes.to(torch.int32) + OFFSET).view(outputs, inputs // 32, 4, 8)
    words = sum(nibbles[:, :, place] << 4 * place for place in range(4))
    assert isinstance(words, Tensor)
    turns = words.view(outputs // AWQ_ROWS, AWQ_ROWS, inputs // GROUP, 16).transpose(1, 2)
    signed = torch.where(turns < 2**15, turns, turns - 2**16).to(torch.int16)
    return signed.reshape(outputs // AWQ_ROWS, inputs).view(torch.int32)


def awq_scales(scale: Tensor) -> tuple[Tensor, Tensor]:
    """Return scales (O, G) as s and z of awq_w4a16, both (G, O)."""
    turned = scale.T.contiguous()
    return turned, -OFFSET * turned


def svdq_weight(codes: Tensor) -> Tensor:
    """Return codes (O, I) as svdq_w4a4 reads them, int8 (O, I / 2).

    Args:
        codes: int8 of [-8, 7]; O and I are multiples of 128.
    """
    outputs, inputs = codes.shape
    # tile of rows, 8 x 2 x 8 rows; tile of inputs, 2 x 4 x 8 inputs
    tiles = codes.to(torch.int64).view(outputs // ROWS, 8, 2, 8, inputs // INPUTS, 2, 4, 8)
    lanes = tiles.permute(0, 4, 1, 3, 6, 2, 5, 7) & 15
    words = (lanes << torch.arange(0, 32, 4)).sum(-1)
    signed = torch.where(words < 2**31, words, words - 2**32).to(torch.int32)
    return signed.contiguous().view(torch.int8).view(outputs, inputs // 2)


def svdq_scales(scale: Tensor) -> Tensor:
    """Return scales (O, G) as svdq_w4a4 reads them, (G, O); O is a multiple of 128."""
    outputs, groups = scale.shape
    rows = scale.view(outputs // ROWS, 8, 2, 4, 2, groups)
    return rows.permute(0, 5, 1, 3, 2, 4).reshape(groups, outputs)


def svdq_vector(values: Tensor) -> Tensor:
    """Return a number for each row (O,), or input (I,), in the order of the scales."""
    return svdq_scales(values.view(-1, 1)).flatten()


def svdq_factors(up: Tensor, down: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """Return a correction U (O, R), V (R, I) as svdq_w4a4 reads it: (O, rank) and (I, rank).

    Args:
        up: U.
        down: V.
        rank: a multiple of 16, at least R; the rest is zeros.
    """
    outputs, own = up.shape
    padded = (up.new_zeros(outputs, rank), down.new_zeros(rank, down.shape[1]))
    padded[0][:, :own], padded[1][:own] = up, down
    return fragments(padded[0]).view(outputs, rank), fragments(padded[1], True).view(-1, rank)


def fragments(matrix: Tensor, by_columns: bool = False) -> Tensor:
    """Return a matrix by fragments of 16 x 16, as the lanes hold them.

    Args:
        matrix: (M, N), multiples of 16.
        by_columns: whether the fragments of a column follow one another, and not those of a row.
    """
    rows, columns = (size // 16 for size in matrix.shape)
    found = matrix.view(rows, 16, columns, 16).transpose(1, 2)
    found = (found.transpose(0, 1) if by_columns else found).reshape(-1, 2, 8, 2, 4, 2)
    return found.permute(0, 2, 4, 1, 3, 5).contiguous()
