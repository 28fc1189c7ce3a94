"""Hessians of the benchmarks, summed step by step and kept in a file: what is read is what one
calibration sums."""

from typing import cast

import pytest
import torch

from benchmarks.paper.hessians import Sums, gather, read, write
from benchmarks.step_sensitivity import ByHalf
from obsdiff import PruningConfig
from obsdiff.calibration.calibration_set import CalibrationSet
from obsdiff.calibration.call_audit import CallAudit
from obsdiff.calibration.context import CalibratedInputs
from obsdiff.calibration.hooks import calibrate, tapped
from obsdiff.calibration.packages import plan_packages
from obsdiff.calibration.step_weights import StepWeights
from obsdiff.models.linear_view import layer_shapes
from obsdiff.models.structure import Tap

from ..conftest import PROMPTS, sd3
from ..support.contexts import context_of

STEPS = 2
CALL = {"num_inference_steps": STEPS, "guidance_scale": 3.0, "height": 16, "width": 16}


@pytest.mark.parametrize("columns", [6, 700])
def test_read_hessians_are_those_written(columns, tmp_path):
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randn(2, 5, columns, generator=generator)
    sums = Sums.zeros(columns)
    sums.update(tokens, weight=0.7)
    write(tmp_path / "sums.safetensors", {Tap(("q", "k"), "attention"): sums})
    found = read(tmp_path / "sums.safetensors")
    assert list(found) == ["q", "k"]
    for hessian in found.values():
        assert (hessian.samples, hessian.alpha) == (sums.samples, pytest.approx(7.0))
        assert torch.allclose(hessian.matrix(), sums.matrix(), rtol=1e-5, atol=1e-6)
        assert torch.allclose(hessian.variance(), sums.variance(), rtol=1e-5, atol=1e-6)
    rows = tokens.reshape(10, columns).double()
    assert torch.allclose(found["q"].matrix().double(), 2 * 0.7 * rows.T @ rows / 10, atol=1e-5)


def taps_of(context, denoiser):
    packages = plan_packages(context.blocks, layer_shapes(denoiser), PruningConfig())
    return [tap for package in packages for tap in package.taps]


@pytest.mark.parametrize("kind", ["log_decrease", "uniform"])
def test_the_sums_of_all_steps_are_those_of_one_calibration(kind, tmp_path):
    drawn = CalibrationSet(PROMPTS[:2], [0, 1], CALL, 1, StepWeights(kind, 0.8, 1.2))
    pipe = sd3(layers=2)
    with context_of(pipe, drawn) as context:
        taps = taps_of(context, pipe.transformer)
        gather(context, taps, STEPS, {1: [kind], 2: [kind]}, tmp_path)
        expected = calibrate(context, taps)
    found, fewer = (read(tmp_path / f"{count:03}-{kind}.safetensors") for count in (2, 1))
    for tap in taps:
        hessian, one, whole = found[tap.layers[0]], fewer[tap.layers[0]], expected[tap].hessian
        assert hessian.samples == whole.samples == 2 * one.samples
        assert hessian.alpha == pytest.approx(whole.alpha)
        assert torch.allclose(hessian.matrix(), whole.matrix(), rtol=1e-4, atol=1e-5)
        assert torch.allclose(hessian.x, whole.x, rtol=1e-4, atol=1e-4)


def test_both_halves_of_guidance_together_are_one_calibration():
    drawn = CalibrationSet(PROMPTS[:2], [0, 1], CALL, 1, StepWeights("uniform", 1.0, 1.0))
    pipe = sd3(layers=2)
    with context_of(pipe, drawn) as context:
        taps = taps_of(context, pipe.transformer)
        shapes = layer_shapes(pipe.transformer)
        sums = {tap: ByHalf(context.run, shapes[tap.layers[0]][1], STEPS, 3.0) for tap in taps}
        with tapped(context, cast(CalibratedInputs, sums), CallAudit()):
            for prompts, seeds in drawn.batches():
                context.run.latents(prompts, seeds, drawn.settings)
        expected = calibrate(context, taps)
    for tap in taps:
        halves = sums[tap].weighted([1.0] * STEPS, (1.0, 1.0, 0.0))
        assert halves.alpha == expected[tap].hessian.alpha
        assert torch.allclose(halves.xx, expected[tap].hessian.xx, rtol=1e-4, atol=1e-4)
