"""Allocations that are killed: what was measured is not measured again, and the result is the
same."""

import json
from types import SimpleNamespace

import pytest

from obsdiff import PruningConfig, prune_
from obsdiff.allocation import group_curves, layer_sensitivity
from obsdiff.allocation.trials import Trial, all_measured
from obsdiff.layerwise.journal import TRIALS, Journal, NullJournal
from obsdiff.runtime.distributed import Ranks

from ..conftest import PROMPTS, sd3

QUICK = {
    "num_inference_steps": 2,
    "height": 16,
    "width": 16,
    "num_prompts": 2,
    "allocation_prompts": 1,
}
FEW = {"blocks": "0", "include": ("*.attn.to_out.0", "*.ff.net.2", "*.ff_context.net.2")}
HALF = {"pattern": "structured", "sparsity": 0.5, "round_to": 1, "keep_first_last": False}
RUNS = {
    "drawn": {"allocation": "drawn"} | FEW,
    "obs": {"allocation": "obs"} | FEW,
    "alpha": {"allocation": "alpha"} | FEW,
    "groups": {"allocation": "drawn", "blocks": "1-2"} | HALF,
    "budget": {"allocation": "obs", "target_parameters": 0.8}
    | {name: value for name, value in HALF.items() if name != "sparsity"},
}


class Killed(Exception):
    """Stands for the end of a process."""


def counted(patched, limit: float = float("inf")) -> list[str]:
    """Record what is measured, and die before the trial after so many."""
    done: list[str] = []

    def counting(real):
        def measure(context, thing, *rest):
            if len(done) == limit:
                raise Killed
            done.append(getattr(thing, "name", None) or thing.layers[0])
            return real(context, thing, *rest)

        return measure

    for module, name in ((layer_sensitivity, "measured_sensitivity"), (group_curves, "curve_of")):
        patched.setattr(module, name, counting(getattr(module, name)))
    return done


def outcome(report):
    rows = [(row.name, row.sparsity, row.loss, row.error) for row in report.layers]
    return rows, report.groups, report.sensitivity


@pytest.mark.parametrize(
    "run",
    [run if run in ("obs", "alpha") else pytest.param(run, marks=pytest.mark.slow) for run in RUNS],
)
def test_only_the_missing_ones_are_measured_and_the_result_is_the_same(tmp_path, monkeypatch, run):
    config = PruningConfig(**QUICK | RUNS[run])
    with monkeypatch.context() as patched:
        every = counted(patched)
        expected = prune_(sd3(), PROMPTS, config)
    assert len(every) > 2
    with monkeypatch.context() as patched:
        first = counted(patched, 2)
        with pytest.raises(Killed):
            prune_(sd3(), PROMPTS, config, journal=tmp_path)
    with monkeypatch.context() as patched:
        rest = counted(patched)
        found = prune_(sd3(), PROMPTS, config, journal=tmp_path)
    assert (first, first + rest) == (every[:2], every)
    assert outcome(found) == outcome(expected)


def context_of(ranks) -> SimpleNamespace:
    return SimpleNamespace(ranks=ranks, on_trial=lambda done: None)


def trials_of(names: str, calls: list[str], owners: int = 1) -> list[Trial]:
    """Trials with one figure, which note that they were called."""

    def measure(name: str):
        return lambda base: calls.append(name) or {"figure": 0.1 * len(name), "name": name}

    return [Trial(name, i % owners, measure(name)) for i, name in enumerate(names)]


def run_all(journal, names: str, calls: list[str], drawn: list[int], ranks=None, owners: int = 1):
    return all_measured(
        context_of(ranks or Ranks()),
        journal,
        trials_of(names, calls, owners),
        lambda context, config: drawn.append(1),
        PruningConfig(),
    )


def test_nothing_is_drawn_if_nothing_is_missing(tmp_path):
    calls, drawn = [], []
    found = run_all(Journal(tmp_path, {}), "abc", calls, drawn)
    assert run_all(Journal(tmp_path, {}), "abc", calls, drawn) == found
    assert (calls, len(drawn)) == (["a", "b", "c"], 1)
    assert run_all(NullJournal(), "abc", calls, drawn) == found
    assert len(calls) == 6


def test_a_changed_figure_is_measured_again_and_so_is_one_of_another_name_or_budget(tmp_path):
    calls, drawn = [], []
    run_all(Journal(tmp_path, {}), "abc", calls, drawn)
    file = tmp_path / TRIALS / "000001.json"
    stored = json.loads(file.read_text())
    stored["value"]["figures"]["figure"] = 0.9
    file.write_text(json.dumps(stored))
    calls.clear()
    run_all(Journal(tmp_path, {}), "abc", calls, drawn)
    assert calls == ["b"]
    run_all(Journal(tmp_path, {}), "acb", calls, drawn)
    assert calls == ["b", "c", "b"]
    journal = Journal(tmp_path, {})
    journal.note("budget", {"sparsity": 0.3})
    calls.clear()
    run_all(journal, "acb", calls, drawn)
    assert calls == ["a", "c", "b"]


class TwoRanks(Ranks):
    """The first of two processes; the other one has measured the trials b, d in turn."""

    def from_rank_zero(self, find):
        return find()

    def gather_dicts(self, mine):
        other = {"a": "b", "c": "d"}[next(iter(mine))]
        return mine | {other: {"figure": 0.1, "name": other}}


def test_process_0_stores_the_figures_of_all_after_each_round(tmp_path):
    calls, drawn = [], []
    found = run_all(Journal(tmp_path, {}), "abcd", calls, drawn, TwoRanks(0, 2), owners=2)
    assert calls == ["a", "c"]
    assert sorted(found) == ["a", "b", "c", "d"]
    assert len(list((tmp_path / TRIALS).iterdir())) == 4
