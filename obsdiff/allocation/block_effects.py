"""Which blocks leave: by the measured change of the final latents without them.

An effect is the relative latent error of the model without some blocks, against the dense one, on
`allocation_prompts` calibration prompts with their own seeds: whole drawings, no model of them.

    1. every candidate alone                                                  B drawings
    2. the one with the least effect leaves; then, again and again, of those with the least added
       effect so far, and of the neighbours of those that left, each is measured together with all
       that left, and the best one leaves                                     at most 6 a block
    3. the runs of as many blocks in a row with the least sum of effects are measured whole; one
       that is better than the blocks of step 2 leaves instead of them        2 drawings

of each prompt. With a target of parameters or operations an effect counts for what its block saves,
and blocks leave until the target is met. Measuring every block again after each removal would cost
B drawings a block and is quadratic in the end; added effects change little for most blocks, so a
shortlist is enough, and the cost stays linear. Neighbours are measured because the change that a
block leaves behind is what the next block reads: runs often cost less than the same number of
blocks apart (PPCL, ReplaceMe).

The repair is not part of the measurement: it would be solved once for every trial.

References:
    Ma et al., "Pluggable Pruning with Contiguous Layer Distillation for Diffusion Transformers",
        2025. https://arxiv.org/abs/2511.16156
    Shopkhoev et al., "ReplaceMe: Network Simplification via Depth Pruning and Transformer Block
        Linearization", 2025. https://arxiv.org/abs/2505.02819
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from ..calibration.context import CalibrationContext
from ..calibration.depth_selection import DepthSelection
from ..config import PruningConfig
from ..errors import CalibrationError
from ..evaluation.metrics import relative_latent_error
from ..layerwise.journal import NullJournal
from ..layerwise.run_phases import DRAWN_FIRST
from ..models.depth import without_blocks
from .layer_sensitivity import drawn_twice, latents
from .trials import Trial, all_measured

SHORTLIST = 4  # candidates that are measured again after each removal, besides neighbours
RUNS = 2  # runs in a row that are measured whole
NEIGHBOURS = 2  # neighbours of removed blocks that are measured in a round
Effects = dict[tuple[str, ...], float]  # blocks that are out -> effect; infinite if not finite


@dataclass
class BlockEffects:
    """Measures the model without some blocks; every measurement is stored in the journal.

    Attributes:
        context: the model, and how it draws.
        selection: the blocks that may leave.
        journal: stores the measurements; a resumed run reads them.
        config: the settings.
        known: what has been measured.
        dense: the latents of the dense model, once they are drawn.
    """

    context: CalibrationContext
    selection: DepthSelection
    journal: NullJournal
    config: PruningConfig
    known: Effects
    dense: Tensor | None = None

    def measure(self, name: str, sets: Sequence[tuple[str, ...]]) -> Effects:
        """Return the effect of each set of blocks; one round of trials.

        Args:
            name: the round's name in the journal.
            sets: the blocks that are out, in forward order.
        """
        offset = DRAWN_FIRST * (self.dense is not None)
        done = len(self.known)
        context = replace(self.context, on_trial=lambda i: self.context.on_trial(done + offset + i))

        def trial(i: int, out: tuple[str, ...]) -> Trial:
            owner = i % context.ranks.size
            return Trial(" ".join(out), owner, lambda base: self.figures(out, base))

        trials = [trial(i, out) for i, out in enumerate(sets)]

        def find() -> dict[str, Any]:
            return all_measured(context, self.journal, trials, self.draw, self.config)

        rows = self.journal.once(name, find, context.ranks)
        found = {out: number(rows[" ".join(out)]["effect"]) for out in sets}
        self.known |= found
        return found

    def draw(self, context: CalibrationContext, config: PruningConfig) -> Tensor:
        """Return the latents of the dense model, drawn once."""
        if self.dense is None:
            self.dense = drawn_twice(context, config, "pattern depth")
        return self.dense

    def figures(self, out: tuple[str, ...], base: Tensor | None) -> dict[str, Any]:
        """Return the figures of the model without some blocks."""
        assert base is not None
        with without_blocks(self.context.denoiser, self.selection.stacks, out):
            drawn = latents(self.context, self.config.allocation_prompts)
        return {"effect": relative_latent_error(drawn, base)["value"]}


def number(effect: float | None) -> float:
    """Return an effect as it was measured; infinite for latents that were not finite."""
    return math.inf if effect is None else effect


def choose_blocks(effects: BlockEffects) -> tuple[str, ...]:
    """Return the blocks that leave, in the order in which they were chosen.

    Raises:
        CalibrationError: without every candidate the latents have inf or NaN.
    """
    selection = effects.selection
    alone = effects.measure("blocks-1", [(name,) for name in selection.candidates])
    estimate = {name: alone[name,] for name in selection.candidates}
    price = prices(selection, [], estimate)
    away = [least({name: price[name] for name in shortlist(selection, [], estimate)})]
    while not selection.enough(away):
        before = effects.known[in_order(selection, away)]
        tried = shortlist(selection, away, estimate)
        sets = {name: in_order(selection, [*away, name]) for name in tried}
        found = effects.measure(f"blocks-{len(away) + 1}", list(sets.values()))
        estimate |= {name: found[out] - before for name, out in sets.items()}
        price = prices(selection, away, estimate)
        away.append(least({name: price[name] for name in sets}))
    return better_run(effects, tuple(away), alone)


def shortlist(selection: DepthSelection, away: list[str], estimate: dict[str, float]) -> list[str]:
    """Return the candidates to measure beside those that left: by estimate, and neighbours."""
    possible = [
        name
        for name in selection.candidates
        if name not in away
        and selection.allowed([*away, name])
        and selection.most([*away, name]) >= selection.wanted
    ]
    price = prices(selection, away, estimate)
    ranked = sorted(possible, key=price.__getitem__)
    beside = selection.neighbours(away)
    near = [name for name in ranked[SHORTLIST:] if name in beside][:NEIGHBOURS]
    return [*ranked[:SHORTLIST], *near]


def prices(
    selection: DepthSelection, away: list[str], estimate: Mapping[str, float]
) -> dict[str, float]:
    """Return the estimated effect of each block for what it saves; no more than wanted counts.

    Infinite for a block that saves nothing, such as one that a call skips.

    Args:
        selection: the blocks that may leave, and what they save.
        away: the blocks that left.
        estimate: the added effect of each.
    """
    rest = selection.wanted - selection.saved(away)
    saved = {name: min(rest, selection.savings[name]) for name in estimate}
    return {
        name: effect / saved[name] if saved[name] else math.inf for name, effect in estimate.items()
    }


def better_run(effects: BlockEffects, away: tuple[str, ...], alone: Effects) -> tuple[str, ...]:
    """Return the best run of blocks in a row if it is better than the blocks chosen, else those."""
    selection = effects.selection
    chosen = in_order(selection, away)
    runs = sorted(selection.runs(), key=lambda run: sum(alone[name,] for name in run))
    new = [tuple(run) for run in runs[:RUNS] if tuple(run) not in effects.known]
    if not new:
        return away
    found = effects.measure("blocks-in-a-row", new)
    best = min(new, key=lambda run: found[run])
    return best if found[best] < effects.known[chosen] else away


def in_order(selection: DepthSelection, names: Sequence[str]) -> tuple[str, ...]:
    """Return some blocks in forward order."""
    return tuple(name for name in selection.candidates if name in names)


def least(effects: dict[str, float]) -> str:
    """Return the block with the least effect.

    Raises:
        CalibrationError: no effect is finite.
    """
    best = min(effects, key=lambda name: effects[name])
    if not math.isfinite(effects[best]):
        raise CalibrationError(
            f"pattern depth: without {best}, or any other of {len(effects)} blocks, the latents "
            "have inf or NaN, or are all equal; try another --dtype"
        )
    return best


def trials_of(selection: DepthSelection) -> int:
    """Return how many drawings of each prompt a run makes at most, the dense ones included."""
    candidates, more = len(selection.candidates), selection.count - 1
    again = sum(min(SHORTLIST + NEIGHBOURS, candidates - done) for done in range(1, more + 1))
    return DRAWN_FIRST + candidates + again + (RUNS if more else 0)
