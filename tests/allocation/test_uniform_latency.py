"""A target latency is met by a measured sparsity, and what was measured is in the record."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from obsdiff import PruningConfig, prune_
from obsdiff.allocation import uniform_latency as latency
from obsdiff.calibration.plan import plan_pruning
from obsdiff.cli.main import main
from obsdiff.errors import UserError
from obsdiff.pipelines.run import prepared

from ..conftest import PROMPTS, sd3

QUICK = {
    "num_inference_steps": 2,
    "height": 16,
    "width": 16,
    "num_prompts": 2,
    "pattern": "structured",
    "keep_first_last": False,
}


def ideal(monkeypatch, fixed: float = 0.2) -> list[float]:
    """A machine on which a step takes a fixed share, and the rest in proportion to what stays.

    Returns the list of the sparsities that are measured.
    """
    asked = []

    def timed(dense, config, call, rounds):
        asked.append(config.sparsity)
        return fixed + (1 - fixed) * (1 - config.sparsity), 1.0, 1.0

    monkeypatch.setattr(latency, "time_at", timed)
    return asked


@pytest.mark.parametrize(("target", "sparsity"), [(0.75, 0.3125), (0.5, 0.625), (0.95, 0.0625)])
def test_the_least_sparsity_that_meets_it_is_found(monkeypatch, target, sparsity):
    asked = ideal(monkeypatch)
    pipe = sd3()
    pruning_plan = plan_pruning(pipe, PROMPTS, PruningConfig(target_latency=target, **QUICK))
    with prepared(pipe):
        found = latency.sparsity_for_latency(pipe, pruning_plan)
    assert sparsity <= found["sparsity"] < sparsity + 0.8 / 2**6 + 0.001
    assert found["measured"] <= target
    assert [s for s, _ in found["tried"]] == asked


def test_what_can_not_be_reached_is_a_line_before_anything_is_pruned(monkeypatch):
    ideal(monkeypatch)
    pipe = sd3()
    before = {name: w.clone() for name, w in pipe.transformer.state_dict().items()}
    with pytest.raises(
        UserError,
        match=r"target_latency: expected a share that pruning can reach, found 0.1; "
        r"with sparsity 0.8 a step takes 0.36",
    ):
        prune_(pipe, PROMPTS, PruningConfig(target_latency=0.1, **QUICK))
    assert all(torch.equal(w, before[name]) for name, w in pipe.transformer.state_dict().items())


def test_noise_on_the_way_is_caught_at_the_end(monkeypatch):
    monkeypatch.setattr(
        latency,
        "time_at",
        lambda dense, config, call, rounds: (
            (1 - config.sparsity) * (1.1 if rounds == latency.MORE_ROUNDS else 0.9),
            1.0,
            1.0,
        ),
    )
    pipe = sd3()
    found = latency.sparsity_for_latency(
        pipe, plan_pruning(pipe, PROMPTS, PruningConfig(target_latency=0.6, **QUICK))
    )
    assert found["measured"] <= 0.6
    assert (1 - found["sparsity"]) * 1.1 <= 0.6


def test_a_real_step_is_timed_dense_and_shrunk():
    pipe = sd3()
    pruning_plan = plan_pruning(pipe, PROMPTS, PruningConfig(target_latency=0.5, **QUICK))
    with prepared(pipe):
        call = latency.denoiser_call(
            pipe, pruning_plan.denoiser, PROMPTS[0], pruning_plan.calibration_set.settings
        )
    parameters = sum(p.numel() for p in pruning_plan.denoiser.parameters())
    share, seconds, dense_seconds = latency.time_at(
        pruning_plan.denoiser, PruningConfig(sparsity=0.5, **QUICK), call, 3
    )
    assert 0 < share < 3
    assert seconds > 0
    assert dense_seconds > 0
    assert sum(p.numel() for p in pruning_plan.denoiser.parameters()) == parameters


@pytest.mark.slow
def test_a_run_has_the_sparsity_in_its_record_and_goes_on_with_it(monkeypatch, tmp_path):
    asked = ideal(monkeypatch)
    config = PruningConfig(target_latency=0.7, **QUICK)
    reports = [prune_(sd3(), PROMPTS, config, journal=tmp_path) for _ in range(2)]
    assert len(asked) == len(reports[0].latency["tried"])  # the second time it was noted
    assert (
        reports[1].latency["sparsity"]
        == reports[0].latency["sparsity"]
        == reports[0].config["sparsity"]
    )
    assert any(group.kept < group.total for group in reports[0].groups)


@pytest.mark.parametrize(
    "given", [{"pattern": "unstructured"}, {"sparsity": 0.3}, {"memory_budget_gib": 1.0}]
)
def test_what_it_does_not_go_with(given):
    with pytest.raises(
        UserError,
        match="target_latency needs pattern structured, no sparsity and no memory budget; found",
    ):
        PruningConfig(**{"pattern": "structured", "target_latency": 0.5} | given)


def test_inspect_runs_nothing(capsys):
    assert main(["inspect", "emoji-sd3", "--pattern", "structured", "--target-latency", "0.7"]) == 2
    assert "target_latency is measured by obsdiff prune" in capsys.readouterr().err


@pytest.mark.slow
def test_the_command_line_says_what_it_measured(monkeypatch, tmp_path, capsys):
    ideal(monkeypatch)
    given = [
        "--num-prompts",
        "1",
        "--num-inference-steps",
        "1",
        "--pattern",
        "structured",
        "--target-latency",
        "0.75",
    ]
    assert main(["prune", "emoji-sd3", "--output", str(tmp_path / "out"), *given]) == 0
    assert "a step takes 0.74 of dense's time, target 0.75" in capsys.readouterr().err
    record = SimpleNamespace(**json.loads(Path(tmp_path / "out" / "obsdiff.json").read_text()))
    assert record.latency["target"] == 0.75
    assert record.config["sparsity"] == record.latency["sparsity"]


def test_what_the_last_measurement_finds_out_of_reach_is_a_line(monkeypatch):
    """With a few rounds the highest sparsity is enough, with more it is not."""
    monkeypatch.setattr(
        latency,
        "time_at",
        lambda dense, config, call, rounds: (
            1 - 0.5 * config.sparsity + 0.02 * (rounds == latency.MORE_ROUNDS),
            1.0,
            1.0,
        ),
    )
    pipe = sd3()
    with pytest.raises(UserError, match=r"found 0\.605; with sparsity 0\.8 a step takes 0\.620"):
        latency.sparsity_for_latency(
            pipe, plan_pruning(pipe, PROMPTS, PruningConfig(target_latency=0.605, **QUICK))
        )
