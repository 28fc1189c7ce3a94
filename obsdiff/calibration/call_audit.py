"""The audit of a calibration: how often the denoiser and each tapped layer were called."""

from collections import Counter
from dataclasses import dataclass, field

from ..errors import CalibrationError


@dataclass
class CallAudit:
    """Counts of calls.

    Attributes:
        denoiser: calls of the denoiser.
        per_step: the same by step.
        others: calls of the pipeline's other denoisers, by step.
        layers: calls of each tapped layer.
        present: denoiser calls in which each tapped layer was called.
        last: the denoiser call in which each tapped layer was called last.
        steps: steps of all pictures in which the denoiser was called, batch by batch.
        at: batch and step of the last denoiser call.
        within: the number of that call within its batch and step, from 0.
        ran: of these steps the number in which each tapped layer was called.
        ran_last: the last of these steps in which each tapped layer was called.
    """

    denoiser: int = 0
    per_step: Counter = field(default_factory=Counter)
    others: Counter = field(default_factory=Counter)
    layers: Counter = field(default_factory=Counter)
    present: Counter = field(default_factory=Counter)
    last: dict[str, int] = field(default_factory=dict)
    steps: int = 0
    at: tuple[int, int] | None = None
    within: int = 0
    ran: Counter = field(default_factory=Counter)
    ran_last: dict[str, int] = field(default_factory=dict)

    def begin(self, batch: int, step: int) -> None:
        """Count a call of the denoiser.

        Args:
            batch: the number of its batch.
            step: its step.
        """
        self.denoiser += 1
        self.per_step[step] += 1
        self.within += 1
        if self.at != (batch, step):
            self.at, self.within = (batch, step), 0
            self.steps += 1

    def count(self, layer: str) -> None:
        """Count a call of a tapped layer."""
        self.layers[layer] += 1
        if self.last.get(layer) != self.denoiser:
            self.last[layer] = self.denoiser
            self.present[layer] += 1
        if self.ran_last.get(layer) != self.steps:
            self.ran_last[layer] = self.steps
            self.ran[layer] += 1

    def check(self, expected: list[str], steps: int, ranks: int = 1) -> None:
        """Check that the calls are those of a complete calibration.

        Every layer was called in every step in which the denoiser was, equally often in each call
        that it took part in: guidance may leave layers out of a part of the calls, and call the
        denoiser more often in a part of the steps. Every step has a call of a denoiser. An expert
        receives the tokens routed to it: one process may never call it, all together must.

        Raises:
            CalibrationError: a count differs, with the names of the layers.
        """
        if not self.denoiser and self.others:
            raise CalibrationError(
                f"the denoiser ran in none of the {steps} steps, others did: "
                "use more steps, or prune another component"
            )
        idle = [
            name for name in expected if is_expert(name) and not self.layers[name] and ranks == 1
        ]
        if idle:
            raise CalibrationError(
                f"{len(idle)} experts received no token: {', '.join(idle[:8])}; use more prompts "
                "or steps, or leave them dense with --exclude '*.experts.*'"
            )
        always = [name for name in expected if not is_expert(name)]
        missed = [
            f"{name} ({self.layers[name]})"
            for name in always
            if self.ran[name] != self.steps or self.layers[name] % max(self.present[name], 1)
        ]
        if missed or not self.denoiser:
            raise CalibrationError(
                f"of {self.denoiser} denoiser calls these layers received fewer or more: "
                f"{', '.join(missed[:8]) or 'all'}; "
                "for layers that this model skips on purpose, pass --exclude"
            )
        idle_steps = [s + 1 for s in range(steps) if not self.per_step[s] and not self.others[s]]
        if idle_steps:
            raise CalibrationError(
                f"of {steps} steps no denoiser ran in step {idle_steps[0]} and "
                f"{len(idle_steps) - 1} others: the pipeline leaves steps out"
            )


def is_expert(layer: str) -> bool:
    """Return whether a layer belongs to one of several experts, which share the tokens."""
    return ".experts." in f".{layer}"
