"""FLUX.1-dev's sizes, 2 double and 2 single blocks: sums, and solving at 15,360 columns."""

import math
import time
import types
from typing import Any

import torch

from obsdiff import PruningConfig
from obsdiff.calibration.calibration_set import CalibrationSet
from obsdiff.calibration.call_audit import CallAudit
from obsdiff.calibration.context import CalibrationContext
from obsdiff.calibration.hooks import new_inputs, tapped
from obsdiff.calibration.packages import plan_packages
from obsdiff.models.discovery import require_blocks
from obsdiff.models.linear_view import layer_shapes, matrix
from obsdiff.pipelines.run import Run
from obsdiff.runtime.machine import device_watched, synchronise
from obsdiff.runtime.scratch import Scratch
from obsdiff.solvers import SOLVERS
from obsdiff.solvers.problem import Inputs, Target

from .check import Check
from .measurement import seconds
from .random_models import flux_call, flux_model


def flux(check: Check) -> None:
    """Time, and the memory that it took."""
    watched: dict[str, int] = {}
    with device_watched(watched), torch.no_grad():
        sums_and_solving(check)
    if check.gpu:
        check.figure("flux", "peak memory GB", watched["device_peak_bytes"] / 1e9)


def sums_and_solving(check: Check) -> None:
    """A call with sums beside a plain one, and the layer with the most columns."""
    model = flux_model(check)
    call = flux_call(check, model)
    shapes = layer_shapes(model)
    blocks = require_blocks(shapes, "FLUX")
    packages = plan_packages(blocks, shapes, PruningConfig(calibration="single"))
    taps = [tap for package in packages for tap in package.taps]
    run = Run(types.SimpleNamespace(components={}, device=check.device), recorded_steps=2)
    none = CalibrationSet([], [], {})
    context = CalibrationContext(run, model, blocks, none, Scratch(math.inf, check.out))
    plain = seconds(lambda: model(**call), 3, 1)
    inputs = new_inputs(context, taps)
    with tapped(context, inputs, CallAudit()):
        hooked = seconds(lambda: model(**call), 1, 1)
    what = "4 blocks, 4 pictures: call with sums / plain call"
    expected = "8 to 16 before products were in half precision"
    check.figure("flux", what, hooked / plain, expected if check.gpu else "")
    widest = max(inputs, key=lambda tap: shapes[tap.layers[0]][1])
    solved(check, matrix(model.get_submodule(widest.layers[0])), inputs[widest])


def solved(check: Check, weight: torch.Tensor, calibrated_input: Any) -> None:
    """Seconds of OBS on one layer: its weight of shape (outputs, inputs), and its sums."""
    mean, variance = calibrated_input.mean(), calibrated_input.variance()
    problem = Inputs(calibrated_input.take_(), mean, variance)
    synchronise()
    began = time.perf_counter()
    SOLVERS["obs"]([weight], problem, Target(0.5))
    synchronise()
    took = time.perf_counter() - began
    what = f"obs, {len(weight)} x {weight.shape[1]}: s"
    check.figure("flux", what, took, "<= 4" if check.gpu else "")
