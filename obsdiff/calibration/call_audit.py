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
    """

    denoiser: int = 0
    per_step: Counter = field(default_factory=Counter)
    others: Counter = field(default_factory=Counter)
    layers: Counter = field(default_factory=Counter)
    present: Counter = field(default_factory=Counter)
    last: dict[str, int] = field(default_factory=dict)

    def count(self, layer: str) -> None:
        """Count a call of a tapped layer."""
        self.layers[layer] += 1
        if self.last.get(layer) != self.denoiser:
            self.last[layer] = self.denoiser
            self.present[layer] += 1

    def check(self, expected: list[str], steps: int, ranks: int = 1) -> None:
        """Check that the calls are those of a complete calibration.

        Every layer was called in every denoiser call, equally often in each, and every step has
        the same number of denoiser calls, except steps in which only another denoiser ran. An
        expert receives the tokens routed to it: one process may never call it, all together must.

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
            if self.present[name] != self.denoiser or self.layers[name] % max(self.denoiser, 1)
        ]
        if missed or not self.denoiser:
            raise CalibrationError(
                f"of {self.denoiser} denoiser calls these layers received fewer or more: "
                f"{', '.join(missed[:8]) or 'all'}; "
                "for layers that this model skips on purpose, pass --exclude"
            )
        counts = [self.per_step[s] for s in range(steps) if self.per_step[s] or not self.others[s]]
        if len(set(counts)) > 1:
            raise CalibrationError(f"the number of denoiser calls differs between steps: {counts}")


def is_expert(layer: str) -> bool:
    """Return whether a layer belongs to one of several experts, which share the tokens."""
    return ".experts." in f".{layer}"
