"""Heads and neurons move between groups, and the model is exactly as small as by uniform pruning."""

import itertools

import pytest
import torch

from obsdiff import PruningConfig, dense_pass, prune_
from obsdiff.errors import UserError
from obsdiff.structured_sensitivity import Curve, cheapest, role, spread

from .conftest import PROMPTS, flux, sd, sd3

QUICK = {"num_inference_steps": 2, "height": 16, "width": 16, "guidance_scale": 3.0, "num_prompts": 3, "pattern": "structured", "keep_first_last": False}


def test_no_other_way_is_cheaper():
    g = torch.Generator().manual_seed(0)
    errors = [torch.rand(6, generator=g).cumsum(0).tolist() for _ in range(4)]
    for steps in range(15):
        found = cheapest(errors, steps)
        ways = [way for way in itertools.product(range(6), repeat=4) if sum(way) == steps]
        assert sum(found) == steps
        assert sum(row[k] for row, k in zip(errors, found, strict=True)) == pytest.approx(min(sum(r[k] for r, k in zip(errors, w, strict=True)) for w in ways))


def test_what_fills_no_step_is_taken_too():
    curves = [Curve(("neurons",), 160, 24, 56, [0, a, 2 * a, 4 * a, 8 * a, 16 * a], least=8) for a in (1.0, 3.0, 3.0)]
    left = spread(curves)
    assert sum(160 - n for n in left) == 3 * 56
    assert left[0] < left[1] <= left[2] or left[0] < left[2] <= left[1]


@pytest.mark.parametrize("allocation", ["obs", "sensitivity"])
@pytest.mark.parametrize("make", [sd3, sd, flux])
def test_the_model_is_as_small_as_by_uniform_pruning(make, allocation):
    pipes, reports = [make(), make()], []
    for pipe, kind in zip(pipes, ("uniform", allocation), strict=True):
        reports.append(prune_(pipe, PROMPTS, PruningConfig(sparsity=0.4, allocation=kind, round_to=4, **QUICK)))
    assert reports[0].parameters == reports[1].parameters
    for kind in ("heads", "neurons"):
        kept = [sum(row.kept for row in report.groups if row.kind == kind) for report in reports]
        assert kept[0] == kept[1]
    assert all(row.kept >= 1 for row in reports[1].groups)
    assert [row.kept for row in reports[0].groups] != [row.kept for row in reports[1].groups]
    assert bool(reports[1].sensitivity) == (allocation == "sensitivity")
    component = getattr(pipes[1], "transformer", None) or pipes[1].unet
    assert sum(p.numel() for p in component.parameters()) == reports[1].parameters["after"]


def test_what_no_curve_reaches_is_shared_out_within_bounds():
    curves = [Curve(("neurons",), 160, 24, 152, [0, 1, 2, 3], least=8), Curve(("neurons",), 160, 24, 152, [0, 2, 4, 6], least=8)]
    left = spread(curves)
    assert left == [8, 8]


def test_widths_that_round_to_does_not_divide_stay_uniform():
    curves = [Curve(("neurons",), 100, 8, 36, [0, a, 2 * a, 3 * a, 9 * a], least=8, movable=False) for a in (1.0, 5.0)]
    assert spread(curves) == [64, 64]


def test_heads_of_other_roles_do_not_trade():
    assert role("transformer_blocks.3.attn1") != role("transformer_blocks.3.attn2")
    assert role("temporal_transformer_blocks.0.attn1") != role("transformer_blocks.0.attn1")
    assert role("down_blocks.1.attentions.0.transformer_blocks.0.attn1") == role("up_blocks.0.attentions.2.transformer_blocks.0.attn1")


def test_a_dense_pass_without_its_layers_is_one_line():
    pipe = sd3()
    with dense_pass(pipe, PROMPTS, [PruningConfig(blocks="0", **QUICK)]) as dense, pytest.raises(UserError, match="give dense_pass this config as well"):
        prune_(pipe, PROMPTS, PruningConfig(allocation="obs", **QUICK), dense=dense)
