"""One published algorithm a file: tensors in, tensors out. A solver never sees a module, a config or diffusers.

To add a method: one file, one line in SOLVERS, one line in METHODS of config/settings.py, one line in the tests' list.
"""

from collections.abc import Callable

from .alps import alps
from .dsnot import dsnot
from .l1 import l1
from .magnitude import magnitude
from .obs import obs
from .problem import Inputs, Solution, Target
from .random import random
from .wanda import wanda

SOLVERS: dict[str, Callable[..., list[Solution]]] = {
    "obs": obs,
    "alps": alps,
    "magnitude": magnitude,
    "wanda": wanda,
    "dsnot": dsnot,
}
BASELINES: dict[str, Callable[..., tuple[list[int], list[float]]]] = {
    "l1": l1,
    "random": random,
}  # structured; obs is in solvers/obs_structured.py
__all__ = ["BASELINES", "SOLVERS", "Inputs", "Solution", "Target"]
