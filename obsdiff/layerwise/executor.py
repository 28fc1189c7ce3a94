"""Solve the pieces of one package: in one process one after the other, in several each where its Hessian is.

What the journal has is taken from it. Under a memory budget what is pruned waits on disk.
"""

import contextlib
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass

from torch import nn

from ..calibration.context import Hessians, Site
from ..calibration.gather import GATHER, DensePass
from ..calibration.packages import Package
from ..config import PruningConfig
from ..pipelines.record import PruningReport
from ..runtime.distributed import Ranks
from ..runtime.mapped_weights import own_, park_
from ..runtime.progress import Progress
from ..runtime.scratch import Store
from .journal import Journal
from .linear import solve_
from .reporting import seconds
from .tasks import Outcome, Piece, apply_


@dataclass(frozen=True)
class AtWork:
    """A run's solving: the model, what is solved already, where things are kept, who solves what, and layers' own sparsities."""

    denoiser: nn.Module
    config: PruningConfig
    journal: Journal | None
    solved: Set[int]
    waiting: Store
    ranks: Ranks
    owners: Sequence[int]
    shares: Mapping[str, float]

    def package(self, pieces: list[Piece], hessians: Hessians) -> Iterator[Outcome]:
        """Outcomes of a package's pieces, in order; each has been applied to the model by then. The Hessians are used up."""
        return (
            self.alone(pieces, hessians)
            if self.ranks.size == 1
            else self.together(pieces, hessians)
        )

    def alone(self, pieces: list[Piece], hessians: Hessians) -> Iterator[Outcome]:
        for piece in pieces:
            self.begin(piece)
            if piece.number in self.solved:
                outcome = self.journal.read(piece)
                apply_(self.denoiser, piece, outcome)
            else:
                outcome = self.solve(piece, hessians)
                self.keep(piece, outcome)
            self.end(piece)
            yield Outcome({}, outcome.layers, outcome.groups)

    def together(self, pieces: list[Piece], hessians: Hessians) -> Iterator[Outcome]:
        """In several processes: all solve what is theirs, then everyone gets everything. Process 0 has the journal."""
        own = {}
        for piece in pieces:
            if piece.number not in self.solved and self.owners[piece.number] == self.ranks.rank:
                self.begin(piece)
                own[piece.number] = self.solve(piece, hessians)
        for piece in pieces:
            old, owner = piece.number in self.solved, self.owners[piece.number]
            mine = (
                self.journal.read(piece)
                if old and self.ranks.rank == 0
                else own.pop(piece.number, None)
            )
            outcome = self.exchange(mine, 0 if old else owner)
            if old or owner != self.ranks.rank:
                self.begin(piece)
                apply_(self.denoiser, piece, outcome)
            if not old and self.ranks.rank == 0:
                self.keep(piece, outcome)
            self.end(piece)
            yield Outcome({}, outcome.layers, outcome.groups)

    def exchange(self, outcome: Outcome | None, owner: int) -> Outcome:
        device = next(self.denoiser.parameters()).device
        parts = (outcome.tensors, (outcome.layers, outcome.groups)) if outcome else (None, None)
        tensors, (layers, groups) = self.ranks.give(*parts, owner, device)
        return Outcome.of(tensors, layers, groups)

    def solve(self, piece: Piece, hessians: Hessians) -> Outcome:
        return solve_(
            self.denoiser,
            piece,
            {tap: hessians.pop(tap) for tap in piece.taps},
            self.config,
            self.shares,
        )

    def keep(self, piece: Piece, outcome: Outcome) -> None:
        if self.journal:
            self.journal.write(piece, outcome)

    def begin(self, piece: Piece) -> None:
        if self.config.memory_budget_gib:
            own_(self.denoiser, piece.touched)

    def end(self, piece: Piece) -> None:
        if self.config.memory_budget_gib:
            park_(self.denoiser, piece.touched, self.waiting)


def outcomes(
    site: Site,
    at_work: AtWork,
    packages: list[Package],
    pieces: list[Piece],
    dense: DensePass | None,
    report: PruningReport,
    bar: Progress,
) -> Iterator[Outcome]:
    """Steps 3 and 4, package after package."""
    done = {layer for piece in pieces if piece.number in at_work.solved for layer in piece.layers}
    with contextlib.closing(
        GATHER[at_work.config.calibrating](site, packages, dense, done)
    ) as gathered:
        for index in range(len(packages)):
            bar.package(index)
            with seconds(report, "calibration"):
                hessians = next(gathered)
            with seconds(report, "solve"):
                yield from at_work.package(
                    [piece for piece in pieces if piece.package == index], hessians
                )
