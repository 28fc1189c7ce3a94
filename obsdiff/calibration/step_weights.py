"""The weight alpha_t of each denoising step t = 1..T in the Hessian; t = 1 is the noisiest step.

    log_decrease   alpha_t = a_min + (a_max - a_min) ln(T - t + 1) / ln T   (OBS-Diff)

so alpha_1 = a_max and alpha_T = a_min. log_increase is the same curve reversed in t; the linear
schedules interpolate linearly; uniform is the mean of both ends at every step, so that all five
have the same scale. With one step (T = 1) every schedule is that mean.

References:
    Zhu et al., "OBS-Diff: Accurate Pruning for Diffusion Models in One-Shot", 2025.
        https://arxiv.org/abs/2510.06751
"""

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class StepWeights:
    """A schedule of step weights.

    Attributes:
        kind: log_decrease, log_increase, linear_decrease, linear_increase or uniform.
        low: a_min, the least weight.
        high: a_max, the greatest weight.
    """

    kind: str = "log_decrease"
    low: float = 0.8
    high: float = 1.2

    def at(self, step: int, steps: int) -> float:
        """Return the weight of the step with index `step` (0-based) of `steps`."""
        return step_weight(self.kind, step, steps, self.low, self.high)


def step_weight(kind: str, step: int, steps: int, low: float, high: float) -> float:
    """Return the weight of a step, between low (a_min) and high (a_max).

    Args:
        kind: the schedule.
        step: the index of the step (0-based).
        steps: T.
        low: a_min.
        high: a_max.
    """
    if steps == 1 or kind == "uniform":
        return (low + high) / 2
    if kind.startswith("log"):
        position = step if kind == "log_increase" else steps - 1 - step
        return low + (high - low) * math.log(position + 1) / math.log(steps)
    fraction = step / (steps - 1)
    return low + (high - low) * (fraction if kind == "linear_increase" else 1 - fraction)
