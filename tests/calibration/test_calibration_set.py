"""Calls of a calibration set: batches, processes and held-out prompts."""

from dataclasses import replace

import pytest

from obsdiff.calibration.calibration_set import DEFAULT_WEIGHTS, CalibrationSet
from obsdiff.calibration.step_weights import StepWeights, step_weight

TEXTS = CalibrationSet(list("abcdefg"), list(range(7)), {}, batch_size=2)


def test_batches_cover_all_prompts_in_order():
    found = list(TEXTS.batches())
    assert found == [
        (["a", "b"], [0, 1]),
        (["c", "d"], [2, 3]),
        (["e", "f"], [4, 5]),
        (["g"], [6]),
    ]
    assert TEXTS.here == 7


@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_processes_share_the_batches(ranks):
    parts = [replace(TEXTS, rank=rank, ranks=ranks) for rank in range(ranks)]
    batches = [batch for part in parts for batch in part.batches()]
    assert sorted(batches) == list(TEXTS.batches())
    assert sum(part.here for part in parts) == 7


def test_a_dict_of_arguments_is_a_call_of_its_own():
    dicts = replace(TEXTS, prompts=[{"prompt": text} for text in TEXTS.prompts])
    assert [seeds for _, seeds in dicts.batches()] == [[seed] for seed in range(7)]
    assert dicts.here == 7


def test_held_out_prompts_come_last():
    apart = replace(TEXTS, prompts=["x", "y", "z"], seeds=[7, 8, 9])
    both = replace(TEXTS, held_out=apart)
    assert TEXTS.parts == [TEXTS]
    assert both.parts == [both, apart]
    assert both.drawn == ([*"abcdefg", *"xyz"], list(range(10)))
    assert TEXTS.drawn == (list("abcdefg"), list(range(7)))
    assert both.here == 10
    assert [replace(both, rank=r, ranks=2, held_out=None).here for r in range(2)] == [4, 3]


@pytest.mark.parametrize("kind", ["log_decrease", "linear_increase", "uniform"])
def test_step_weights_are_those_of_their_schedule(kind):
    weights = StepWeights(kind, 0.5, 2.0)
    for steps in (1, 4):
        for step in range(steps):
            assert weights.at(step, steps) == step_weight(kind, step, steps, 0.5, 2.0)
    assert TEXTS.step_weights == DEFAULT_WEIGHTS == StepWeights("log_decrease", 0.8, 1.2)
