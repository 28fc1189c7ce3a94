"""Trials of an allocation: layers or groups, each measured alone and stored as soon as it is.

A resumed run measures only the missing ones. With several processes each measures its share, one
trial a round; after each round process 0 stores the results.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ..calibration.context import CalibrationContext
from ..config import PruningConfig
from ..layerwise.journal import NullJournal
from ..layerwise.run_phases import DRAWN_FIRST


@dataclass(frozen=True)
class Trial:
    """One layer or group that is measured alone.

    Attributes:
        name: its name, which no other trial has.
        owner: the process that measures it.
        measure: returns the figures as JSON; reads the dense latents, if they were drawn.
    """

    name: str
    owner: int
    measure: Callable[[Tensor | None], dict[str, Any]]


def all_measured(
    context: CalibrationContext,
    journal: NullJournal,
    trials: list[Trial],
    draw: Callable[[CalibrationContext, PruningConfig], Tensor | None],
    config: PruningConfig,
) -> dict[str, dict[str, Any]]:
    """Return the figures of all trials, by name, in every process.

    Args:
        context: the calibration context.
        journal: stores the figures of each trial.
        trials: the trials, in the same order in every process and every run.
        draw: draws the dense latents; it is called if a trial is missing.
        config: the settings.
    """
    ranks = context.ranks
    found = ranks.from_rank_zero(lambda: recalled(journal, trials))
    missing = [trial for trial in trials if trial.name not in found]
    if not missing:
        return found
    numbers = {trial.name: i for i, trial in enumerate(trials)}
    base = draw(context, config)
    done = len(found) // ranks.size + (DRAWN_FIRST if base is not None else 0)
    shares = [[trial for trial in missing if trial.owner == rank] for rank in range(ranks.size)]
    for i in range(max(map(len, shares))):
        context.on_trial(done + i)
        own = {trial.name: trial.measure(base) for trial in shares[ranks.rank][i : i + 1]}
        measured = ranks.gather_dicts(own)
        if ranks.rank == 0:
            for name, figures in measured.items():
                journal.note_trial(numbers[name], name, figures)
        found |= measured
    return found


def recalled(journal: NullJournal, trials: list[Trial]) -> dict[str, dict[str, Any]]:
    """Return the figures of the trials that a journal has stored, by name."""
    stored = {trial.name: journal.recall_trial(i, trial.name) for i, trial in enumerate(trials)}
    return {name: figures for name, figures in stored.items() if figures is not None}
