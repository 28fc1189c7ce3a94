"""Everything a calibration needs: the calibration set, and the context in which it runs."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

from torch import nn

from ..errors import CalibrationError
from ..models.structure import Block, Tap
from ..pipelines.call import Prompt
from ..pipelines.run import Run
from ..runtime.distributed import Ranks
from ..runtime.scratch import Scratch
from .hessian import Hessian

Hessians = dict[Tap, Hessian]


@dataclass(frozen=True)
class CalibrationSet:
    """What to run: prompts, the seed of each, settings of the pipeline call, batch size, step weights (kind, low, high); of
    several processes that run it together, which one this is of how many; and what is drawn afterwards for Hessians of its own."""

    prompts: list[Prompt]
    seeds: list[int]
    settings: dict
    batch_size: int = 4
    weighting: tuple[str, float, float] = ("log_decrease", 0.8, 1.2)
    rank: int = 0
    ranks: int = 1
    held_out: "CalibrationSet | None" = None

    @property
    def parts(self) -> list["CalibrationSet"]:
        """This, and what is held out."""
        return [self, self.held_out] if self.held_out else [self]

    @property
    def drawn(self) -> tuple[list[Prompt], list[int]]:
        """All prompts and seeds, those held out last."""
        return [p for part in self.parts for p in part.prompts], [
            s for part in self.parts for s in part.seeds
        ]

    @property
    def here(self) -> int:
        """How many prompts this process draws in all."""
        return sum(len(prompts) for part in self.parts for prompts, _ in part.batches())

    def batches(self) -> Iterator[tuple[list[Prompt], list[int]]]:
        """Prompts and seeds of one pipeline call of this process after the other; a prompt that is a dict of arguments is a call of
        its own."""
        size = self.batch_size if all(isinstance(p, str) for p in self.prompts) else 1
        for i in range(self.rank * size, len(self.prompts), self.ranks * size):
            yield self.prompts[i : i + size], self.seeds[i : i + size]


@dataclass(frozen=True)
class CalibrationContext:
    """Where calibration works: the pipeline made ready, its denoiser with its blocks, what to draw, where things wait, which device holds
    Hessians, what is called at each denoiser call with the number of prompts in it; the processes at work, and which of them solves
    which tap (none: whoever asks); and whether replay's Hessians get cross sums with the dense model's inputs."""

    run: Run
    denoiser: nn.Module
    blocks: list[Block]
    calibration_set: CalibrationSet
    scratch: Scratch
    device: str | None = None
    on_call: Callable[[int], None] = lambda prompts: None
    ranks: Ranks = field(default_factory=Ranks)
    owners: Mapping[Tap, int] = field(default_factory=dict)
    asymmetric: bool = False

    def added_up(self, hessians: Hessians) -> Hessians:
        """The Hessians over all processes: each at the owner of its tap, or everywhere."""
        for tap, hessian in hessians.items():
            hessian.reduce_(self.ranks, self.owners.get(tap))
            if not hessian.samples:
                raise CalibrationError(
                    f"{tap.layers[0]} saw no token in any of {self.ranks.size} processes; take more prompts or steps"
                )
        return hessians
