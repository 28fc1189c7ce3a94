"""The bootstrap's interval against resampling one prompt at a time."""

import numpy as np
import pytest

from obsdiff.evaluation.bootstrap import RESAMPLES, bootstrap_interval


def test_the_interval_is_that_of_the_resampled_means():
    values = np.random.default_rng(3).normal(size=7)
    picks = np.random.default_rng(5).integers(7, size=(RESAMPLES, 7))
    means = sorted(sum(values[i] for i in row) / 7 for row in picks)
    low, high = bootstrap_interval(lambda rows: values[rows].mean(1), 7, seed=5)
    below = sum(mean < low for mean in means) / RESAMPLES
    above = sum(mean > high for mean in means) / RESAMPLES
    assert below == pytest.approx(0.025, abs=1 / RESAMPLES)
    assert above == pytest.approx(0.025, abs=1 / RESAMPLES)


def test_one_prompt_has_an_interval_without_width():
    assert bootstrap_interval(lambda rows: np.array([2.0])[rows].mean(1), 1) == (2.0, 2.0)
