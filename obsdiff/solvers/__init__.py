"""One published algorithm a file: tensors in, tensors out. A solver never sees a module, a config or diffusers.

To add a method: one file, one line in SOLVERS, one line in METHODS of config.py, one line in the tests' list.
"""

from collections.abc import Callable

from .magnitude import magnitude
from .obs import obs
from .solution import Solution, Sparsity

SOLVERS: dict[str, Callable[..., list[Solution]]] = {"obs": obs, "magnitude": magnitude}

__all__ = ["SOLVERS", "Solution", "Sparsity"]
