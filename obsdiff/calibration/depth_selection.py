"""Which blocks of a model may leave, and how many do, by its class and the config."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import pairwise

from ..config import PruningConfig
from ..config.values import parse_blocks
from ..errors import UserError
from ..models.depth_table import DEPTH_CLASSES, UNET, Stack, stacks_in
from ..models.own_names import CLASS_PREFIX
from ..models.structure import Block

ROUNDING = 1e-9  # 0.3 of 10 blocks is 3


@dataclass(frozen=True)
class DepthSelection:
    """The blocks of a model that may leave.

    Attributes:
        stacks: the model's lists of blocks.
        blocks: the names of their blocks, by the attribute that lists them, in forward order.
        candidates: the names of those that may leave, in forward order.
        savings: what each of these saves: 1, or an amount of a target's unit.
        wanted: what those that leave have to save at least: their number, or an amount.
    """

    stacks: tuple[Stack, ...]
    blocks: dict[str, list[str]]
    candidates: list[str]
    savings: dict[str, float]
    wanted: float

    @property
    def total(self) -> int:
        """The number of blocks in the lists."""
        return sum(map(len, self.blocks.values()))

    @property
    def count(self) -> int:
        """How many blocks leave at most: as many as it takes of those that save the least."""
        away: list[str] = []
        for name in sorted(self.candidates, key=self.savings.__getitem__):
            if not self.enough(away) and self.allowed([*away, name]):
                away.append(name)
        return len(away)

    def saved(self, names: Iterable[str]) -> float:
        """Return what some blocks save together."""
        return sum(self.savings[name] for name in names)

    def enough(self, names: Iterable[str]) -> bool:
        """Return whether some blocks save what is wanted."""
        return self.saved(names) >= self.wanted

    @property
    def entries(self) -> list[str]:
        """The layers whose output the first block of a list reads, and nothing else."""
        return [stack.entry for stack in self.stacks if stack.entry]

    def allowed(self, names: Iterable[str]) -> bool:
        """Return whether a set of blocks may leave together: most lists keep one at least."""
        away = set(names)
        return all(stack.may_end or set(self.blocks[stack.blocks]) - away for stack in self.stacks)

    def most(self, names: Iterable[str] = ()) -> float:
        """Return what can be saved at most if some blocks leave, and others with them."""
        away = list(names)
        for name in sorted(self.candidates, key=self.savings.__getitem__, reverse=True):
            if name not in away and self.allowed([*away, name]):
                away.append(name)
        return self.saved(away)

    def runs(self) -> list[list[str]]:
        """Return every run of candidates in a row of one list that may leave, and just suffices."""
        found = []
        for blocks in self.blocks.values():
            for first in range(len(blocks)):
                run: list[str] = []
                for name in blocks[first:]:
                    if name not in self.candidates or self.enough(run):
                        break
                    run.append(name)
                if self.enough(run) and self.allowed(run):
                    found.append(run)
        return found

    def neighbours(self, names: Iterable[str]) -> set[str]:
        """Return the blocks next to some blocks: they make a run longer."""
        away = set(names)
        pairs = [pair for blocks in self.blocks.values() for pair in pairwise(blocks)]
        beside = {a for a, b in pairs if b in away} | {b for a, b in pairs if a in away}
        return beside - away


def select_depth(cls: str, blocks: list[Block], config: PruningConfig) -> DepthSelection:
    """Return the blocks of a model that may leave, and how many do.

    The share is that of the blocks in the lists of the model, rounded down, and at least one. With
    a target, which takes one at least, allocation/depth_target.py sets what they have to save.

    Args:
        cls: the name of the denoiser's class.
        blocks: its blocks, which `--blocks` counts.
        config: the settings.

    Raises:
        UserError: blocks of this class cannot leave, or not as many.
    """
    names = [block.name for block in blocks]
    stacks = stacks_in(cls, names)
    if not stacks:
        raise UserError(
            f"pattern depth: expected a {', '.join(DEPTH_CLASSES)} with transformer blocks, "
            f"found {cls}, {why_none(cls)}"
        )
    listed = {
        stack.blocks: [name for name in names if name.rpartition(".")[0] == stack.blocks]
        for stack in stacks
    }
    fixed = {
        listed[stack.blocks][stack.stays]: stack.why
        for stack in stacks
        if stack.stays is not None and listed[stack.blocks]
    }
    candidates = [
        name
        for name in chosen_names(names, config)
        if name.rpartition(".")[0] in listed and name not in fixed
    ]
    total = sum(map(len, listed.values()))
    count = 1 if config.budget else max(1, math.floor(config.removed * total + ROUNDING))
    found = DepthSelection(stacks, listed, candidates, dict.fromkeys(candidates, 1.0), count)
    require_leaving(found, count, fixed, config)
    return found


def require_leaving(
    selection: DepthSelection, count: int, fixed: Mapping[str, str], config: PruningConfig
) -> None:
    """Check that enough blocks may leave.

    Args:
        selection: the blocks that may leave.
        count: how many have to, at least one with a target.
        fixed: the names of the blocks that always stay, and why.
        config: the settings.

    Raises:
        UserError: fewer may leave.
    """
    most = most_leaving(selection)
    if count <= most:
        return
    because = "".join(f"; {name} stays: {why}" for name, why in fixed.items())
    where = f"that may leave with blocks {config.blocks or 'all'}"
    if config.budget:
        raise UserError(f"target_{config.budget[0]}: expected a block {where}, found none{because}")
    raise UserError(
        f"sparsity {config.removed:g} of {selection.total} blocks: expected at most {most} "
        f"{where}, found {count}{because}"
    )


def why_none(cls: str) -> str:
    """Return why no block of a model can leave, by its class, and what to do."""
    if cls.startswith(CLASS_PREFIX):
        return "which an earlier run left; take blocks out first, then prune what is left"
    if cls == UNET:
        return "whose attentions have no transformer blocks of their own; use pattern structured"
    return "whose blocks can't leave; use pattern structured"


def most_leaving(selection: DepthSelection) -> int:
    """Return how many candidates may leave at most: a list that may not end keeps a block."""
    return sum(
        min(len(set(blocks) & set(selection.candidates)), len(blocks) - (not stack.may_end))
        for stack in selection.stacks
        for blocks in [selection.blocks[stack.blocks]]
    )


def chosen_names(names: list[str], config: PruningConfig) -> list[str]:
    """Return the names that config.blocks and keep_first_last select."""
    chosen = parse_blocks(config.blocks)
    if chosen and chosen[1] >= len(names):
        raise UserError(
            f"blocks: this model has blocks 0-{len(names) - 1}, found {config.blocks!r}"
        )
    kept = names[chosen[0] : chosen[1] + 1] if chosen else names
    ends = (*names[:1], *names[-1:]) if config.keep_first_last else ()
    return [name for name in kept if name not in ends]
