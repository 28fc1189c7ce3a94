"""Calibration contexts of pipelines, for tests that call one part of a calibration."""

import contextlib
from collections.abc import Iterator
from typing import Any

from obsdiff.calibration.calibration_set import CalibrationSet
from obsdiff.calibration.context import CalibrationContext
from obsdiff.models.discovery import find_blocks
from obsdiff.models.linear_view import layer_shapes
from obsdiff.pipelines.call import denoiser_name, scheduler_name
from obsdiff.pipelines.run import prepared
from obsdiff.runtime.scratch import open_scratch


@contextlib.contextmanager
def context_of(
    pipe: Any,
    calibration_set: CalibrationSet,
    component: str | None = None,
    room: float = 1e9,
    **fields: Any,
) -> Iterator[CalibrationContext]:
    """The context of a pipeline that is prepared for the block.

    Args:
        pipe: the pipeline.
        calibration_set: the prompts, and how they run.
        component: the name of the denoiser (default: the one that a pruning would choose).
        room: bytes of the scratch storage in memory.
        **fields: other fields of the context.
    """
    name = denoiser_name(pipe, component)
    denoiser = getattr(pipe, name)
    blocks = find_blocks(layer_shapes(denoiser))
    with open_scratch(room) as scratch, prepared(pipe, scheduler_name(pipe, name)) as run:
        yield CalibrationContext(run, denoiser, blocks, calibration_set, scratch, **fields)
