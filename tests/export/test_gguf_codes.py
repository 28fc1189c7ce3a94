"""The blocks of GGUF: gguf's own decoder reads the values, and finds their codes."""

import numpy as np
import pytest
import torch

from obsdiff.export.gguf_codes import TYPES, in_blocks
from obsdiff.solvers.rounding import Grid, nearest

gguf = pytest.importorskip("gguf")


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("group", [32, 128])
@pytest.mark.parametrize("size", [1e-2, 30.0])
@pytest.mark.parametrize("grids", [Grid.even, Grid.full])
def test_gguf_decodes_the_values(grids, bits, group, size):
    torch.manual_seed(0)
    weight = torch.randn(5, 256) * size
    weight[0, :group] = 0  # a whole group
    weight[1] *= torch.rand(256) < 0.5
    grid = grids(weight, bits, group)
    values = nearest(weight, grid)
    steps = grid.scale.repeat_interleave(group, 1)
    packed = in_blocks(values, steps, bits)
    kind = gguf.GGMLQuantizationType[TYPES[bits]]
    assert packed.shape == gguf.quant_shape_to_byte_shape((5, 256), kind)
    found = gguf.quants.dequantize(packed, kind)
    assert np.array_equal(found, values.numpy())
    assert len(np.unique(np.rint(found / steps.numpy()))) > 2 ** (bits - 1)


def test_a_scale_that_float16_lacks_is_rounded():
    """Multiples of 6e-8: values change by at most half of that for each of 127 codes."""
    torch.manual_seed(0)
    weight = torch.randn(2, 64) * 1e-4
    grid = Grid.even(weight, 8, 64)
    values = nearest(weight, grid)
    packed = in_blocks(values, grid.scale.repeat_interleave(64, 1), 8)
    found = gguf.quants.dequantize(packed, gguf.GGMLQuantizationType.Q8_0)
    gap = np.abs(found - values.numpy()).max()
    assert 0 < gap <= 128 * 2**-25
