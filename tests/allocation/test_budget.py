"""A share of the dense denoiser's parameters, operations, bytes or time is met.

Groups of all kinds share the savings.
"""

import json
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
from diffusers import DiffusionPipeline

from obsdiff import PruningConfig, prune_, save_pruned
from obsdiff.allocation import budget
from obsdiff.allocation import layer_latency as latency_table
from obsdiff.allocation.budget import (
    Budget,
    LatencyBudget,
    along,
    budget_from,
    chosen,
    corrected_by_timing,
    kept_at_least,
    size_budget,
)
from obsdiff.allocation.group_curves import LossCurve
from obsdiff.allocation.savings import amount_of, of_an_item
from obsdiff.calibration.groups import at_sparsity
from obsdiff.cli.main import main
from obsdiff.errors import UserError
from tests.allocation.test_savings import opened, plain
from tests.allocation.test_uniform_latency import ideal

from ..conftest import PROMPTS, ddpm, flux, sd3

QUICK = {
    "num_inference_steps": 2,
    "height": 16,
    "width": 16,
    "num_prompts": 2,
    "pattern": "structured",
    "keep_first_last": False,
    "round_to": 4,
}
UNCONDITIONAL = {
    "num_inference_steps": 2,
    "num_prompts": 1,
    "pattern": "structured",
    "target": "conv",
    "include": ("*resnets*",),
}


def component(pipe) -> torch.nn.Module:
    return getattr(pipe, "transformer", None) or pipe.unet


@pytest.mark.parametrize("unit", ["parameters", "macs", "bytes"])
@pytest.mark.parametrize(
    ("make", "given", "allocation"),
    [(sd3, QUICK, "obs"), (sd3, QUICK, "sensitivity"), (ddpm, UNCONDITIONAL, None)],
)
@pytest.mark.slow
def test_what_stays_is_within_a_step_of_the_target(make, given, allocation, unit):
    pipe, target = make(), 0.85
    before = {kind: amount_of(kind, component(pipe), {}) for kind in ("parameters", "bytes")}
    report = prune_(
        pipe,
        PROMPTS if make is sd3 else [{}],
        PruningConfig(allocation=allocation, **{f"target_{unit}": target}, **given),
    )
    found = report.budget
    assert (found["unit"], found["target"], report.config["allocation"]) == (
        unit,
        target,
        allocation or "obs",
    )
    assert target - 0.12 < found["share"] == found["left"] / found["dense"] <= target
    assert report.config["sparsity"] == found["sparsity"] > 0
    assert all(
        report.config[name] is None for name in ("target_parameters", "target_macs", "target_bytes")
    )
    if unit != "macs":
        assert (found["dense"], found["left"]) == (
            before[unit],
            amount_of(unit, component(pipe), {}),
        )
    assert bool(report.sensitivity) == (allocation == "sensitivity")


@pytest.mark.slow
def test_the_pruned_model_opens_with_diffusers(tmp_path):
    pipe = sd3()
    report = prune_(pipe, PROMPTS, PruningConfig(target_macs=0.8, **QUICK))
    again = DiffusionPipeline.from_pretrained(
        save_pruned(pipe, tmp_path / "out", report), text_encoder_3=None, tokenizer_3=None
    )
    assert all(
        torch.equal(a, b)
        for a, b in zip(
            again.transformer.state_dict().values(),
            pipe.transformer.state_dict().values(),
            strict=True,
        )
    )
    assert (
        json.loads(Path(tmp_path / "out" / "obsdiff.json").read_text())["budget"] == report.budget
    )


@pytest.mark.slow
def test_a_run_goes_on_with_what_was_noted(tmp_path, monkeypatch):
    reports = [
        prune_(flux(), PROMPTS, PruningConfig(target_parameters=0.85, **QUICK), journal=tmp_path)
    ]
    monkeypatch.setattr(budget, "budget_of", None)
    monkeypatch.setattr(budget, "chosen", None)
    reports.append(
        prune_(flux(), PROMPTS, PruningConfig(target_parameters=0.85, **QUICK), journal=tmp_path)
    )
    assert reports[0].budget == reports[1].budget
    assert reports[0].layout == reports[1].layout


