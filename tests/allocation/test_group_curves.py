"""Heads and neurons move between groups; the model is as small as by uniform pruning."""

import pytest
import torch

from obsdiff import PruningConfig, dense_pass, prune_
from obsdiff.allocation import group_curves as structured_sensitivity
from obsdiff.allocation.group_curves import LossCurve, share_out
from obsdiff.errors import UserError
from obsdiff.models.macs import count_macs
from obsdiff.pipelines.run import denoiser_call

from ..conftest import PROMPTS, flux, sd, sd3

QUICK = {
    "num_inference_steps": 2,
    "height": 16,
    "width": 16,
    "guidance_scale": 3.0,
    "num_prompts": 3,
    "pattern": "structured",
    "keep_first_last": False,
}


@pytest.mark.slow
def test_as_much_is_saved_as_by_uniform_pruning():
    g = torch.Generator().manual_seed(0)
    for _ in range(20):
        curves = [
            LossCurve(
                20,
                2,
                6,
                [0, *torch.rand(9, generator=g).cumsum(0).tolist()],
                saved=tuple(torch.rand(2, generator=g).tolist()),
            )
            for _ in range(5)
        ]
        left = share_out(curves)
        for resource in (0, 1):
            saved = sum(
                (c.total - n) * c.saved[resource] for c, n in zip(curves, left, strict=True)
            )
            assert saved >= sum(c.uniform * c.saved[resource] for c in curves) * (1 - 1e-6)
        errors = sum(c.errors[(c.total - n) // c.step] for c, n in zip(curves, left, strict=True))
        assert errors <= sum(c.errors[3] for c in curves)


def test_what_costs_nothing_leaves_first():
    dear, cheap = LossCurve(80, 8, 24, [0.0, *range(1, 9)]), LossCurve(80, 8, 24, [0.0] * 9)
    assert share_out([dear, cheap]) == [80, 32]


def test_uniform_pruning_is_one_of_the_ways():
    curves = [
        LossCurve(8, 4, 3, [0, 5.0], saved=(1.0, 1.0)) for _ in range(2)
    ]  # no step takes three
    assert share_out(curves) == [5, 5]


def operations(pipe) -> int:
    denoiser = getattr(pipe, "transformer", None) or pipe.unet
    call = denoiser_call(
        pipe,
        denoiser,
        PROMPTS[0],
        {"num_inference_steps": 2, "height": 16, "width": 16, "guidance_scale": 3.0},
    )
    return count_macs(lambda: denoiser(**call)).total


@pytest.mark.slow
@pytest.mark.parametrize(
    ("make", "allocation"), [(sd3, "drawn"), (sd, "sensitivity"), (flux, "obs"), (sd, "obs")]
)
def test_the_model_is_as_small_and_needs_as_few_operations_as_by_uniform_pruning(make, allocation):
    pipes, reports = [make(), make()], []
    for pipe, kind in zip(pipes, ("uniform", allocation), strict=True):
        reports.append(
            prune_(pipe, PROMPTS, PruningConfig(sparsity=0.4, allocation=kind, round_to=4, **QUICK))
        )
    assert (
        reports[1].parameters["after"]
        <= reports[0].parameters["after"]
        < reports[0].parameters["before"]
    )
    macs = [operations(pipe) for pipe in pipes]
    assert macs[1] <= macs[0]
    assert all(row.kept >= 1 for row in reports[1].groups)
    assert [row.kept for row in reports[0].groups] != [row.kept for row in reports[1].groups]
    assert bool(reports[1].sensitivity) == (allocation != "obs")
    component = getattr(pipes[1], "transformer", None) or pipes[1].unet
    assert sum(p.numel() for p in component.parameters()) == reports[1].parameters["after"]


def test_widths_that_round_to_does_not_divide_stay_uniform():
    curves = [LossCurve(100, 8, 36, [0, a, 2 * a, 3 * a, 9 * a], movable=False) for a in (1.0, 5.0)]
    assert share_out(curves) == [64, 64]


def test_a_dense_pass_without_its_layers_is_one_line():
    pipe = sd3()
    with (
        dense_pass(pipe, PROMPTS, [PruningConfig(blocks="0", **QUICK)]) as dense,
        pytest.raises(UserError, match="pass this config to dense_pass, too"),
    ):
        prune_(pipe, PROMPTS, PruningConfig(allocation="obs", **QUICK), dense=dense)


@pytest.mark.slow
def test_a_group_whose_first_items_do_nothing_is_not_free():
    """Dead neurons leave first; those after them are no worse known for it."""
    pipe, ffn = sd3(), "transformer_blocks.1.ff"
    pipe.transformer.get_submodule(f"{ffn}.net.2").weight.data[:, :64] = 0
    report = prune_(
        pipe, PROMPTS, PruningConfig(sparsity=0.3, allocation="sensitivity", round_to=4, **QUICK)
    )
    assert report.sensitivity[f"{ffn} neurons"] > 0
    (row,) = (row for row in report.groups if (row.owner, row.kind) == (ffn, "neurons"))
    assert row.kept > 16


@pytest.mark.slow
def test_without_repair_a_curve_is_what_pruning_so_many_costs_the_layers(monkeypatch):
    """In steps of a few it may take others than at once."""
    settings, seen = (
        QUICK | {"sparsity": 0.3, "round_to": 4, "compensation": False, "target": "ffn"},
        {},
    )
    report = prune_(sd3(), PROMPTS, PruningConfig(**settings))
    monkeypatch.setattr(
        structured_sensitivity,
        "share_out",
        lambda curves: seen.update(curves=curves) or share_out(curves),
    )
    prune_(sd3(), PROMPTS, PruningConfig(allocation="obs", **settings))
    found = [curve.at_uniform for curve in seen["curves"]]
    assert len(found) == len(report.layers)
    assert found == pytest.approx([row.error for row in report.layers], rel=0.2)


@pytest.mark.slow
def test_widths_that_round_to_does_not_divide_are_tried_as_uniform_pruning_takes_them():
    """Of the record alone: they do not move. The more leaves, the more it does."""
    effects = {}
    for sparsity in (0.0, 0.3, 0.6):
        report = prune_(
            sd3(),
            PROMPTS,
            PruningConfig(
                sparsity=sparsity,
                allocation="sensitivity",
                round_to=24,
                **QUICK | {"target": "ffn"},
            ),
        )
        left = {row.kept for row in report.groups}
        effects[sparsity] = report.sensitivity["transformer_blocks.1.ff neurons"]
    assert left == {48}
    assert 0 <= effects[0.0] < effects[0.3] < effects[0.6]
