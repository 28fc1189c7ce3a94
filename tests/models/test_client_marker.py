"""The marker of removed heads: in the file and the config, kept, harmless to diffusers."""

import json

import diffusers
import pytest
import torch
from accelerate import init_empty_weights
from diffusers import SD3Transformer2DModel
from diffusers.utils import logging
from safetensors import safe_open
from torch import nn

import obsdiff
from obsdiff import UserError
from obsdiff.models.client_marker import MARKER_KEY, add_marker_, is_marked
from obsdiff.models.layout import layout_of
from obsdiff.models.own_names import MODULE
from obsdiff.models.pruned_classes import mark_pruned_

from ..conftest import flux, sd, sd3, sdxl
from ..support.cut_heads import cut_
from ..support.lanes import first_quick
from ..tiny_models import TINY

FILE = "diffusion_pytorch_model.safetensors"


def denoiser(make) -> nn.Module:
    pipe = make()
    return getattr(pipe, "transformer", None) or pipe.unet


def stored(folder) -> tuple[set[str], dict]:
    """Names of the tensors in a saved model, and its config."""
    with safe_open(folder / FILE, "pt") as file:
        return set(file.keys()), json.loads((folder / "config.json").read_text())


@pytest.mark.parametrize("make", first_quick([sd3, sd, sdxl, flux]), ids=lambda make: make.__name__)
def test_removed_heads_are_marked_and_stay_marked(make, tmp_path, caplog):
    model = denoiser(make).half()
    cut_(model, "heads", "neurons")
    for name in ("first", "second"):  # saved, opened, saved again
        model.save_pretrained(tmp_path / name)
        names, config = stored(tmp_path / name)
        assert MARKER_KEY in names
        assert config["head_marker"] is True
        logging.enable_propagation()  # diffusers logs tensors that it missed or did not use
        again = type(model).from_pretrained(tmp_path / name, torch_dtype=torch.float16)
        logging.disable_propagation()
        assert not caplog.text
        assert again.state_dict().keys() == model.state_dict().keys()
        assert {value.dtype for value in again.state_dict().values()} == {torch.float16}
        assert not any(value.is_meta for value in again.state_dict().values())
        model = again


@pytest.mark.parametrize("make", first_quick([sd3, sd]), ids=lambda make: make.__name__)
def test_a_model_with_all_its_heads_has_no_marker(make, tmp_path):
    model = denoiser(make)
    cut_(model, "neurons")
    model.save_pretrained(tmp_path)
    names, config = stored(tmp_path)
    assert MARKER_KEY not in names
    assert "head_marker" not in config
    assert not is_marked(type(model).from_pretrained(tmp_path))


def test_heads_that_were_counted_but_are_all_left_are_not_marked():
    model = denoiser(sd3)
    mark_pruned_(model, {"transformer_blocks.1.attn": {"heads": 4}})
    assert not is_marked(model)
    assert "head_marker" not in model.config


def test_an_older_model_opens_without_a_marker_and_gets_one_when_it_is_pruned_again(tmp_path):
    model = denoiser(sd3)
    layout = cut_(model, "heads")
    config = {k: v for k, v in model.config.items() if k != "head_marker"}
    older = type(model).from_config(config)
    assert layout_of(older) == layout
    assert not is_marked(older)
    mark_pruned_(older, {})
    assert is_marked(older)
    assert older.config["head_marker"] is True


def test_diffusers_alone_still_refuses_the_shapes(tmp_path):
    model = denoiser(sd3)
    cut_(model, "heads")
    model.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="expected shape"):
        SD3Transformer2DModel.from_pretrained(tmp_path)


def test_a_model_with_another_module_of_that_name_is_refused():
    model = nn.Linear(2, 2)
    model.add_module(MODULE, nn.Linear(2, 2))
    with pytest.raises(UserError, match=r"no attribute 'model'.*found Linear.*target='ffn'"):
        add_marker_(model)


@pytest.mark.slow
def test_no_denoiser_of_diffusers_has_a_module_of_that_name():
    for name, (config, *_) in TINY.items():
        with init_empty_weights():
            model = getattr(diffusers, name)(**config)
        assert not hasattr(model, MODULE), name


def test_the_class_of_a_marked_model_is_found_by_name():
    model = denoiser(sd3)
    cut_(model, "heads")
    assert type(model) is obsdiff.PrunedSD3Transformer2DModel
