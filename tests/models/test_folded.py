"""Folded linear layers: the function, the file, hostile configs; the table of modulation layers."""

import json

import pytest
import torch
from torch import nn

import obsdiff
from obsdiff import UserError
from obsdiff.models.folded import FoldedLinear, fold_, fold_to_, folded_ranks, unfold_
from obsdiff.models.growth import grow_
from obsdiff.models.linear_view import layer_shapes
from obsdiff.models.lora import cut_lora
from obsdiff.models.modulation_table import MODULATION, modulation_layers
from obsdiff.models.own_names import FOLDED, MODULE
from obsdiff.models.pruned_classes import mark_folded_

from ..conftest import sd3
from ..coverage_of_models import build

LAYER = "transformer_blocks.0.norm1.linear"


def folded_model(dtype: torch.dtype = torch.float32) -> nn.Module:
    """A small transformer, one of its modulation layers folded to rank 2."""
    model = sd3().transformer.to(dtype)
    outputs, inputs = model.get_submodule(LAYER).weight.shape
    fold_(model, LAYER, torch.randn(outputs, 2), torch.randn(2, inputs) / 8)
    return mark_folded_(model)


@pytest.mark.parametrize("bias", [True, False])
def test_a_folded_layer_computes_what_its_product_computes(bias):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 5, bias))
    up, down, x = torch.randn(5, 2), torch.randn(2, 6), torch.randn(3, 6)
    wanted = x @ (up @ down).T + (model[0].bias if bias else 0)
    fold_(model, "0", up, down)
    torch.testing.assert_close(model(x), wanted)
    assert folded_ranks(model) == {"0": 2}
    assert unfold_(model) == ["0"]
    assert type(model[0]) is nn.Linear
    assert (model[0].bias is not None) == bias
    torch.testing.assert_close(model(x), wanted)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_folded_layers_are_saved_opened_and_saved_again(dtype, tmp_path):
    model = folded_model(dtype)
    for name in ("first", "second"):
        model.save_pretrained(tmp_path / name)
        again = type(model).from_pretrained(tmp_path / name, torch_dtype=dtype)
        assert again.state_dict().keys() == model.state_dict().keys()
        for key, value in model.state_dict().items():
            assert torch.equal(again.state_dict()[key], value), key
        model = again
    config = json.loads((tmp_path / "second" / "config.json").read_text())
    assert config["folded_modulation"] == {LAYER: 2}
    assert f"{MODULE}.{FOLDED}" in model.state_dict()
    assert {f"{LAYER}.down.weight", f"{LAYER}.up.weight"} <= model.state_dict().keys()
    assert type(model) is obsdiff.PrunedSD3Transformer2DModel


@pytest.mark.parametrize(
    ("ranks", "expected"),
    [
        ([], "expected an object of layers, found list"),
        ({"nowhere": 1}, "has no linear layer 'nowhere'"),
        ({"pos_embed.proj": 1}, "has no linear layer 'pos_embed.proj'"),
        ({LAYER: 0}, "expected a rank from 1 to 32, found 0"),
        ({LAYER: True}, "expected a rank from 1 to 32, found True"),
        ({LAYER: 10**12}, "expected a rank from 1 to 32"),
    ],
)
def test_a_config_with_other_ranks_is_refused(ranks, expected):
    with pytest.raises(UserError, match=expected):
        fold_to_(sd3().transformer, ranks)


@torch.no_grad()
def test_the_grown_model_is_plain_and_draws_the_same():
    model = folded_model()
    calls = {
        "hidden_states": torch.randn(1, 4, 8, 8),
        "encoder_hidden_states": torch.randn(1, 6, 32),
        "pooled_projections": torch.randn(1, 32),
        "timestep": torch.full((1,), 500.0),
    }
    wanted = model(**calls, return_dict=False)[0]
    grown = grow_(model)
    assert type(grown).__name__ == "SD3Transformer2DModel"
    assert not {"folded_modulation", "pruned_layout"} & set(grown.config)
    assert grown.state_dict().keys() == sd3().transformer.state_dict().keys()
    torch.testing.assert_close(grown(**calls, return_dict=False)[0], wanted, rtol=1e-4, atol=1e-5)


def test_a_lora_for_a_folded_layer_is_refused():
    tensors = {f"transformer.{LAYER}.lora_A.weight": torch.zeros(1, 32)}
    with pytest.raises(UserError, match="is folded into two layers"):
        cut_lora(folded_model(), tensors, "transformer")
    other = {"transformer.transformer_blocks.0.attn.to_q.lora_A.weight": torch.zeros(1, 32)}
    assert cut_lora(folded_model(), other, "transformer") == other


@pytest.mark.parametrize("cls", MODULATION)
def test_modulation_layers_are_there_and_read_one_vector_a_time_step(cls):
    model, arguments = build(cls)
    shapes = layer_shapes(model)
    names = modulation_layers(cls, shapes)
    for wild in MODULATION[cls]:
        own = modulation_layers(cls, [n for n in names if n.startswith(wild.partition(".")[0])])
        assert own, wild
    read = {}
    for name in names:
        layer = model.get_submodule(name)
        assert type(layer) is nn.Linear
        assert not isinstance(layer, FoldedLinear)
        layer.register_forward_pre_hook(lambda _, args, name=name: read.update({name: args[0]}))
    given = arguments()
    assert "timestep" in given
    torch.manual_seed(0)
    with torch.no_grad():
        model(**given)
    assert read.keys() == set(names)
    for name, x in read.items():
        assert x.flatten(0, -2).unique(dim=0).shape == (1, shapes[name][1]), name
