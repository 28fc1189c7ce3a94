"""The calibration context: what a calibration needs, as one object."""

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import nn

from ..errors import CalibrationError
from ..models.structure import Block, Tap
from ..pipelines.placement import is_offloaded
from ..pipelines.run import Run, prepared
from ..pipelines.text_first import encode_first
from ..runtime.display import watching
from ..runtime.distributed import Ranks
from ..runtime.scratch import Scratch
from .calibrated_input import CalibratedInput
from .calibration_set import CalibrationSet
from .devices import computing_devices
from .plan import PruningPlan
from .recording_place import RecordingPlace

ALLOCATION = "allocation"  # the name of its phase
CalibratedInputs = dict[Tap, CalibratedInput]


@dataclass(frozen=True)
class CalibrationContext:
    """Everything a calibration needs.

    Attributes:
        run: the pipeline, prepared to return latents.
        denoiser: the component that is pruned.
        blocks: its blocks, in forward order.
        calibration_set: the prompts, and how they run.
        scratch: storage for tensors that exceed the memory.
        device: the device that stores Hessians and recordings (None: the one that computes).
        on_call: called at each denoiser call with its number of prompts.
        on_trial: called by allocation with the number of trials done.
        ranks: the processes of this run.
        owners: the process that solves each tap (none: every process).
        asymmetric: whether replay sums the cross moments with the dense model's inputs.
        recording: where a replay stores its recording, or None.
    """

    run: Run
    denoiser: nn.Module
    blocks: list[Block]
    calibration_set: CalibrationSet
    scratch: Scratch
    device: str | None = None
    on_call: Callable[[int], None] = lambda prompts: None
    on_trial: Callable[[int], None] = lambda done: None
    ranks: Ranks = field(default_factory=Ranks)
    owners: Mapping[Tap, int] = field(default_factory=dict)
    asymmetric: bool = False
    recording: RecordingPlace | None = None

    def computing(self, layers: Sequence[nn.Module]) -> list[torch.device]:
        """Return the device that computes with the inputs of each layer."""
        return computing_devices(self.run.pipe, layers, self.device)

    def reduced(self, inputs: CalibratedInputs) -> CalibratedInputs:
        """Add the sums of all processes, each at the owner of its tap, or in every process.

        Raises:
            CalibrationError: a layer received no token in any process.
        """
        for tap, calibrated in inputs.items():
            calibrated.reduce_(self.ranks, self.owners.get(tap))
            if not calibrated.hessian.samples:
                raise CalibrationError(
                    f"{tap.layers[0]}: no token reached it in any of {self.ranks.size} processes; "
                    "use more prompts or steps"
                )
        return inputs


@contextlib.contextmanager
def prepared_run(
    pipe: Any,
    plan: PruningPlan,
    scratch: Scratch,
    owners: Mapping[Tap, int] | None = None,
    progress: bool | None = None,
) -> Iterator[CalibrationContext]:
    """Prepare the pipeline and the display; restore the pipeline at the end.

    Args:
        pipe: the diffusers pipeline.
        plan: the pruning to calibrate for.
        scratch: storage for tensors that exceed the memory.
        owners: the process that solves each tap.
        progress: False shows nothing; see `watching`.
    """
    ranks, config = Ranks.here(), plan.config
    with (
        watching(progress if ranks.rank == 0 else False) as phases,
        prepared(pipe, plan.scheduler) as run,
    ):
        if is_offloaded(pipe):
            for part in plan.calibration_set.parts:
                encode_first(run, part.batches(), part.settings)
        yield CalibrationContext(
            run,
            plan.denoiser,
            plan.blocks,
            plan.calibration_set,
            scratch,
            config.offload_device,
            lambda prompts: phases.drawn(prompts, run.step, run.steps),
            partial(phases.reach, ALLOCATION),
            ranks=ranks,
            owners=owners or {},
            asymmetric=config.asymmetric,
        )
