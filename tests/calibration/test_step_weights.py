import pytest

from obsdiff.calibration.step_weights import step_weight
from obsdiff.config.choices import STEP_WEIGHTINGS


def weights(kind: str, steps: int = 25) -> list[float]:
    return [step_weight(kind, t, steps, 0.8, 1.2) for t in range(steps)]


def test_log_decrease_has_the_papers_values():
    w = weights("log_decrease")
    assert [round(w[t], 3) for t in (0, 1, 2, 12, 23, 24)] == [
        1.200,
        1.195,
        1.190,
        1.119,
        0.886,
        0.800,
    ]


def test_the_increasing_schedules_are_the_decreasing_ones_backwards():
    assert weights("log_increase") == weights("log_decrease")[::-1]
    assert weights("linear_increase") == pytest.approx(weights("linear_decrease")[::-1])


def test_uniform_and_linear():
    assert set(weights("uniform")) == {1.0}
    assert weights("linear_decrease", 3) == pytest.approx([1.2, 1.0, 0.8])


@pytest.mark.parametrize("kind", STEP_WEIGHTINGS)
def test_one_step_gets_the_mean_and_every_weight_lies_between_the_ends(kind):
    assert weights(kind, 1) == [1.0]
    assert all(0.8 <= w <= 1.2 for w in weights(kind))
