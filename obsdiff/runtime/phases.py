"""The phases of a run, in numbers: what is done, what is left, and how long that takes.

The time that is left is estimated from what was measured: a phase with n of N units done in s
seconds needs (N - n) s / n more. Before its first unit its rate is that of another phase, times a
factor, if it has such a model. Otherwise its cost is not known, and that is said. The share of the
whole run never falls, and is below 100 % until the run is finished.
"""

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

MOST_PERCENT = 99.0  # before the end
UNKNOWN_SHARE = 0.5  # a phase of unknown cost counts as this share of all that is known
ROUNDING = 1e-9  # of a sum of units
OVERRUN = 0.05  # of its expected time is left, at least, of a phase that takes longer


@dataclass
class Phase:
    """A part of a run.

    Attributes:
        name: its name, for people.
        unit: what its units are, in the plural; "" for a bare share.
        model: a phase of similar work, and how many of its units one of this one costs.
        total: units of all its turns; None if not known.
        planned: units of the turns that were planned.
        turns: turns that were planned.
        done: units done.
        seconds: time spent in it.
        at_done: the seconds when the last unit was done.
        unmeasured: the seconds that say nothing about a unit.
        entered: whether it ran since it was planned last.
        ended: whether nothing is left of a phase without units.
    """

    name: str
    unit: str = ""
    model: tuple[str, float] | None = None
    total: float | None = None
    planned: float = 0.0
    turns: int = 0
    done: float = 0.0
    seconds: float = 0.0
    at_done: float = 0.0
    unmeasured: float = 0.0
    entered: bool = False
    ended: bool = False

    @property
    def finished(self) -> bool:
        """Whether nothing is left of all its turns."""
        return self.ended or (self.total is not None and self.done >= self.total * (1 - ROUNDING))

    @property
    def rate(self) -> float | None:
        """Seconds per unit; None before the first unit."""
        measured = self.at_done - self.unmeasured
        return measured / self.done if self.done > 0 and measured > 0 else None

    @property
    def share(self) -> float | None:
        """The share of its units that are done, 0 to 1; None if their number is not known."""
        if self.finished:
            return 1.0
        return min(1.0, self.done / self.total) if self.total else None


