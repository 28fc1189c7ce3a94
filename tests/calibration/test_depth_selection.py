"""Which blocks may leave, and how many."""

from dataclasses import replace

import pytest

from obsdiff.calibration.depth_selection import select_depth
from obsdiff.config import PruningConfig
from obsdiff.errors import UserError
from obsdiff.models.structure import Block


def blocks_of(**lists):
    return [
        Block(f"{owner}.{i}", "", (), (), False) for owner, n in lists.items() for i in range(n)
    ]


def select(cls, config, **lists):
    return select_depth(cls, blocks_of(**lists), PruningConfig(pattern="depth", **config))


FLUX = {"transformer_blocks": 4, "single_transformer_blocks": 6}


@pytest.mark.parametrize(
    ("sparsity", "count"), [(0.01, 1), (0.1, 1), (0.19, 1), (0.2, 2), (0.3, 3), (0.6, 6), (None, 1)]
)
def test_the_share_is_rounded_down_and_at_least_one_leaves(sparsity, count):
    found = select("FluxTransformer2DModel", {"sparsity": sparsity}, **FLUX)
    assert (found.count, found.total, len(found.candidates)) == (count, 10, 10)


def test_some_blocks_never_leave():
    sd3 = select("SD3Transformer2DModel", {}, transformer_blocks=4)
    assert sd3.candidates == [f"transformer_blocks.{i}" for i in range(3)]
    dit = select("DiTTransformer2DModel", {}, transformer_blocks=4)
    assert "transformer_blocks.0" not in dit.candidates


def test_blocks_and_ends_narrow_the_choice():
    some = select("FluxTransformer2DModel", {"blocks": "3-4"}, **FLUX)
    assert some.candidates == ["transformer_blocks.3", "single_transformer_blocks.0"]
    inner = select("FluxTransformer2DModel", {"keep_first_last": True}, **FLUX)
    assert len(inner.candidates) == 8


def test_runs_are_of_one_list_and_leave_a_block():
    found = select("FluxTransformer2DModel", {"sparsity": 0.4}, **FLUX)
    assert found.runs() == [
        [f"single_transformer_blocks.{i}" for i in range(first, first + 4)] for first in range(3)
    ]
    assert not found.allowed([f"transformer_blocks.{i}" for i in range(4)])
    assert found.neighbours(["transformer_blocks.3"]) == {"transformer_blocks.2"}


def test_blocks_leave_until_they_save_enough():
    found = select("FluxTransformer2DModel", {}, **FLUX)
    savings = {name: 3.0 if name.startswith("transformer") else 1.0 for name in found.candidates}
    target = replace(found, savings=savings, wanted=5.0)
    assert target.count == 5  # of the small ones
    assert target.most() == 3 * 3 + 5 * 1
    assert target.most(["single_transformer_blocks.1"]) == 14
    double, single = ([f"{owner}.{i}" for i in range(6)] for owner in FLUX)
    assert target.enough([double[0], *single[:2]])
    assert not target.enough(double[:1])
    assert target.runs() == [double[i : i + 2] for i in range(3)] + [
        single[i : i + 5] for i in range(2)
    ]


def test_an_attention_of_a_unet_may_lose_all_its_blocks():
    lists = {f"down_blocks.1.attentions.{i}.transformer_blocks": 2 for i in range(2)}
    found = select("UNet2DConditionModel", {"sparsity": 1 - 1e-9}, **lists)
    assert found.allowed(found.candidates)
    assert found.count == 3
    assert found.entries == [f"down_blocks.1.attentions.{i}.proj_in" for i in range(2)]
    assert found.runs() == []


@pytest.mark.parametrize(
    ("cls", "config", "words"),
    [
        ("UNet2DConditionModel", {}, "found UNet2DConditionModel"),  # without transformer blocks
        ("ChromaTransformer2DModel", {}, "found ChromaTransformer2DModel"),
        ("PrunedFluxTransformer2DModel", {}, "found PrunedFluxTransformer2DModel"),
        ("FluxTransformer2DModel", {"blocks": "3-10"}, "has blocks 0-9, found '3-10'"),
        (
            "FluxTransformer2DModel",
            {"sparsity": 0.9},
            "sparsity 0.9 of 10 blocks: expected at most 8 that may leave with blocks all, found 9",
        ),
        (
            "SD3Transformer2DModel",
            {"blocks": "9"},
            "at most 0 that may leave with blocks 9, found 1; transformer_blocks.9 stays: "
            "it has no text output",
        ),
    ],
)
def test_what_can_not_leave_is_refused_by_name(cls, config, words):
    lists = {"transformer_blocks": 10} if cls.startswith("SD3") else FLUX
    with pytest.raises(UserError) as error:
        select(cls, config, **lists)
    assert words in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("cls", "why"),
    [
        ("UNet2DConditionModel", "whose attentions have no transformer blocks of their own"),
        ("PrunedSD3Transformer2DModel", "which an earlier run left; take blocks out first"),
        ("ChromaTransformer2DModel", "whose blocks can't leave; use pattern structured"),
    ],
)
def test_a_model_without_lists_of_blocks_is_refused_with_the_reason(cls, why):
    """The two transformers of each attention with dual_cross_attention, for example."""
    blocks = blocks_of(**{"mid_block.attentions.0.transformers.0.transformer_blocks": 1})
    with pytest.raises(UserError, match=f"found {cls}, {why}"):
        select_depth(cls, blocks, PruningConfig(pattern="depth"))


def test_with_a_target_the_share_of_blocks_does_not_count():
    """A tenth of 20 blocks is 2, but one may be enough for a target."""
    config = {"target_macs": 0.99, "blocks": "3"}
    found = select("PixArtTransformer2DModel", config, transformer_blocks=20)
    assert found.candidates == ["transformer_blocks.3"]
    with pytest.raises(UserError, match=r"target_macs: expected a block .* found none; .* stays"):
        select("DiTTransformer2DModel", config | {"blocks": "0"}, transformer_blocks=20)
