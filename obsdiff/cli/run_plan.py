"""RunPlan: the result of `obsdiff plan`, as text and as JSON. Sizes are in bytes."""

import dataclasses
from dataclasses import dataclass, field
from typing import Any

from ..config import PruningConfig


@dataclass(frozen=True)
class PartRow:
    """A component of the model."""

    name: str
    parameters: int | None  # None if its class is not known here
    bytes: int  # in the format of the result; 0 if they are not known
    dtype: str  # of the result


@dataclass(frozen=True)
class PhaseRow:
    """What lies on the card, or on a CPU in memory, in one phase of a run; bytes."""

    name: str  # text, drawing, allocating or solving
    weights: int
    hessians: int
    work: int  # activations, gradients, or the work of solving

    @property
    def total(self) -> int:
        """All of them."""
        return self.weights + self.hessians + self.work


@dataclass(frozen=True)
class CardRow:
    """The card that prunes, and the offload that fits; bytes."""

    memory: int  # free
    name: str  # of the card; "" for one that was given
    offload: str
    fits: bool | None  # None: not known, for it would fit without what is not counted
    phases: list[PhaseRow]
    uncounted: list[str]  # activations, gradients: what is not known, and not in the phases
    advice: str = ""  # what to do if it does not fit


@dataclass(frozen=True)
class RoomRow:
    """Memory or disk: what a run needs of it, and what there is; bytes."""

    needed: int
    free: int
    parts: dict[str, int]  # what needs it
    given: bool = False  # whether the user said how much there is
    uncounted: list[str] = field(default_factory=list)  # what is not known, and not in the parts
    advice: str = ""  # what to do if there is too little

    @property
    def fits(self) -> bool | None:
        """Whether there is enough; None if there is without what is not counted."""
        enough = self.needed <= self.free
        return None if enough and self.uncounted else enough


@dataclass(frozen=True)
class PresetRow:
    """What a preset costs."""

    preset: str | None  # None for the defaults
    passes: int | None  # denoising steps of one prompt; None if the number of steps is not known
    with_gradients: int = 0  # how many of them, which an allocation by sensitivity takes
    why_not: str = ""


@dataclass(frozen=True)
class OutcomeRow:
    """What a pruning changes."""

    what: str  # structured 30 %
    flags: dict[str, str]
    zeros: float = 0.0  # share of the denoiser's parameters
    bytes: int = 0  # of the whole folder
    parameters: int = 0  # of the denoiser
    macs: int | None = None  # of one forward for one picture
    leaving: str = ""  # heads and neurons
    speed: str = ""
    why_not: str = ""


@dataclass(frozen=True)
class TargetRow:
    """The pruning that draws within some memory of a card; bytes."""

    memory: int
    offload: str
    sparsity: float  # 0: the dense model fits
    peak: int  # of drawing
    dense_peak: int  # the same of the dense model, without an offload
    fits: bool
    advice: str = ""  # what to do if it does not fit
    uncounted: list[str] = field(default_factory=list)  # what is not known, and not in the peaks


@dataclass(frozen=True)
class RunPlan:
    """The plan of a pruning, for people who ask whether it fits and what to type."""

    model: str  # as the user named it
    pipeline: str
    component: str
    stored: bool  # whether there are weights
    parts: list[PartRow]
    settings: dict[str, Any]
    prompts: int
    card: CardRow | None
    memory: RoomRow
    hessians_in_files: int  # bytes of them that rest on disk
    disk: RoomRow
    step_seconds: float | None  # of a denoising step of one prompt, measured here
    presets: list[PresetRow]
    dense_macs: int | None
    outcomes: list[OutcomeRow]
    target: TargetRow | None
    chosen: str  # what the command prunes to
    command: str  # "" if no pruning meets the target
    notes: list[str]
    config: PruningConfig

    def to_dict(self) -> dict[str, Any]:
        """Return the plan as JSON values; the keys are the names of the fields."""
        found = dataclasses.asdict(self) | {"config": self.config.to_dict()}
        for name in ("memory", "disk"):
            found[name]["fits"] = getattr(self, name).fits
        return found