class Phases:
    """The phases of a run.

    Args:
        clock: returns seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.clock = clock
        self.all: dict[str, Phase] = {}
        self.hidden: dict[str, Phase] = {}  # that ran without a plan
        self.active: list[Phase] = []  # the innermost last
        self.repeats = 1
        self.began = self.changed = clock()
        self.highest = 0.0
        self.batch = (0, 0, 1)  # prompts of the present batch, its last step, number of steps
        self.started = self.ended = False
        self.on_first: Callable[[], object] = lambda: None  # called when the first phase begins

    # the plan

    def expect(self, *names: str) -> None:
        """Name phases that will run, in their order; nothing else is known of them."""
        for name in names:
            self.all.setdefault(name, Phase(name))

    def plan(
        self,
        name: str,
        units: float | None = None,
        *,
        unit: str = "",
        model: tuple[str, float] | None = None,
        again: float | None = None,
        repeats: int | None = None,
    ) -> None:
        """Plan one turn of a phase.

        Args:
            name: of the phase.
            units: its units in this turn; None if not known.
            unit: what they are, in the plural.
            model: a phase of similar work, and how many of its units one of this one costs.
            again: its units in each turn that is not planned yet (None: as many).
            repeats: number of all its turns (None: one for each pruning of the run).
        """
        phase = self.all.setdefault(name, Phase(name))
        phase.unit, phase.model, phase.entered, phase.ended = unit, model, False, False
        phase.turns += 1
        if units is not None:
            phase.planned += units
            later = max(0, (self.repeats if repeats is None else repeats) - phase.turns)
            phase.total = phase.planned + later * (units if again is None else again)

    def replan(self, name: str, units: float, unit: str) -> None:
        """Plan a phase of one turn, whatever was planned of it before."""
        old = self.all.get(name)
        self.all[name] = Phase(name, unit, old.model if old else None, units, units, 1)

    def strike(self, name: str, units: float) -> None:
        """Take units that will not run out of a phase's plan."""
        if (phase := self.all.get(name)) and phase.total is not None:
            phase.total -= units
            phase.planned -= units

    def drop_unplanned(self, *names: str) -> None:
        """Forget those of some expected phases that nobody has planned: they will not run."""
        for name in names:
            if name in self.all and not self.all[name].turns:
                del self.all[name]

    # what happens

    @contextlib.contextmanager
    def within(self, name: str, measured: bool = True) -> Iterator[None]:
        """Count the time of the block for a phase, and not for one around it.

        Args:
            name: of the phase.
            measured: whether the time says something about the phase's units.
        """
        self.spend()
        phase = self.all.get(name) or self.hidden.setdefault(name, Phase(name))
        phase.entered = True
        self.batch = (0, 0, 1)
        self.active.append(phase)
        try:
            if not self.started:
                self.started = True
                self.on_first()
            yield
            self.end_batch(phase)
        finally:
            self.spend()
            self.active.remove(phase)
            if not measured:
                phase.unmeasured = phase.at_done = phase.seconds

    def advance(self, name: str, units: float = 1.0) -> None:
        """Count units of a phase as done."""
        if phase := self.all.get(name):
            self.reach(name, phase.done + units)

    def reach(self, name: str, done: float) -> None:
        """Count all units of a phase up to a number as done."""
        if (phase := self.all.get(name)) and done > phase.done:
            self.spend()
            phase.done = done if phase.total is None else min(done, phase.total)
            phase.at_done = phase.seconds

    def complete(self, name: str) -> None:
        """Count the planned turns of a phase as done; units that did not run are struck out."""
        phase = self.all.get(name)
        if phase is None:
            return
        self.spend()
        if phase.entered:
            self.reach(name, phase.planned)
        else:
            self.strike(name, phase.planned - phase.done)
        phase.ended = phase.total is None

    def drawn(self, prompts: int, step: int, steps: int) -> None:
        """Note a denoiser call in the present phase, whose units are prompts.

        Args:
            prompts: number of prompts in the batch.
            step: number of its completed steps.
            steps: number of all its steps.
        """
        if not self.active:
            return
        phase = self.active[-1]
        if step < self.batch[1] or steps == 1:
            self.end_batch(phase)
        before, last, _ = self.batch
        self.batch = (prompts, step, steps)
        self.reach(phase.name, phase.done + (prompts * step - before * last) / steps)

    def end_batch(self, phase: Phase) -> None:
        """Count the rest of the present batch, whose last step is done, in a phase."""
        prompts, step, steps = self.batch
        self.batch = (0, 0, 1)
        self.reach(phase.name, phase.done + prompts * (steps - step) / steps)

    def finish(self) -> None:
        """End the run: all is done."""
        self.spend()
        self.ended = True

    def spend(self) -> None:
        """Give the time since the last change to the innermost phase."""
        now = self.clock()
        if self.active:
            self.active[-1].seconds += now - self.changed
        self.changed = now

    # what is left

    def seconds_of(self, phase: Phase) -> float:
        """Return the time spent in a phase until now."""
        running = bool(self.active) and self.active[-1] is phase
        return phase.seconds + (self.clock() - self.changed if running else 0.0)

    def left_of(self, phase: Phase) -> float | None:
        """Return the seconds that a phase still needs; None if its cost is not known."""
        if phase.finished:
            return 0.0
        if phase.total is None:
            return None
        rate, since = phase.rate, self.seconds_of(phase) - phase.at_done
        if rate is None:
            model = self.all.get(phase.model[0]) if phase.model else None
            if phase.model is None or model is None or model.rate is None:
                return None
            rate = model.rate * phase.model[1]
        expected = (phase.total - phase.done) * rate
        return max(expected - since, OVERRUN * expected)

    @property
    def left(self) -> float:
        """The seconds that all phases of known cost still need."""
        return sum(self.left_of(phase) or 0.0 for phase in list(self.all.values()))

    @property
    def unknown(self) -> list[str]:
        """The names of the phases whose cost is not known."""
        return [p.name for p in list(self.all.values()) if self.left_of(p) is None]

    @property
    def foreseeable(self) -> bool:
        """Whether the cost of at least half of the phases that are left is known."""
        left = [phase for phase in list(self.all.values()) if not phase.finished]
        return 2 * len(self.unknown) <= len(left) and self.left > 0

    @property
    def elapsed(self) -> float:
        """Seconds since the run began."""
        return self.clock() - self.began

    @property
    def percent(self) -> float:
        """The share of the run that is done; 0 while nothing is known, 100 at the end alone."""
        if self.ended:
            return 100.0
        if self.foreseeable:
            known = self.elapsed + self.left
            reserve = len(self.unknown) * UNKNOWN_SHARE * known
            self.highest = max(self.highest, 100 * self.elapsed / (known + reserve))
        return min(self.highest, MOST_PERCENT)
