"""Percentile bootstrap over prompts; needs numpy only, because the report imports no torch.

N prompts; R = 2000 resamples of N prompts, drawn with replacement; s a statistic of a resample.
The ends of the 95 % interval are the 2.5 % and the 97.5 % quantile of s over the R resamples.

References:
    Efron, Tibshirani. An Introduction to the Bootstrap. 1993: chapter 13 (percentile intervals).
"""

from collections.abc import Callable

import numpy as np

RESAMPLES = 2000


def bootstrap_interval(
    statistic: Callable[[np.ndarray], np.ndarray], n: int, seed: int = 0
) -> tuple[float, float]:
    """Return the 95 % percentile interval of a statistic over n prompts.

    Args:
        statistic: maps the prompt indices of all resamples (R, N) to its R values (R,).
        n: number of prompts N.
        seed: of the resampling.

    Returns:
        The lower and the upper end of the interval.
    """
    picks = np.random.default_rng(seed).integers(n, size=(RESAMPLES, n))
    low, high = np.quantile(statistic(picks), [0.025, 0.975])
    return low, high
