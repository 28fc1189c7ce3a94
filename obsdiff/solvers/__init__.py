"""The pruning algorithms, one file each: tensors in, tensors out.

A solver depends on no module, no config and no diffusers. Methods for single weights are in
SOLVERS; structured baselines, which repair nothing, are in BASELINES. The structured method of
OBS-Diff is in obs_structured.py. lstsq.py, swaps.py and trial_swaps.py improve a solution.

To add a method: one file, one line in SOLVERS, one line in METHODS of config/choices.py.
"""

from collections.abc import Callable
from typing import Protocol

from torch import Tensor

from .alps import alps
from .dsnot import dsnot
from .l1 import l1
from .magnitude import magnitude
from .obs import obs
from .problem import Inputs, Solution, Target
from .random import random
from .wanda import wanda

Solver = Callable[[list[Tensor], Inputs, Target], list[Solution]]


class Baseline(Protocol):
    """A structured baseline: chooses `count` of N heads or neurons and changes no weight."""

    def __call__(
        self, reads: list[Tensor], writes: list[Tensor], count: int, seed: int = 0
    ) -> tuple[list[int], list[float]]:
        """Return the removed indices, first removed first, and all N scores.

        Args:
            reads: for each consumer, the columns of every head or neuron (N, ...).
            writes: for each producer, the rows of every head or neuron (N, ...).
            count: heads or neurons to remove, 0 to N.
            seed: seed of a random choice.
        """


SOLVERS: dict[str, Solver] = {
    "obs": obs,
    "alps": alps,
    "magnitude": magnitude,
    "wanda": wanda,
    "dsnot": dsnot,
}
BASELINES: dict[str, Baseline] = {"l1": l1, "random": random}
__all__ = ["BASELINES", "SOLVERS", "Inputs", "Solution", "Target"]
