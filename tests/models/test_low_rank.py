"""Linear layers with a correction: the function, the file, hostile configs."""

import json

import pytest
import torch
from torch import nn

import obsdiff
from obsdiff import UserError
from obsdiff.models.growth import grow_
from obsdiff.models.low_rank import add_corrections_, correct_by_, merge_, ranks_of
from obsdiff.models.own_names import LOW_RANK, MODULE
from obsdiff.models.pruned_classes import mark_corrected_

from ..conftest import sd3

LAYERS = ("transformer_blocks.0.attn.to_q", "transformer_blocks.1.ff.net.2")


def corrected(dtype: torch.dtype = torch.float32) -> nn.Module:
    """A small transformer, two of its layers with random corrections."""
    model = sd3().transformer.to(dtype)
    for name in LAYERS:
        outputs, inputs = model.get_submodule(name).weight.shape
        correct_by_(model.get_submodule(name), torch.randn(outputs, 2), torch.randn(2, inputs) / 8)
    return mark_corrected_(model)


def test_a_corrected_layer_computes_what_its_merged_weight_computes():
    torch.manual_seed(0)
    layer = nn.Linear(6, 5)
    up, down, x = torch.randn(5, 2), torch.randn(2, 6), torch.randn(3, 4, 6)
    wanted = x @ (layer.weight + up @ down).T + layer.bias
    correct_by_(layer, up, down)
    torch.testing.assert_close(layer(x), wanted)
    assert "rank=2" in repr(layer)
    assert merge_(model := nn.Sequential(layer)) == ["0"]
    torch.testing.assert_close(layer(x), wanted)
    assert type(layer) is nn.Linear
    assert not ranks_of(model)
    assert set(layer.state_dict()) == {"weight", "bias"}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_corrections_are_saved_opened_and_saved_again(dtype, tmp_path):
    model = corrected(dtype)
    for name in ("first", "second"):
        model.save_pretrained(tmp_path / name)
        again = type(model).from_pretrained(tmp_path / name, torch_dtype=dtype)
        for key, value in model.state_dict().items():
            assert torch.equal(again.state_dict()[key], value), key
        assert ranks_of(again) == dict.fromkeys(LAYERS, 2)
        model = again
    config = json.loads((tmp_path / "second" / "config.json").read_text())
    assert config["low_rank"] == dict.fromkeys(LAYERS, 2)
    assert f"{MODULE}.{LOW_RANK}" in model.state_dict()
    assert type(model) is obsdiff.PrunedSD3Transformer2DModel


@pytest.mark.parametrize(
    ("ranks", "expected"),
    [
        ([], "expected an object of layers, found list"),
        ({"nowhere": 1}, "has no linear layer 'nowhere'"),
        ({"pos_embed.proj": 1}, "has no linear layer 'pos_embed.proj'"),
        ({LAYERS[0]: 0}, "expected a rank from 1 to 32, found 0"),
        ({LAYERS[0]: 33}, "expected a rank from 1 to 32, found 33"),
        ({LAYERS[0]: True}, "expected a rank from 1 to 32, found True"),
        ({LAYERS[0]: "2"}, "expected a rank from 1 to 32, found '2'"),
        ({LAYERS[0]: 10**12}, "expected a rank from 1 to 32"),
    ],
)
def test_a_config_with_other_ranks_is_refused(ranks, expected):
    with pytest.raises(UserError, match=expected):
        add_corrections_(sd3().transformer, ranks)


def test_a_config_with_wrong_ranks_is_refused_when_it_is_opened(tmp_path):
    corrected().save_pretrained(tmp_path)
    file = tmp_path / "config.json"
    config = json.loads(file.read_text())
    file.write_text(json.dumps(config | {"low_rank": {LAYERS[0]: 99}}))
    with pytest.raises(UserError, match="rank from 1 to 32, found 99"):
        obsdiff.PrunedSD3Transformer2DModel.from_pretrained(tmp_path)
    # one rank too many: the file lacks its tensors
    file.write_text(json.dumps(config | {"low_rank": {**config["low_rank"], LAYERS[0]: 3}}))
    with pytest.raises(ValueError, match="expected shape"):
        obsdiff.PrunedSD3Transformer2DModel.from_pretrained(tmp_path)


@torch.no_grad()
def test_the_merged_model_is_plain_and_draws_the_same():
    model = corrected()
    calls = {
        "hidden_states": torch.randn(1, 4, 8, 8),
        "encoder_hidden_states": torch.randn(1, 6, 32),
        "pooled_projections": torch.randn(1, 32),
        "timestep": torch.full((1,), 500.0),
    }
    wanted = model(**calls, return_dict=False)[0]
    grown = grow_(model)
    assert type(grown).__name__ == "SD3Transformer2DModel"
    assert not {"low_rank", "pruned_layout"} & set(grown.config)
    assert grown.state_dict().keys() == sd3().transformer.state_dict().keys()
    torch.testing.assert_close(grown(**calls, return_dict=False)[0], wanted, rtol=1e-4, atol=1e-5)
