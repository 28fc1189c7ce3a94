"""`benchmarks.speed`: the functions that it wraps exist and are restored, and its figures add
up."""

import pytest

from benchmarks.plain.calibrate import draw
from benchmarks.speed.clock import measured, places
from benchmarks.speed.rows import ROWS, keep_rows, met
from benchmarks.speed.whole import CONFIGS, plain_seconds, rows_of
from obsdiff import PruningConfig

from ..conftest import PROMPTS, sd3


def test_every_phase_has_its_functions():
    for _, owner, name in places():
        assert callable(getattr(owner, name))


def test_every_whole_pruning_has_its_row_and_valid_settings():
    assert set(CONFIGS) == {name for name in ROWS if name.startswith("whole/")}
    assert all(PruningConfig(**settings) for settings in CONFIGS.values())


def test_phases_add_up_and_nothing_stays_wrapped():
    pipe = sd3()
    before = [getattr(owner, name) for _, owner, name in places()]
    found = measured(
        pipe,
        lambda: draw(
            pipe, PROMPTS[:2], [0, 1], {"num_inference_steps": 2, "height": 16, "width": 16}
        ),
    )
    assert sum(found["phases"].values()) == pytest.approx(found["cpu"])
    assert {"text", "denoiser", "VAE"} <= set(found["phases"])
    assert before == [getattr(owner, name) for _, owner, name in places()]
    assert "forward" not in vars(pipe.transformer)
    assert "encode_prompt" not in vars(pipe)


def test_the_plain_figure_for_more_packages_counts_the_solves_once():
    once = {
        "cpu": 100.0,
        "phases": {"denoiser": 60.0, "VAE": 10.0, "Hessian": 16.0, "factor": 6.0, "sweep": 8.0},
    }
    assert plain_seconds(once, 4) == pytest.approx(100.0)
    assert plain_seconds(once, 12) == pytest.approx(30.0 + 3 * 70.0)


def test_a_run_is_compared_with_the_inference_of_its_own_round():
    one = {"phases": {"denoiser": 1.0}}
    found = {
        "inference": [one | {"cpu": c} for c in (10.0, 20.0, 10.0)],
        "whole/default": [one | {"cpu": c} for c in (30.0, 40.0, 10.0)],
    }
    (row,) = rows_of(found | {"plain": [{"cpu": 62.0, "phases": {}}]})
    assert row["runs"] == [3.0, 2.0, 1.0]
    assert (row["value"], row["plain"]) == (2.0, pytest.approx(6.2))


def test_rows_are_merged_by_name_in_the_order_of_the_table(tmp_path):
    def row(name: str, value: float) -> dict:
        return {
            "name": name,
            "value": value,
            "target": ROWS[name].target,
            "plain": 1.0,
            "runs": [value],
        }

    keep_rows([row("memory/solve", 3.0), row("hessian/1536", 2.0)], tmp_path)
    rows = keep_rows([row("hessian/1536", 5.0)], tmp_path)
    assert [(r["name"], r["value"]) for r in rows] == [("hessian/1536", 5.0), ("memory/solve", 3.0)]
    assert met("hessian/1536", 5.0)
    assert not met("memory/solve", 3.0)
