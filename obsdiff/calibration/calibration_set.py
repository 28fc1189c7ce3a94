"""The calibration set: prompts, their seeds, and how the pipeline runs them."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from ..pipelines.call import Prompt
from .step_weights import StepWeights

DEFAULT_WEIGHTS = StepWeights()


@dataclass(frozen=True)
class CalibrationSet:
    """The calibration prompts, and how the pipeline runs them.

    Attributes:
        prompts: all prompts, of all processes.
        seeds: the noise seed of each prompt.
        settings: keyword arguments of every pipeline call.
        batch_size: prompts in one pipeline call.
        step_weights: the weight of each denoising step.
        rank: the index of this process.
        ranks: the number of processes that share the prompts.
        held_out: prompts that run afterwards, for Hessians of their own.
        tokens_per_column: tokens that each Hessian keeps per column, at least; None for all.
    """

    prompts: list[Prompt]
    seeds: list[int]
    settings: dict[str, Any]
    batch_size: int = 4
    step_weights: StepWeights = DEFAULT_WEIGHTS
    rank: int = 0
    ranks: int = 1
    held_out: "CalibrationSet | None" = None
    tokens_per_column: float | None = None

    @property
    def parts(self) -> list["CalibrationSet"]:
        """This set and, if there is one, the held-out set."""
        return [self, self.held_out] if self.held_out else [self]

    @property
    def drawn(self) -> tuple[list[Prompt], list[int]]:
        """All prompts and their seeds, the held-out ones last."""
        prompts = [prompt for part in self.parts for prompt in part.prompts]
        return prompts, [seed for part in self.parts for seed in part.seeds]

    @property
    def here(self) -> int:
        """The number of prompts that this process runs, the held-out ones included."""
        return sum(len(prompts) for part in self.parts for prompts, _ in part.batches())

    def batches(self) -> Iterator[tuple[list[Prompt], list[int]]]:
        """Yield prompts and seeds of each pipeline call of this process.

        A prompt that is a dict of arguments is a call of its own.
        """
        size = self.call_size
        for i in range(self.rank * size, len(self.prompts), self.ranks * size):
            yield self.prompts[i : i + size], self.seeds[i : i + size]

    @property
    def call_size(self) -> int:
        """The number of prompts in a full pipeline call."""
        return self.batch_size if all(isinstance(p, str) for p in self.prompts) else 1

    def first(self, count: int) -> list[range]:
        """Return the first `count` prompts, by index, as calls that the processes share evenly."""
        count = min(count, len(self.prompts))
        size = min(self.call_size, -(-count // self.ranks))
        return [range(i, min(i + size, count)) for i in range(0, count, size)]
