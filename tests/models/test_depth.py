"""Blocks out of every model of the table: the config that is left builds the same model."""

import copy

import diffusers
import pytest
import torch

from obsdiff.models.depth import changed_settings, remove_blocks_, stacks_of, without_blocks
from obsdiff.models.depth_table import STACKS

from ..tiny_models import TINY

LONG = 3  # blocks of each list before one leaves


def outputs(found):
    """The first tensor that a model returns."""
    while not isinstance(found, torch.Tensor):
        found = found[0]
    return found


@pytest.fixture(params=STACKS)
def deep(request):
    """A tiny model of each class with LONG blocks in each list, and the arguments of a call."""
    settings, make = TINY[request.param]
    torch.manual_seed(0)
    counts = {stack.count: LONG for stack in STACKS[request.param]}
    model = getattr(diffusers, request.param)(**settings | counts).eval()
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.05 * torch.randn_like(p))
    return model, make()


@torch.no_grad()
@pytest.mark.slow
def test_the_config_that_is_left_builds_the_model_that_is_left(deep):
    model, arguments = deep
    stacks = stacks_of(model)
    away = [f"{stack.blocks}.1" for stack in stacks]
    whole = outputs(model(**copy.deepcopy(arguments), return_dict=False))
    with without_blocks(model, stacks, away):
        skipped = outputs(model(**copy.deepcopy(arguments), return_dict=False))
    assert not torch.equal(whole, skipped)
    assert torch.equal(whole, outputs(model(**copy.deepcopy(arguments), return_dict=False)))
    remove_blocks_(model, stacks, away)
    again = type(model).from_config(model.config).eval()
    assert {stack.count: again.config[stack.count] for stack in stacks} == {
        stack.count: LONG - 1 for stack in stacks
    }
    again.load_state_dict(model.state_dict())
    assert torch.equal(skipped, outputs(again(**arguments, return_dict=False)))


def test_numbers_of_blocks_in_the_config_follow():
    (stack,) = STACKS["SD3Transformer2DModel"]
    config = {"num_layers": 6, "dual_attention_layers": (0, 2, 3)}
    names = ["transformer_blocks.1", "transformer_blocks.2"]
    assert changed_settings(config, (stack,), names) == {
        "num_layers": 4,
        "dual_attention_layers": (0, 1),
    }


def fail_without_a_block(model, stacks):
    with without_blocks(model, stacks, ["single_transformer_blocks.1"]):
        assert [len(getattr(model, stack.blocks)) for stack in stacks] == [1, 1]
        raise ZeroDivisionError


def test_blocks_are_put_back_whatever_happens():
    settings, _ = TINY["FluxTransformer2DModel"]
    model = diffusers.FluxTransformer2DModel(**settings)
    own = model.transformer_blocks, model.single_transformer_blocks
    stacks = stacks_of(model)
    with pytest.raises(ZeroDivisionError):
        fail_without_a_block(model, stacks)
    assert (model.transformer_blocks, model.single_transformer_blocks) == own
