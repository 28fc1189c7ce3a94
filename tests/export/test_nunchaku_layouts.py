"""The kernels' layouts, by the address of every code, scale and factor."""

import pytest
import torch

from obsdiff.export.nunchaku_layouts import (
    awq_scales,
    awq_weight,
    svdq_factors,
    svdq_scales,
    svdq_vector,
    svdq_weight,
)


def codes_of(outputs: int, inputs: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(-8, 8, (outputs, inputs), generator=generator, dtype=torch.int8)


def awq_address(row: int, column: int) -> tuple[int, int, int]:
    """Row of four, 16-bit word in it, and bit of a code of awq_w4a16."""
    group, rest = divmod(column, 64)
    half, place = divmod(rest, 32)
    nibble, word = divmod(place, 8)
    return row // 4, group * 64 + row % 4 * 16 + half * 8 + word, 4 * nibble


def svdq_address(row: int, column: int, inputs: int) -> tuple[int, int]:
    """32-bit word, and bit of a code of svdq_w4a4."""
    tile, r = row // 128 * (inputs // 64) + column // 64, row % 128
    lane = r // 16 * 32 + r % 8 * 4 + column % 32 // 8
    word = tile * 1024 + lane * 4 + r // 8 % 2 * 2 + column % 64 // 32
    return word, 4 * (column % 8)


def test_every_code_of_the_weight_only_kernel_is_at_its_address():
    codes = codes_of(8, 128)
    packed = awq_weight(codes)
    assert (packed.shape, packed.dtype) == ((2, 64), torch.int32)
    words = packed.view(torch.int16)
    for row in range(8):
        for column in range(128):
            four, word, bit = awq_address(row, column)
            assert (int(words[four, word]) >> bit & 15) - 8 == int(codes[row, column])


def test_zeros_are_zeros_in_the_weight_only_kernel():
    scale = torch.rand(8, 2).to(torch.bfloat16)
    scales, zeros = awq_scales(scale)
    assert scales.shape == zeros.shape == (2, 8)
    assert torch.equal(8 * scales + zeros, torch.zeros(2, 8, dtype=torch.bfloat16))
    assert torch.equal(scales, scale.T)


def test_every_code_of_the_kernel_with_a_correction_is_at_its_address():
    codes = codes_of(256, 256)
    packed = svdq_weight(codes)
    assert (packed.shape, packed.dtype) == ((256, 128), torch.int8)
    words = packed.flatten().view(torch.int32)
    for row in range(0, 256, 7):
        for column in range(256):
            word, bit = svdq_address(row, column, 256)
            assert (int(words[word]) >> bit & 15) == int(codes[row, column]) % 16


def test_scales_go_to_the_lanes_that_hold_their_rows():
    scale = torch.arange(256 * 2).view(256, 2)
    packed = svdq_scales(scale).flatten()
    for row in range(256):
        r = row % 128
        lane = r // 16 * 4 + r % 8 // 2
        for group in range(2):
            at = (row // 128 * 2 + group) * 128 + lane * 4 + r // 8 % 2 * 2 + row % 2
            assert packed[at] == scale[row, group]
    first = svdq_vector(torch.arange(128))[:8]
    assert first.tolist() == [0, 1, 8, 9, 2, 3, 10, 11]


@pytest.mark.parametrize("rank", [16, 32])
def test_factors_are_fragments_of_16(rank):
    up, down = torch.arange(128.0 * 5).view(128, 5), torch.arange(5 * 128.0).view(5, 128)
    ups, downs = svdq_factors(up, down, rank)
    assert ups.shape == downs.shape == (128, rank)

    def at(outer: int, r: int, c: int) -> int:
        lanes = r % 8 * 4 + c % 8 // 2
        return outer * 256 + lanes * 8 + r // 8 * 4 + c // 8 * 2 + c % 2

    for row in range(128):
        for k in range(rank):
            wanted = up[row, k] if k < 5 else 0
            outer = row // 16 * (rank // 16) + k // 16
            assert ups.flatten()[at(outer, row % 16, k % 16)] == wanted
            wanted = down[k, row] if k < 5 else 0
            assert (
                downs.flatten()[at(row // 16 * (rank // 16) + k // 16, k % 16, row % 16)] == wanted
            )
