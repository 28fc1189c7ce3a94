"""The last step of a calibration ends as soon as every tapped layer has its input: nobody looks at its picture.

The pipeline goes on undisturbed: from the denoiser it gets, instead of an answer, the one before.
"""

import contextlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

from torch import nn

from .chain import Stop
from .running import Run, hooked, replaced


class LastStep:
    """Counts the layers' calls in a denoiser call, and stops one of the last step when as many have been made as in the one before."""

    def __init__(self, run: Run):
        self.run, self.calls, self.missing, self.output = run, Counter(), None, None

    def forward(self, denoiser: Callable, *args: Any, **kwargs: Any) -> Any:
        if 0 < self.run.step == self.run.steps - 1:
            self.missing = self.calls.copy()
        else:
            self.calls, self.missing = Counter(), None
        with contextlib.suppress(Stop):
            self.output = denoiser(*args, **kwargs)
        return self.output

    def note(self, layer: str, *_: Any) -> None:
        if self.missing is None:
            self.calls[layer] += 1
            return
        self.missing[layer] -= 1
        if max(self.missing.values()) <= 0:
            raise Stop


@contextlib.contextmanager
def cut_short(run: Run, denoiser: nn.Module, layers: Sequence[str]) -> Iterator[None]:
    """While open, denoiser calls of the last step end with the last input of these layers, each of which every call must call equally
    often. Open it after what reads the inputs: hooks run in their order."""
    last = LastStep(run)
    hooks = (denoiser.get_submodule(layer).register_forward_pre_hook(partial(last.note, layer)) for layer in layers)
    with hooked(hooks), replaced(denoiser, "forward", partial(last.forward, denoiser.forward)):
        yield
