"""How many items of a group are kept."""

from obsdiff import PruningConfig
from obsdiff.calibration.selection import kept_count
from obsdiff.models.discovery import find_blocks
from obsdiff.models.linear_view import layer_shapes

from ..conftest import ddpm


def test_at_least_one_norm_group_stays():
    blocks = find_blocks(layer_shapes(ddpm().unet, "conv"))
    group = next(g for block in blocks for g in block.groups if g.kind == "channels")
    assert [
        kept_count(group, 32, PruningConfig(pattern="structured", target="conv", sparsity=s))
        for s in (0.3, 0.5, 0.99)
    ] == [22, 16, 1]
