"""Blocks are found by the names of their layers."""

import time

import pytest

from obsdiff.calibration.packages import plan_packages
from obsdiff.config import PruningConfig
from obsdiff.errors import UserError
from obsdiff.models.discovery import (
    enclosing,
    find_blocks,
    outermost,
    require_blocks,
    segment_of,
    uncovered,
)
from obsdiff.models.linear_view import layer_shapes

from ..conftest import flux, sd, sd3


def shapes(make) -> dict:
    pipe = make()
    return layer_shapes(getattr(pipe, "transformer", None) or pipe.unet)


@pytest.mark.parametrize(
    ("make", "kinds", "layers", "units"),
    [
        # two whole blocks of 12 linears in 4 units; the last lacks to_add_out and ff_context: 9
        # linears, still 4 units
        (sd3, {"joint attention": 3}, 12 + 12 + 9, 12),
        # the first block has a second attention: q, k, v and output more, in the same units
        (lambda: sd3(dual=(0,)), {"joint attention": 3}, 16 + 12 + 9, 12),
        # one block down, one in the middle, two up; 8 attention and 2 FFN linears in 6 units each
        (sd, {"self and cross attention": 4}, 4 * 10, 4 * 6),
        # two double blocks of 12 linears in 4 units, two single ones of q, k, v, MLP and output in
        # 2 units
        (
            flux,
            {"joint attention": 2, "parallel attention and FFN": 2},
            2 * 12 + 2 * 5,
            2 * 4 + 2 * 2,
        ),
    ],
)
def test_blocks_layers_and_units_of_each_kind(make, kinds, layers, units):
    linears = shapes(make)
    blocks = find_blocks(linears)
    assert {
        kind: sum(b.entry == kind for b in blocks) for kind in {b.entry for b in blocks}
    } == kinds
    assert sum(len(b.layers) for b in blocks) == layers
    assert sum(len(b.units) for b in blocks) == units
    assert uncovered(linears, blocks) == []


@pytest.mark.parametrize("make", [sd3, sd, flux])
def test_forward_order_is_found_whatever_the_order_of_names(make):
    linears = shapes(make)
    shuffled = dict(sorted(linears.items(), reverse=True))
    assert [b.name for b in find_blocks(shuffled)] == [b.name for b in find_blocks(linears)]


def test_ten_blocks_are_in_the_order_of_their_numbers():
    names = [b.name for b in find_blocks(shapes(lambda: sd3(layers=11)))]
    assert names == [f"transformer_blocks.{i}" for i in range(11)]


def test_a_unet_runs_down_middle_up():
    assert [b.name.split(".")[0] for b in find_blocks(shapes(sd))] == [
        "down_blocks",
        "mid_block",
        "up_blocks",
        "up_blocks",
    ]


def test_an_unknown_model_is_refused_by_its_linears():
    linears = {"layers.0.mixer.in_proj": (4, 4), "layers.0.mixer.out_proj": (4, 4)}
    with pytest.raises(UserError, match=r"layers\.0\.mixer\.in_proj, layers\.0\.mixer\.out_proj"):
        require_blocks(linears, "Mamba")


def test_a_linear_without_an_entry_is_named():
    linears = shapes(sd3) | {"transformer_blocks.1.adapter": (8, 8)}
    assert uncovered(linears, find_blocks(linears)) == ["transformer_blocks.1.adapter"]


@pytest.mark.parametrize(
    ("block", "segment"),
    [
        ("transformer_blocks.3", "transformer_blocks.3"),
        ("down_blocks.1.attentions.0.transformer_blocks.0", "down_blocks.1"),
        ("mid_block.attentions.0.transformer_blocks.0", "mid_block.attentions.0"),
        ("single", "single"),
    ],
)
def test_a_segment_is_the_module_down_to_the_first_number(block, segment):
    assert segment_of(block) == segment


def test_the_cost_of_finding_blocks_is_linear_in_their_number():
    """Counted, not timed: names are compared with their own beginnings, never with all blocks."""

    class Counted(str):
        looks = 0

        def startswith(self, *args):
            Counted.looks += 1
            return super().startswith(*args)

    def looks(blocks: int) -> int:
        Counted.looks = 0
        linears = {
            Counted(f"transformer_blocks.{i}.attn.{layer}"): (4, 4)
            for i in range(blocks)
            for layer in ("to_q", "to_k", "to_v", "to_out.0", "extra")
        }
        found = find_blocks(linears)
        assert len(found) == blocks
        assert len(uncovered(linears, found)) == blocks
        return Counted.looks

    assert looks(400) <= 4 * looks(100)


@pytest.mark.slow
def test_eight_thousand_blocks_are_found_and_packed_in_seconds():
    layers = ("to_q", "to_k", "to_v", "to_out.0")
    linears = {f"transformer_blocks.{i}.attn.{x}": (4, 4) for i in range(8000) for x in layers}
    began = time.process_time()
    blocks = find_blocks(linears)
    for config in (
        PruningConfig(calibration="replay", packages=8000),
        PruningConfig(calibration="single"),
        PruningConfig(memory_budget_gib=1e-3),
    ):
        assert plan_packages(blocks, linears, config)
    assert uncovered(linears, blocks) == []
    assert time.process_time() - began < 10


@pytest.mark.parametrize("name", ["²", "٣", "①"])
def test_numbers_of_other_scripts_are_no_traceback(name):
    linears = {f"transformer_blocks.{name}.attn.{x}": (4, 4) for x in ("to_q", "to_k", "to_v")}
    linears |= {f"transformer_blocks.{name}.attn.to_out.0": (4, 4)}
    assert [block.name for block in find_blocks(linears)] == [f"transformer_blocks.{name}"]


def test_blocks_inside_blocks_belong_to_the_outermost():
    names = {"a", "a.b", "a.b.c", "ab", "d.e"}
    assert outermost(names) == {"a", "ab", "d.e"}
    assert enclosing("a.b.c.d", names) == "a"
    assert enclosing("d.e", names) == "d.e"
    assert enclosing("d", names) is None