def curves() -> tuple[dict[str, LossCurve], dict[str, list[float]]]:
    """Heads that cost little for what they save, and neurons that cost much."""
    found = {
        "a heads": LossCurve(4, 1, 1, [0.0, 0.1, 0.2, 0.3]),
        "b neurons": LossCurve(32, 8, 8, [0.0, 1.0, 2.0, 3.0]),
    }
    return found, {"a heads": [0.0, 10.0, 20.0, 30.0], "b neurons": [0.0, 10.0, 20.0, 30.0]}


def test_items_leave_where_they_cost_least_for_what_they_save():
    found, savings = curves()
    whole = Budget("macs", 0.5, 100, 0.25, savings)
    assert whole.wanted == 50
    assert chosen(whole, found, 30) == {"a heads": 1, "b neurons": 32}
    assert chosen(whole, found, 31) == {"a heads": 1, "b neurons": 24}
    dear = replace(
        whole, savings={"a heads": [0.0, 1.0, 2.0, 3.0], "b neurons": [0.0, 100.0, 200.0, 300.0]}
    )
    assert chosen(dear, found, 30) == {"a heads": 4, "b neurons": 24}
    with pytest.raises(
        UserError,
        match=r"target_macs: expected a share that pruning can reach, found 0\.5; "
        r"at least 0\.4 stays",
    ):
        chosen(whole, found, 61)


def test_a_time_saves_what_it_can_where_the_curves_end():
    """Timing of the whole step decides, so a table that saves too little is no error."""
    found, savings = curves()
    assert chosen(LatencyBudget("latency", 0.3, 100, 0.25, savings), found, 70) == {
        "a heads": 1,
        "b neurons": 8,
    }


@pytest.mark.parametrize(
    "made",
    [
        Budget("macs", 0.5, 100.0, 0.25, {"a": [0.0, 1.0]}),
        LatencyBudget("latency", 0.5, 1.0, 0.25, {"a": [0.0, 1.0]}, [{"left": [1]}]),
    ],
)
def test_a_noted_budget_is_read_back_as_what_it_was(made):
    found = budget_from(json.loads(json.dumps(asdict(made))))
    assert found == made
    assert type(found) is type(made)
    assert found.wanted == made.wanted == {"macs": 50, "latency": 0.5}[made.unit]


@pytest.mark.parametrize("unit", ["parameters", "macs", "bytes"])
def test_a_size_budget_has_the_savings_of_every_step_and_the_uniform_sparsity(unit):
    denoiser, groups, call = opened(sd3, round_to=4)
    config = PruningConfig(**{f"target_{unit}": 0.85}, **QUICK)
    found = size_budget(denoiser, groups, config, call)
    each = of_an_item(unit, denoiser, plain(groups), call)
    assert type(found) is Budget
    assert (found.unit, found.target) == (unit, 0.85)
    assert found.dense == amount_of(unit, denoiser, call)
    for prunable in groups:
        row = found.savings[prunable.name]
        assert len(row) == prunable.most // prunable.step + 1
        assert row == pytest.approx(
            [k * prunable.step * each[prunable.name] for k in range(len(row))]
        )
        assert found.saved_at(prunable, prunable.total) == 0
        assert found.saved_at(prunable, kept_at_least(prunable)) == row[-1]

    def saved(sparsity: float) -> float:
        at = at_sparsity(config, sparsity)
        return sum(found.saved_at(prunable, prunable.kept_at(at)) for prunable in groups)

    assert saved(found.sparsity + 1e-3) >= found.wanted > saved(found.sparsity - 1e-2)


def test_a_width_that_round_to_does_not_divide_gives_what_uniform_pruning_takes():
    found, savings = curves()
    found["b neurons"] = replace(found["b neurons"], total=33, uniform=9, movable=False)
    assert chosen(Budget("macs", 0.8, 100, 0.25, savings), found, 21) == {
        "a heads": 3,
        "b neurons": 24,
    }
    assert along([0.0, 10.0, 30.0], 1.5) == 20
    assert along([0.0, 10.0, 30.0], 3) == 50
    assert along([0.0], 2) == 0


