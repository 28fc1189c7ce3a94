"""Transformer blocks out of UNets: the two settings that count them build what is left."""

import copy

import pytest
import torch
from diffusers import UNet2DConditionModel

from obsdiff.models.depth import remove_blocks_, stacks_of, without_blocks
from obsdiff.models.depth_table import unet_stacks
from obsdiff.models.unet_depth import DOWN, UP, unet_settings

from ..tiny_models import TINY

CROSS = {
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
}
UNETS = {
    "like SD": {},
    "like emoji-unet": CROSS,
    "like SDXL": CROSS | {DOWN: (1, 3), "use_linear_projection": True, "layers_per_block": 2},
    "with lists": CROSS
    | {DOWN: [1, [2, 3]], UP: [[3, 1, 2], 1], "use_linear_projection": True, "layers_per_block": 2},
    "without a middle": {"mid_block_type": None},
}
MIDDLE = "mid_block.attentions.0.transformer_blocks"


def unet(name):
    settings, make = TINY["UNet2DConditionModel"]
    torch.manual_seed(0)
    return UNet2DConditionModel(**settings | UNETS[name]).eval(), make()


def lengths(model):
    return {stack.blocks: len(model.get_submodule(stack.blocks)) for stack in stacks_of(model)}


def halves(model):
    """Sets of blocks that may leave: one, one of each list, all of the middle, all blocks."""
    lists = lengths(model)
    every = [f"{owner}.{i}" for owner, count in lists.items() for i in range(count)]
    middle = [name for name in every if name.startswith(MIDDLE)]
    return [every[-1:], [f"{owner}.0" for owner in lists], middle or every[:1], every]


@torch.no_grad()
@pytest.mark.parametrize("which", range(4))
@pytest.mark.parametrize("name", UNETS)
def test_the_config_that_is_left_builds_the_unet_that_is_left(name, which):
    model, arguments = unet(name)
    stacks, away = stacks_of(model), halves(model)[which]
    counts = lengths(model)
    whole = model(**copy.deepcopy(arguments)).sample
    with without_blocks(model, stacks, away):
        skipped = model(**copy.deepcopy(arguments)).sample
    assert not torch.equal(whole, skipped)
    assert torch.equal(whole, model(**copy.deepcopy(arguments)).sample)
    remove_blocks_(model, stacks, away)
    again = UNet2DConditionModel.from_config(dict(model.config)).eval()
    again.load_state_dict(model.state_dict())
    assert {stack.blocks: len(again.get_submodule(stack.blocks)) for stack in stacks} == {
        owner: count - sum(other.rpartition(".")[0] == owner for other in away)
        for owner, count in counts.items()
    }
    assert torch.equal(skipped, again(**arguments).sample)


def test_a_folder_written_with_fewer_blocks_opens(tmp_path):
    model, arguments = unet("like SDXL")
    remove_blocks_(model, stacks_of(model), halves(model)[2])
    model.save_pretrained(tmp_path)
    again = UNet2DConditionModel.from_pretrained(tmp_path)
    with torch.no_grad():
        assert torch.equal(model(**arguments).sample, again(**arguments).sample)


def test_blocks_leave_twice():
    model, _ = unet("with lists")
    expected = lengths(model)
    for _ in range(2):
        remove_blocks_(model, stacks_of(model), [f"{owner}.0" for owner in lengths(model)])
        again = UNet2DConditionModel.from_config(dict(model.config))
        expected = {owner: count - 1 for owner, count in expected.items() if count > 1}
        assert lengths(again) == lengths(model) == expected


def test_values_are_numbers_where_all_attentions_of_a_level_agree():
    config = {"down_block_types": ("a", "b"), "layers_per_block": 2, DOWN: (1, 10)}
    down = "down_blocks.1.attentions.{}.transformer_blocks".format
    up = "up_blocks.0.attentions.{}.transformer_blocks".format
    assert unet_settings(config, {}) == {DOWN: [1, 10], UP: [10, 1]}
    assert unet_settings(config, {MIDDLE: 10}) == {DOWN: [1, 10, 0], UP: [10, 1]}
    assert unet_settings(config, {down(0): 1, MIDDLE: 1}) == {DOWN: [1, [9, 10]], UP: [10, 1]}
    assert unet_settings(config, {up(2): 4}) == {DOWN: [1, 10], UP: [[10, 10, 6], 1]}
    one = {"down_block_types": ("a",), "layers_per_block": (1,), DOWN: 2}
    assert unet_settings(one, {}) == {DOWN: [2], UP: [2]}
    plain = {"down_block_types": ("a",), "layers_per_block": 1}
    assert unet_settings(plain, {MIDDLE: 1}) == {DOWN: [1, 0], UP: [1]}


def test_lists_are_found_by_the_names_of_the_blocks():
    names = [f"{MIDDLE}.0", f"{MIDDLE}.1", "mid_block.resnets.0", "transformer_blocks.0"]
    (stack,) = unet_stacks(names)
    assert (stack.blocks, stack.entry) == (MIDDLE, "mid_block.attentions.0.proj_in")
