"""Another order of neurons or of heads' value dimensions is refused where it changes the model."""

import pytest
import torch

from obsdiff.models.discovery import find_blocks
from obsdiff.models.linear_view import layer_shapes
from obsdiff.models.removable import order_refusal, removal_refusal

from ..conftest import flux, sd, sd3
from ..coverage_of_models import build


def groups_of(denoiser):
    return [g for block in find_blocks(layer_shapes(denoiser)) for g in block.groups]


def group_of(model, owner):
    return next(g for g in groups_of(model) if g.owner == owner)


@pytest.mark.parametrize("make", [sd3, sd, flux])
def test_heads_and_neurons_of_common_models_have_a_free_order(make):
    pipe = make()
    denoiser = getattr(pipe, "transformer", None) or pipe.unet
    assert {order_refusal(denoiser, group) for group in groups_of(denoiser)} == {None}


def test_a_norm_over_all_queries_fixes_the_heads_but_not_the_order_of_values():
    model, _ = build("WanTransformer3DModel")
    group = group_of(model, "blocks.1.attn2")
    assert "norm_q normalises all 4 heads" in removal_refusal(model, group)
    assert order_refusal(model, group) is None


def test_a_norm_of_the_values_fixes_their_order():
    transformer = sd3().transformer
    group = group_of(transformer, "transformer_blocks.0.attn")
    transformer.transformer_blocks[0].attn.norm_v = torch.nn.RMSNorm(8)
    reason = order_refusal(transformer, group)
    assert reason == "transformer_blocks.0.attn.norm_v normalises the values"
    assert removal_refusal(transformer, group) is None


def test_heads_that_are_read_past_the_output_projection_keep_their_order():
    model, _ = build("EasyAnimateTransformer3DModel")
    group = group_of(model, "transformer_blocks.1.attn1")
    assert "past the output projection" in order_refusal(model, group)


@pytest.mark.parametrize("name", ["MochiTransformer3DModel", "OmniGenTransformer2DModel"])
def test_other_processors_fix_the_heads_but_not_the_order_of_values(name):
    model, _ = build(name)
    fixed = [g for g in groups_of(model) if g.kind == "heads" and removal_refusal(model, g)]
    assert fixed
    assert {order_refusal(model, group) for group in fixed} == {None}


def test_the_table_fixes_both():
    model, _ = build("LuminaNextDiT2DModel")
    group = group_of(model, "layers.0.attn2")
    reason = "layers.0.attn2: two attentions share one output projection"
    assert order_refusal(model, group) == removal_refusal(model, group) == reason


def test_neurons_under_a_common_norm_are_fixed_in_both_ways():
    model, _ = build("StableCascadeUNet")
    groups = [g for g in groups_of(model) if g.kind == "neurons"]
    assert all("normalises all" in order_refusal(model, group) for group in groups)
    assert [order_refusal(model, g) for g in groups] == [removal_refusal(model, g) for g in groups]
