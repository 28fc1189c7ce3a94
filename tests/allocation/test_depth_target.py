"""Blocks leave until the denoiser has the parameters or operations that a target allows."""

import copy
import dataclasses
import json
import math

import pytest
import torch

from obsdiff import PruningConfig, prune_
from obsdiff.allocation.block_effects import Effects, prices, shortlist
from obsdiff.allocation.depth_target import at_budget, block_budget, of_each_block
from obsdiff.calibration.depth_selection import select_depth
from obsdiff.cli.main import main
from obsdiff.errors import UserError
from obsdiff.models.depth import remove_blocks_
from obsdiff.models.discovery import find_blocks
from obsdiff.models.linear_view import layer_shapes
from obsdiff.models.macs import count_macs

from ..conftest import PROMPTS, sd3
from .test_depth import QUICK

SMALL = {"num_prompts": 2, "allocation_prompts": 1, "compensation": False}


def sd3_of(config):
    model = sd3(layers=4, dual=(0, 1)).transformer
    return model, select_depth("SD3Transformer2DModel", find_blocks(layer_shapes(model)), config)


def count(unit, model, arguments):
    if unit == "parameters":
        return sum(p.numel() for p in model.parameters())
    return count_macs(lambda: model(**arguments)).total


@pytest.mark.parametrize("unit", ["parameters", "macs"])
def test_the_savings_are_what_leaves_with_a_block(unit):
    model, selection = sd3_of(PruningConfig(pattern="depth"))
    arguments = arguments_of(model)
    savings = of_each_block(unit, model, selection.candidates, arguments)
    for name in selection.candidates:
        less = copy.deepcopy(model)
        remove_blocks_(less, selection.stacks, [name])
        assert savings[name] == count(unit, model, arguments) - count(unit, less, arguments)
    assert savings["transformer_blocks.0"] > savings["transformer_blocks.2"]  # a second attention


def arguments_of(model):
    config, x = model.config, torch.randn
    return {
        "hidden_states": x(1, config.in_channels, 8, 8),
        "encoder_hidden_states": x(1, 5, config.joint_attention_dim),
        "pooled_projections": x(1, config.pooled_projection_dim),
        "timestep": torch.ones(1),
        "return_dict": False,
    }


def test_a_target_that_no_blocks_meet_names_the_least():
    config = PruningConfig(pattern="depth", target_parameters=0.01)
    model, selection = sd3_of(config)
    with pytest.raises(
        UserError, match=r"target_parameters: .* found 0\.01; at least 0\.\d+ stays"
    ):
        block_budget(selection, model, config, {})


def test_operations_that_cannot_be_counted_are_an_error_of_one_line():
    config = PruningConfig(pattern="depth", target_macs=0.8)
    model, selection = sd3_of(config)
    with pytest.raises(UserError, match="expected a denoiser whose operations can be counted"):
        block_budget(selection, model.to("meta"), config, {})  # a call without its arguments


def test_a_block_after_which_the_target_is_out_of_reach_does_not_leave():
    """Only the two large blocks together save enough: the small one, for free, has to stay."""
    selection = select_depth(
        "AuraFlowTransformer2DModel",
        [dataclasses.replace(b, name=n) for b, n in zip(four_blocks(), AURA, strict=True)],
        PruningConfig(pattern="depth"),
    )
    savings = dict(zip(AURA, (5.0, 5.0, 1.0, 1.0), strict=True))
    selection = dataclasses.replace(selection, savings=savings, wanted=6.0)
    estimate: Effects = {AURA[0]: 0.5, AURA[1]: 0.6, AURA[2]: 0.1, AURA[3]: 0.2}
    assert prices(selection, [], estimate)[AURA[0]] == pytest.approx(0.1)
    skipped = dataclasses.replace(selection, savings=savings | {AURA[2]: 0.0})
    assert prices(skipped, [], estimate)[AURA[2]] == math.inf
    assert set(shortlist(selection, [], estimate)) == set(AURA)
    assert shortlist(selection, [AURA[2]], estimate) == AURA[:2]
    assert shortlist(dataclasses.replace(selection, wanted=6.5), [], estimate) == []


AURA = [
    *(f"joint_transformer_blocks.{i}" for i in range(2)),
    *(f"single_transformer_blocks.{i}" for i in range(2)),
]


def four_blocks():
    return (find_blocks(layer_shapes(sd3(layers=4).transformer)) * 2)[:4]


@pytest.mark.slow
@pytest.mark.parametrize("unit", ["parameters", "macs"])
def test_a_run_meets_its_target_with_as_few_blocks_as_it_takes(unit):
    pipe = sd3(layers=5)
    report = prune_(pipe, PROMPTS[:2], pattern="depth", **{f"target_{unit}": 0.7}, **SMALL, **QUICK)
    assert report.budget["unit"] == unit
    assert report.budget["share"] == report.budget["left"] / report.budget["dense"] <= 0.7
    each = 1 - report.budget["share"]
    assert each / len(report.depth["removed"]) > each - 0.3  # one less would miss it
    if unit == "parameters":
        assert report.budget["left"] == report.parameters["after"]


def test_inspect_says_what_a_target_leaves(sd3_folder, capsys):
    flags = ["--pattern", "depth", "--target-macs", "0.8", "--num-inference-steps", "1"]
    words = ["inspect", sd3_folder, *flags, "--height", "16", "--width", "16"]
    assert main([*words, "--json"]) == 0
    plan = json.loads(capsys.readouterr().out)
    found = plan["prediction"]
    assert found["pruned"]["macs"]["total"] <= 0.8 * found["dense"]["macs"]["total"]
    assert found["blocks"]["removed"] == 1
    assert main(words) == 0
    assert "budget      at most 0.8 of the multiply-accumulates: blocks leave" in (
        capsys.readouterr().out
    )


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"target_macs": 0.5, "sparsity": 0.2}, "found sparsity 0.2"),
        ({"target_latency": 0.5}, "target_latency needs pattern structured"),
        ({"target_macs": 0.5, "target_bytes": 0.5}, "were both given"),
    ],
)
def test_targets_of_depth_are_checked(settings, words):
    with pytest.raises(UserError) as error:
        PruningConfig(pattern="depth", **settings)
    assert words in str(error.value)


def test_a_budget_becomes_what_blocks_have_to_save():
    config = PruningConfig(pattern="depth", target_parameters=0.8)
    model, selection = sd3_of(config)
    budget = block_budget(selection, model, config, {})
    found = at_budget(selection, budget)
    assert found.wanted == pytest.approx(0.2 * budget.dense, abs=1)
    assert budget.sparsity == found.count / 4
