"""InspectionPlan: the result of `obsdiff inspect`, as text and as JSON."""

import dataclasses
from dataclasses import dataclass
from typing import Any

from ..config import PruningConfig


@dataclass(frozen=True)
class BlockRow:
    """A block to prune."""

    name: str
    kind: str  # its entry in the table of blocks


@dataclass(frozen=True)
class TapRow:
    """Layers that read one input."""

    layers: list[str]
    columns: int  # of their weights as matrices
    tokens_per_column: float | None  # of the calibration, repeats counted; None if unknown
    kept_per_column: float | None  # of these, those that the Hessian sums


@dataclass(frozen=True)
class PackageRow:
    """A package."""

    hessian_gib: float  # of all its Hessians
    layers: int  # number of layers
    taps: list[TapRow]


@dataclass(frozen=True)
class MemoryRow:
    """Memory of a run in GiB, without model and activations."""

    hessians_gib: float  # of the largest package
    on_disk_gib: float  # the part of it that is stored on disk; known with a budget only
    solving_gib: float
    budget_gib: float | None


@dataclass(frozen=True)
class DeviceRow:
    """What lies on a device in each phase of a run, in GiB."""

    memory_gib: float  # of the device, free
    offload: str  # the one that fits, or that was asked for
    fits: bool
    phases_gib: dict[str, float]  # text, drawing, solving
    hessians_beside_gib: float  # of Hessians that do not fit there
    activations_gib: float | None  # of the denoiser's call; None if they are not known


@dataclass(frozen=True)
class InspectionPlan:
    """The plan of a pruning. Fields that the pipeline does not state are None."""

    path: str  # of the model, as the user named it
    pipeline: str  # its class
    component: str  # the one to prune
    dtype: str | None  # number format of its stored weights
    bytes: int  # of its stored weights
    parameters: int
    targeted_parameters: int  # of the layers to prune
    removed: float  # share of them to remove; for a target the uniform sparsity that meets it
    budget: tuple[str, float] | None  # unit and largest share of it, for a target
    blocks: list[BlockRow]
    layers: int  # number of layers to prune
    units: int  # number of basic units
    packages: list[PackageRow]
    settings: dict[str, Any]  # the settings of the pipeline call: as configured, else its defaults
    prompts: int  # calibration prompts, with those held out
    calibrating: str  # live, replay or single
    denoiser_passes: int | None  # denoising steps of one prompt, all together
    allocation_passes: int | None  # the same, for the allocation
    memory: MemoryRow
    uncovered: list[str]  # layers of the blocks that no entry of the table covers
    notes: list[str]  # choices between files and components
    prediction: dict[str, Any] | None  # structured: the sizes before and after, see prediction.py
    config: PruningConfig
    device: DeviceRow | None = None  # of the device that is here, or was named

    def __repr__(self) -> str:
        """Return the plan in one line; its fields, and to_dict(), have all of it."""
        steps = "" if self.denoiser_passes is None else f", {self.denoiser_passes} denoising steps"
        return (
            f"<plan of {self.path}: {self.config.pattern}, {self.layers} layers of "
            f"{self.component}, {len(self.packages)} packages{steps}>"
        )

    def to_dict(self) -> dict[str, Any]:
        """Return the plan as JSON values; the keys are the names of the fields."""
        return dataclasses.asdict(self) | {"config": self.config.to_dict()}
