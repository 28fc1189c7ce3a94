"""Shrunk == masked, for every kind of group, in float64."""

import pytest
import torch

from obsdiff.models.discovery import find_blocks
from obsdiff.models.geometry import columns, items, rows
from obsdiff.models.linear_view import layer_shapes
from obsdiff.models.removable import removal_refusal
from obsdiff.models.surgery import sharing_weights, shrink_

from ..conftest import PROMPTS, flux, sd, sd3
from ..coverage_of_models import build

CALL = {
    "num_inference_steps": 2,
    "guidance_scale": 3.0,
    "height": 16,
    "width": 16,
    "output_type": "latent",
}
MAKES = {
    "sd3": sd3,
    "sd3 with a second attention": lambda: sd3(dual=(0, 1)),
    "sd": sd,
    "flux": flux,
}


def denoiser_of(pipe):
    return getattr(pipe, "transformer", None) or pipe.unet


def groups_of(denoiser):
    return [g for block in find_blocks(layer_shapes(denoiser)) for g in block.groups]


def latents(pipe):
    return pipe(PROMPTS[0], generator=torch.Generator().manual_seed(0), **CALL).images


@torch.no_grad()
def mask_(denoiser, group, gone: list[int]) -> None:
    """Zero the consumers' columns of these heads or neurons."""
    reads = columns(denoiser, group, items(denoiser, group))[gone].flatten()
    for name in group.consumers:
        denoiser.get_submodule(name).weight[:, reads] = 0


@pytest.mark.parametrize("make", MAKES.values(), ids=MAKES.keys())
def test_shrunk_equals_masked_for_every_group(make):
    """Every second head and every third neuron of every group is removed."""
    masked, shrunk = (make().to(torch.float64) for _ in range(2))
    for pipe, shrink in ((masked, False), (shrunk, True)):
        denoiser = denoiser_of(pipe)
        for group in groups_of(denoiser):
            count = items(denoiser, group)
            gone = list(range(0, count, 2 if group.kind == "heads" else 3))
            if shrink:
                shrink_(denoiser, group, [i for i in range(count) if i not in gone])
            else:
                mask_(denoiser, group, gone)
    dense = latents(make().to(torch.float64))
    a, b = latents(masked), latents(shrunk)
    torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-11)
    assert not torch.allclose(a, dense)
    assert sum(p.numel() for p in denoiser_of(shrunk).parameters()) < sum(
        p.numel() for p in denoiser_of(masked).parameters()
    )


@pytest.mark.parametrize(
    ("make", "kinds"),
    [
        (sd3, {"heads": 3, "neurons": 5}),
        (MAKES["sd3 with a second attention"], {"heads": 5, "neurons": 5}),
        (sd, {"heads": 8, "neurons": 4}),
        (flux, {"heads": 4, "neurons": 6}),
    ],
)
def test_groups_of_each_kind_are_found(make, kinds):
    groups = groups_of(denoiser_of(make()))
    assert {kind: sum(g.kind == kind for g in groups) for kind in kinds} == kinds


def test_rows_of_a_gated_ffn_come_in_pairs():
    unet = sd().unet
    group = next(g for g in groups_of(unet) if g.kind == "neurons")
    count = items(unet, group)
    assert rows(unet, group, group.producers[0], count)[:3].tolist() == [
        [0, count],
        [1, count + 1],
        [2, count + 2],
    ]


def test_neurons_of_a_single_block_come_after_its_heads():
    transformer = flux().transformer
    heads, neurons = (
        next(g for g in groups_of(transformer) if g.kind == k and "single" in g.consumers[0])
        for k in ("heads", "neurons")
    )
    assert columns(transformer, heads, 2).flatten().tolist() == list(range(32))
    assert columns(transformer, neurons, 128).flatten().tolist() == list(range(32, 160))


@pytest.mark.parametrize("make", [sd3, sd, flux])
def test_a_shrunk_copy_shares_the_weights_that_did_not_shrink(make):
    pipe = make()
    model = getattr(pipe, "transformer", None) or pipe.unet
    before = {name: p.clone() for name, p in model.named_parameters()}
    copied, group = sharing_weights(model), groups_of(model)[0]
    shrink_(copied, group, [0])
    own = dict(copied.named_parameters())
    changed = {name for name, p in model.named_parameters() if own[name] is not p}
    assert changed
    assert {name.rpartition(".")[0] for name in changed} <= {*group.producers, *group.consumers}
    assert all(torch.equal(p, before[name]) for name, p in model.named_parameters())


def test_a_norm_over_all_heads_is_refused_by_name():
    transformer = sd3().transformer
    group = groups_of(transformer)[0]
    assert removal_refusal(transformer, group) is None
    transformer.transformer_blocks[0].attn.norm_q = torch.nn.RMSNorm(32)
    assert (
        removal_refusal(transformer, group)
        == "transformer_blocks.0.attn.norm_q normalises all 4 heads together"
    )


def test_one_layer_may_write_queries_keys_values_gate_and_neurons():
    """FLUX.2's single blocks: heads of 16, 128 neurons.

    Rows are q, k, v, gate, up; columns are heads, then neurons.
    """
    transformer, _ = build("Flux2Transformer2DModel")
    heads, neurons = (
        next(g for g in groups_of(transformer) if g.kind == k and "single" in g.owner)
        for k in ("heads", "neurons")
    )
    assert (items(transformer, heads), items(transformer, neurons)) == (4, 128)
    assert rows(transformer, heads, heads.producers[0], 4)[1].tolist() == [
        first + i for first in (16, 64 + 16, 128 + 16) for i in range(16)
    ]
    assert rows(transformer, neurons, neurons.producers[0], 128)[5].tolist() == [
        192 + 5,
        192 + 128 + 5,
    ]
    assert columns(transformer, neurons, 128)[0].tolist() == [64]


def test_query_heads_that_share_a_key_head_are_removed_together():
    model, _ = build("AceStepTransformer1DModel")
    attention = model.layers[0].self_attn
    group = next(g for g in groups_of(model) if g.owner == "layers.0.self_attn")
    assert items(model, group) == 2
    shrink_(model, group, [1])
    assert (attention.heads, attention.kv_heads) == (2, 1)
    assert [attention.get_submodule(name).out_features for name in ("to_q", "to_k", "to_v")] == [
        32,
        16,
        16,
    ]
    assert attention.to_out[0].in_features == 32


@pytest.mark.parametrize(
    ("name", "owner", "words"),
    [
        ("WanTransformer3DModel", "blocks.1.attn2", "norm_q normalises all 4 heads together"),
        (
            "LTXVideoTransformer3DModel",
            "transformer_blocks.0.attn1",
            "norm_q normalises all 4 heads together",
        ),
        (
            "HiDreamImageTransformer2DModel",
            "double_stream_blocks.0.block.attn1",
            "q_rms_norm normalises all 4 heads together",
        ),
        ("LuminaNextDiT2DModel", "layers.0.attn2", "two attentions share one output projection"),
        (
            "EasyAnimateTransformer3DModel",
            "transformer_blocks.1.attn1",
            "past the output projection",
        ),
        ("MochiTransformer3DModel", "transformer_blocks.0.attn1", "rotary frequencies"),
    ],
)
def test_a_group_that_cannot_be_removed_exactly_is_refused_by_name(name, owner, words):
    model, _ = build(name)
    reason = removal_refusal(model, next(g for g in groups_of(model) if g.owner == owner))
    assert reason.startswith(owner)
    assert words in reason
