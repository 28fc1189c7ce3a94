"""Which groups are selected, and how many of their items are kept."""

from obsdiff import PruningConfig
from obsdiff.calibration.selection import kept_count, narrow_ffns, select_groups
from obsdiff.models.discovery import find_blocks
from obsdiff.models.linear_view import layer_shapes

from ..conftest import ddpm, flux, sd3


def test_at_least_one_norm_group_stays():
    blocks = find_blocks(layer_shapes(ddpm().unet, "conv"))
    group = next(g for block in blocks for g in block.groups if g.kind == "channels")
    assert [
        kept_count(group, 32, PruningConfig(pattern="structured", target="conv", sparsity=s))
        for s in (0.3, 0.5, 0.99)
    ] == [22, 16, 1]


def test_ffns_that_share_a_layer_with_an_attention_are_not_alone():
    """FLUX's single blocks read heads and neurons with one layer; its double blocks do not."""
    blocks = find_blocks(layer_shapes(flux().transformer))
    owners = {
        target: {g.owner for g in select_groups(blocks, config(target))}
        for target in ("ffn", "ffn-alone")
    }
    shared = owners["ffn"] - owners["ffn-alone"]
    assert owners["ffn-alone"] < owners["ffn"]
    assert {name.split(".")[0] for name in shared} == {"single_transformer_blocks"}
    assert {name.split(".")[0] for name in owners["ffn-alone"]} == {"transformer_blocks"}


def test_all_ffns_of_sd3_are_alone():
    blocks = find_blocks(layer_shapes(sd3().transformer))
    assert select_groups(blocks, config("ffn")) == select_groups(blocks, config("ffn-alone"))


def config(target: str) -> PruningConfig:
    return PruningConfig(pattern="structured", target=target, keep_first_last=False)


def test_ffns_without_a_choice_are_named():
    assert narrow_ffns({"a.ff": 512, "b.ff": 1280}, 256) == ""
    assert narrow_ffns({"a.ff": 320, "b.ff": 1280}, 256) == (
        "round_to 256: 1 of 2 FFNs have fewer than 512 neurons (a.ff: 320); "
        "each keeps 256, or all that it has"
    )
