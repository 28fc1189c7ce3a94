"""Whole attentions and FFNs switched off: which there are, and the cheapest choice of them."""

from itertools import combinations

import pytest
import torch
from diffusers import SD3Transformer2DModel
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.paper.sub_modules import cheapest, sub_modules, switched_off, weights_of
from obsdiff.models.linear_view import layer_shapes


def tiny() -> SD3Transformer2DModel:
    return SD3Transformer2DModel(
        sample_size=4,
        patch_size=2,
        in_channels=4,
        num_layers=2,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=16,
        caption_projection_dim=16,
        pooled_projection_dim=16,
        out_channels=4,
        pos_embed_max_size=4,
    )


def test_every_targeted_layer_is_in_one_sub_module():
    found = sub_modules(tiny())
    first, last = "transformer_blocks.0.", "transformer_blocks.1."
    assert list(found) == [
        first + "attn",
        first + "ff",
        first + "ff_context",
        last + "attn",
        last + "ff",
    ]
    layers = [layer for some in found.values() for layer in some]
    inside = [name for name in layer_shapes(tiny()) if ".attn." in name or ".ff" in name]
    assert sorted(layers) == sorted(inside)


def test_weights_are_counted_without_biases():
    denoiser = tiny()
    layers = sub_modules(denoiser)["transformer_blocks.0.ff"]
    assert weights_of(denoiser, layers) == 2 * 16 * 64


def test_only_the_named_layers_of_a_copy_are_switched_off():
    denoiser = tiny()
    before = {name: value.clone() for name, value in denoiser.state_dict().items()}
    layers = sub_modules(denoiser)["transformer_blocks.0.attn"]
    after = switched_off(denoiser, layers).state_dict()
    zeroed = {f"{layer}.weight" for layer in layers}
    for name, value in before.items():
        assert torch.equal(denoiser.state_dict()[name], value)
        assert torch.equal(after[name], torch.zeros_like(value) if name in zeroed else value)


@given(
    st.lists(st.tuples(st.floats(0, 1), st.integers(1, 9)), min_size=1, max_size=6),
    st.floats(0, 1),
)
def test_the_choice_has_enough_weights_and_no_other_has_them_for_less(pairs, share):
    costs = {f"m{i}": cost for i, (cost, _) in enumerate(pairs)}
    weights = {f"m{i}": weight for i, (_, weight) in enumerate(pairs)}
    least = share * sum(weights.values())
    chosen = cheapest(costs, weights, least)
    assert sum(weights[name] for name in chosen) >= least - 1e-9
    enough = [
        sum(costs[name] for name in some)
        for k in range(len(costs) + 1)
        for some in combinations(costs, k)
        if sum(weights[name] for name in some) >= least
    ]
    assert sum(costs[name] for name in chosen) == pytest.approx(min(enough))


def test_too_many_sub_modules_are_refused():
    many = {f"m{i}": 1 for i in range(25)}
    with pytest.raises(ValueError, match="at most 24"):
        cheapest(dict.fromkeys(many, 1.0), many, 1)
