"""Values and bitmasks of weights: exact, and refused where they do not fit each other."""

import pytest
import torch

import obsdiff
from obsdiff import UserError
from obsdiff.models.bitmask import hold_packed_, open_packed_, pack, unpack
from obsdiff.models.bitmask_format import Packed, read_setting, setting_of
from obsdiff.models.own_names import BITMASK, MODULE

from ..conftest import sd3

LAYER = "transformer_blocks.0.attn.to_q"


@pytest.fixture(scope="module")
def model() -> torch.nn.Module:
    """A small transformer, which no test changes."""
    return sd3().transformer


def halved(shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(len(shape)))
    return (weight * (weight > 0)).abs().to(dtype)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("shape", [(1,), (5, 7), (8, 8), (3, 2, 3, 3)])
def test_a_weight_comes_back_in_every_bit(dtype, shape):
    weight = halved(shape, dtype)
    weight.view(-1)[0] = -0.0  # kept as it is
    values, bits = pack(weight)
    assert (values.dtype, bits.dtype, len(bits)) == (dtype, torch.uint8, -(-weight.numel() // 8))
    again = unpack("layer", Packed(shape, len(values)), values, bits)
    assert torch.equal(again, weight)
    assert torch.equal(again.signbit(), weight.signbit())
    assert pack(torch.zeros(shape, dtype=dtype))[0].numel() == 0


def test_the_bits_are_those_of_the_documented_format():
    values, bits = pack(torch.tensor([[0.0, 1.0, 2.0, 0.0, 0.0], [3.0, 0.0, 0.0, 0.0, 4.0]]))
    assert values.tolist() == [1.0, 2.0, 3.0, 4.0]
    assert bits.tolist() == [0b00100110, 0b00000010]


@pytest.mark.parametrize(
    ("values", "bits", "problem"),
    [
        (3, [0b111, 0], "expected 4 values"),
        (4, [0b1111], "2 bytes of bits"),
        (4, [0b111, 0], "found 3, 3 of them"),
        (4, [0b11111, 0], "found 5, 5 of them"),
        (4, [0b111, 0b100], "found 4, 3 of them"),  # behind the last entry
    ],
)
def test_values_and_bits_that_do_not_fit_are_refused(values, bits, problem):
    stored = torch.tensor(bits, dtype=torch.uint8)
    with pytest.raises(UserError, match=problem):
        unpack("layer", Packed((2, 5), 4), torch.ones(values), stored)


GOOD = {"version": 1, "layers": {LAYER: {"shape": [32, 32], "kept": 9}}}


@pytest.mark.parametrize(
    ("setting", "problem"),
    [
        ([], "expected version 1"),
        ({"version": 2, "layers": {}}, "found 2"),
        ({"version": 1, "layers": []}, "object of layers"),
        *(
            ({"version": 1, "layers": {LAYER: value}}, problem)
            for value, problem in [
                (None, "the shape of a weight"),
                ({"shape": [], "kept": 0}, "the shape of a weight"),
                ({"shape": [2**40, 2**40], "kept": 0}, "the shape of a weight"),
                ({"shape": [-1, 4], "kept": 0}, "the shape of a weight"),
                ({"shape": [True, 4], "kept": 0}, "the shape of a weight"),
                ({"shape": [4, 4], "kept": 17}, "from 0 to 16"),
                ({"shape": [4, 4], "kept": 2.0}, "from 0 to 16"),
                ({"shape": [32, 31], "kept": 9}, "the shape of the model"),
            ]
        ),
        ({"version": 1, "layers": {"no.layer": {"shape": [4], "kept": 1}}}, "no layer 'no.layer'"),
        ({"version": 1, "layers": {"": {"shape": [4], "kept": 1}}}, "no layer ''"),
    ],
)
def test_hostile_settings_are_one_line(model, setting, problem):
    with pytest.raises(UserError, match=problem) as error:
        hold_packed_(model, setting)
    assert "\n" not in str(error.value)


def test_a_setting_is_read_as_it_was_written():
    layers = {LAYER: Packed((32, 32), 9)}
    assert read_setting(setting_of(layers)) == layers
    assert setting_of(layers) == GOOD
    assert read_setting(None) == {}


def test_a_model_is_filled_layer_by_layer_and_is_then_a_plain_one(model, tmp_path):
    weight = halved(tuple(model.get_submodule(LAYER).weight.shape), torch.float32)
    values, bits = pack(weight)
    setting = setting_of({LAYER: Packed(tuple(weight.shape), len(values))})
    config = {name: value for name, value in model.config.items() if not name.startswith("_")}
    packed = obsdiff.PrunedSD3Transformer2DModel(**config, bitmask=setting)
    with pytest.raises(UserError, match="set bits among"):  # never filled
        open_packed_(packed, setting)
    state = dict(model.state_dict())
    del state[f"{LAYER}.weight"]
    marker = {f"{MODULE}.{BITMASK}": torch.zeros(1)}
    state |= {f"{LAYER}.weight_values": values, f"{LAYER}.weight_bits": bits} | marker
    packed.load_state_dict(state)
    packed.save_pretrained(tmp_path)
    for low_memory in (True, False):
        again, info = obsdiff.PrunedSD3Transformer2DModel.from_pretrained(
            tmp_path, low_cpu_mem_usage=low_memory, output_loading_info=True
        )
        assert type(again) is type(model)
        assert not info["missing_keys"]
        assert "bitmask" not in again.config
        assert {name for name in again.config if not name.startswith("_")} == config.keys()
        assert again.state_dict().keys() == model.state_dict().keys()
        assert torch.equal(again.get_submodule(LAYER).weight, weight)
        assert again.get_submodule(LAYER).weight.requires_grad