@pytest.mark.parametrize("table", [0.6, 1.0, 1.6])
def test_a_time_is_met_although_the_table_is_wrong(table):
    """A machine on which all groups together save so many times what the table says."""
    savings = {"a": [i / 100 for i in range(91)]}
    most = LatencyBudget("latency", 0.7, 1.0, 0.3, savings, [{"left": [1]}])
    found = corrected_by_timing(
        most,
        lambda wanted: {"a": wanted},
        lambda left, rounds: (1 - table * left["a"], 1 - table * left["a"], 1.0),
    )
    assert 0.7 - 2 * budget.NEAR < found["met"]["measured"] <= 0.7
    assert found["met"]["tried"][0] == pytest.approx((0.3, 1 - 0.3 * table))
    assert found["met"]["table"] == [{"left": [1]}]


def test_a_time_that_is_not_reached_at_the_end_is_one_line():
    few = LatencyBudget("latency", 0.3, 1.0, 0.8, {"a": [0.0, 0.5]})
    with pytest.raises(
        UserError,
        match=r"target_latency: .* found 0\.3; "
        r"with the fewest items a step takes 0\.500 of dense's",
    ):
        corrected_by_timing(
            few, lambda wanted: {"a": wanted}, lambda left, rounds: (1 - left["a"], 1.0, 1.0)
        )


@pytest.mark.slow
def test_a_latency_with_allocation_goes_by_the_table(monkeypatch):
    """Parameters replace time, here and in the table: the result is that of every machine."""

    def raced(dense, model, call, rounds):
        left, whole = (sum(p.numel() for p in one.parameters()) for one in (model, dense))
        return left / whole, float(left), float(whole)

    def timed(denoiser, group, call, left):
        return [
            of_an_item("parameters", denoiser, [group], call)[group.name] * float(count)
            for count in left
        ]

    monkeypatch.setattr(budget, "time_ratio", raced)
    monkeypatch.setattr(latency_table, "timed_sizes", timed)
    pipe = sd3()
    report = prune_(pipe, PROMPTS, PruningConfig(target_latency=0.85, allocation="obs", **QUICK))
    found = report.latency
    share = report.parameters["after"] / report.parameters["before"]
    assert found["measured"] == share
    assert 0.75 < share <= 0.85
    assert found["tried"]
    assert {name for row in found["table"] for name in row["groups"]} == {
        f"{row.owner} {row.kind}" for row in report.groups
    }


def test_what_can_not_be_reached_is_a_line_before_anything_is_pruned():
    pipe = sd3()
    before = {name: w.clone() for name, w in pipe.transformer.state_dict().items()}
    with pytest.raises(
        UserError,
        match=r"target_parameters: expected a share that pruning can reach, found 0.1; "
        r"at least 0.\d+ stays",
    ):
        prune_(pipe, PROMPTS, PruningConfig(target_parameters=0.1, **QUICK))
    assert all(torch.equal(w, before[name]) for name, w in pipe.transformer.state_dict().items())


@pytest.mark.parametrize(
    ("given", "line"),
    [
        (
            {"pattern": "unstructured"},
            "target_macs needs pattern structured or depth, no sparsity and no memory budget; "
            "found pattern unstructured",
        ),
        ({"sparsity": 0.3}, "target_macs needs pattern structured or depth, .* found sparsity 0.3"),
        ({"target_bytes": 0.5}, "target_macs and target_bytes were both given: set one"),
        ({"target_latency": 0.5}, "target_macs and target_latency were both given: set one"),
        ({"target_macs": 1.0}, "target_macs: expected between 0 and 1, found 1.0"),
        (
            {"allocation": "uniform"},
            "target_macs needs an allocation over groups of all kinds, obs or sensitivity; "
            "found allocation uniform; leave it out",
        ),
        (
            {"method": "l1"},
            r"allocation obs \(for target_macs\): structured needs the losses of method obs, "
            "found l1",
        ),
        ({"calibration": "live"}, r"allocation obs \(for target_macs\) needs all Hessians at once"),
    ],
)
def test_what_it_does_not_go_with(given, line):
    with pytest.raises(UserError, match=line):
        PruningConfig(**{"pattern": "structured", "target_macs": 0.5} | given)


def test_defaults_and_presets():
    assert PruningConfig(pattern="structured", target_bytes=0.5).allocation == "obs"
    assert (
        PruningConfig(pattern="structured", target_bytes=0.5, preset="best").allocation
        == "sensitivity"
    )
    assert PruningConfig(pattern="structured", target_latency=0.5).budget is None
    assert PruningConfig(pattern="structured", target_latency=0.5, allocation="obs").budget == (
        "latency",
        0.5,
    )
    assert PruningConfig(pattern="structured").allocation == "uniform"


def test_uniform_latency_still_goes_by_sparsity(monkeypatch):
    asked = ideal(monkeypatch)
    report = prune_(sd3(), PROMPTS, PruningConfig(target_latency=0.7, **QUICK))
    assert asked
    assert "table" not in report.latency


@pytest.mark.slow
def test_inspect_says_which_uniform_sparsity_would_meet_it(capsys):
    assert (
        main(["inspect", "emoji-unet", "--pattern", "structured", "--target-macs", "0.9", "--json"])
        == 0
    )
    plan = json.loads(capsys.readouterr().out)
    found = plan["prediction"]
    assert plan["budget"] == ["macs", 0.9]
    assert 0.85 < found["pruned"]["macs"]["total"] / found["dense"]["macs"]["total"] <= 0.9
    assert main(["inspect", "emoji-unet", "--pattern", "structured", "--target-macs", "0.1"]) == 2
    assert (
        "target_macs: expected a share that pruning can reach, found 0.1" in capsys.readouterr().err
    )


@pytest.mark.slow
def test_the_command_line(tmp_path, capsys):
    given = [
        "--num-prompts",
        "1",
        "--num-inference-steps",
        "1",
        "--pattern",
        "structured",
        "--target-macs",
        "0.9",
    ]
    assert main(["prune", "emoji-unet", "--output", str(tmp_path / "out"), *given]) == 0
    found = json.loads(Path(tmp_path / "out" / "obsdiff.json").read_text())["budget"]
    assert found["share"] <= 0.9
    assert f"({found['share']:.4f} of dense's macs, target 0.9)" in capsys.readouterr().err


@pytest.mark.parametrize(
    "saves",
    [
        lambda w: 0.8 * w**3,
        lambda w: max(0.0, 1.2 * (w - 0.5)),
        lambda w: 0.8 * w**2,
        lambda w: 0.8 * w**1.8,
        lambda w: 0.8 * w**0.5,
    ],
    ids=["late", "later", "square", "less", "early"],
)
@pytest.mark.parametrize("target", [i / 100 for i in range(45, 98, 2)])
def test_a_time_is_met_closely_where_it_does_not_follow_the_table(saves, target):
    """A machine with fixed costs, or with kernels that save nothing at first."""
    whole = LatencyBudget("latency", target, 1.0, 0.3, {"a": [i / 100 for i in range(101)]})
    found = corrected_by_timing(
        whole, lambda wanted: {"a": wanted}, lambda left, rounds: (1 - saves(left["a"]), 1.0, 1.0)
    )
    assert target - 0.03 < found["met"]["measured"] <= target


@pytest.mark.parametrize(("unit", "round_to"), [("parameters", 96), ("macs", 96), ("bytes", 72)])
@pytest.mark.slow
def test_what_uniform_pruning_takes_of_a_width_that_round_to_does_not_divide_counts(unit, round_to):
    """More than half a width: there is no step in between, and yet neurons leave."""
    pipe = sd3()
    settings = QUICK | {"round_to": round_to, f"target_{unit}": 0.85}
    report = prune_(pipe, PROMPTS, PruningConfig(**settings))
    neurons = [row for row in report.groups if row.kind == "neurons"]
    assert any(row.kept < row.total for row in neurons)
    assert 0.85 - 0.1 < report.budget["share"] <= 0.85


@pytest.mark.slow
def test_a_round_to_above_every_width_leaves_neurons_alone(monkeypatch):
    monkeypatch.setattr(
        budget,
        "time_ratio",
        lambda dense, model, call, rounds: (
            sum(p.numel() for p in model.parameters()) / sum(p.numel() for p in dense.parameters()),
            1.0,
            1.0,
        ),
    )
    report = prune_(
        sd3(),
        PROMPTS,
        PruningConfig(target_latency=0.97, allocation="obs", **QUICK | {"round_to": 4096}),
    )
    assert {row.kind for row in report.groups if row.kept < row.total} == {"heads"}
