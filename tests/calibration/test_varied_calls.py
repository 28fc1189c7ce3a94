"""Calls that vary: a part of the schedule, extra calls in a part of the steps, layers left out."""

import pytest
import torch
from diffusers import (
    StableDiffusion3PAGPipeline,
    StableDiffusionImg2ImgPipeline,
    StableDiffusionInpaintPipeline,
    StableDiffusionXLImg2ImgPipeline,
)
from PIL import Image

from obsdiff import PruningConfig, UserError, prune_
from obsdiff.calibration.calibration_set import CalibrationSet
from obsdiff.calibration.hooks import calibrate

from ..conftest import PROMPTS, sd, sd3, sdxl
from ..support.contexts import context_of
from ..support.lanes import first_quick
from .test_hooks import taps_of

pytestmark = pytest.mark.filterwarnings("ignore::obsdiff.errors.CalibrationWarning")
CALIBRATIONS = ["live", "replay", "single"]
PICTURE = Image.new("RGB", (16, 16), "red")


def prune(pipe, prompts, calibration, **settings):
    packages = {} if calibration == "single" else {"packages": 2}
    config = PruningConfig(calibration=calibration, **packages, **settings)
    return prune_(pipe, prompts, config)


def skipping(**changes):
    """Skip-layer guidance of SD3.5: one more call, without block 1, in the first half."""
    return {
        "prompt": "red apple", "guidance_scale": 4.0, "height": 16, "width": 16,
        "skip_guidance_layers": [1], "skip_layer_guidance_start": 0.0,
        "skip_layer_guidance_stop": 0.5, **changes,
    }  # fmt: skip


@pytest.mark.parametrize("calibration", first_quick(CALIBRATIONS))
@pytest.mark.parametrize("pattern", first_quick(["unstructured", "structured"]))
def test_layers_that_a_part_of_the_calls_leaves_out(calibration, pattern):
    more = {"round_to": 1} if pattern == "structured" else {}
    report = prune(sd3(), [skipping()], calibration, num_inference_steps=4, pattern=pattern, **more)
    assert report.layers


@pytest.mark.slow
def test_replay_of_such_calls_finds_the_hessians_of_live():
    found = {}
    for calibration in ("live", "replay"):
        report = prune(sd3(), [skipping()], calibration, num_inference_steps=4)
        found[calibration] = {row.name: row.error for row in report.layers}
    first = [name for name in found["live"] if name.startswith("transformer_blocks.0")]
    assert first
    for name in first:
        assert found["replay"][name] == pytest.approx(found["live"][name], rel=1e-4)


def test_each_call_has_the_weight_of_its_step():
    pipe = sd3()
    taps = [t for t in taps_of(pipe) if t.layers[0].startswith(("transformer_blocks.0.ff.net.2",))]
    taps += [t for t in taps_of(pipe) if t.layers[0].startswith("transformer_blocks.1.ff.net.2")]
    seen = {tap: [] for tap in taps}
    for tap in taps:
        pipe.transformer.get_submodule(tap.layers[0]).register_forward_pre_hook(
            lambda _, args, tap=tap: seen[tap].append(args[0].detach().flatten(0, -2))
        )
    drawn = CalibrationSet([skipping()], [0], {"num_inference_steps": 4})
    with context_of(pipe, drawn) as context:
        inputs = calibrate(context, taps)
    assert len(seen[taps[0]]) > len(seen[taps[1]])
    for tap in taps:
        assert inputs[tap].hessian.samples == sum(len(x) for x in seen[tap])
    alphas = [drawn.step_weights.at(step, 4) for step in range(4)]
    wanted = sum(a * x.T @ x for a, x in zip(alphas, seen[taps[1]], strict=True))
    torch.testing.assert_close(
        inputs[taps[1]].hessian.xx.tril(), wanted.tril(), rtol=1e-4, atol=1e-4
    )


@pytest.mark.parametrize("calibration", CALIBRATIONS)
def test_perturbed_attention(calibration):
    parts = dict(sd3().components)
    for absent in ("image_encoder", "feature_extractor"):
        parts.pop(absent)
    pipe = StableDiffusion3PAGPipeline(**parts, pag_applied_layers=["1"])
    prompts = [{"prompt": "fish", "pag_scale": 2.0, "height": 16, "width": 16}]
    assert prune(pipe, prompts, calibration, num_inference_steps=2).layers


def img2img():
    return StableDiffusionImg2ImgPipeline(**sd().components, requires_safety_checker=False)


def part(strength):
    return {"prompt": "red apple", "image": PICTURE, "strength": strength}


@pytest.mark.slow
@pytest.mark.parametrize("calibration", first_quick(CALIBRATIONS))
def test_pictures_that_run_different_parts_of_the_schedule(calibration):
    report = prune(img2img(), [part(0.6), part(0.4)], calibration, num_inference_steps=5)
    assert report.layers


@pytest.mark.parametrize(("strength", "steps"), [(0.6, 3), (1.0, 5), (0.4, 2)])
def test_t_is_the_number_of_steps_that_run(strength, steps):
    pipe, calls = img2img(), []
    pipe.unet.register_forward_pre_hook(lambda *_: calls.append(1))
    drawn = CalibrationSet([part(strength)], [0], {"num_inference_steps": 5})
    taps = taps_of(pipe)[:1]
    with context_of(pipe, drawn) as context:
        latents = context.run.latents(drawn.prompts, drawn.seeds, drawn.settings)
        assert (context.run.steps, len(calls)) == (steps, steps)
        hessian = calibrate(context, taps)[taps[0]].hessian
    alphas = [drawn.step_weights.at(step, steps) for step in range(steps)]
    tokens = hessian.samples / steps
    assert hessian.alpha == pytest.approx(sum(alphas) * tokens)
    expected = pipe(
        **part(strength), num_inference_steps=5, output_type="latent",
        generator=torch.Generator().manual_seed(0),
    ).images  # fmt: skip
    torch.testing.assert_close(latents, expected, rtol=1e-3, atol=1e-3)


def test_a_strength_that_runs_no_step_is_one_line():
    with pytest.raises(UserError, match="raise strength"):
        prune(img2img(), [part(0.1)], "single", num_inference_steps=5)


@pytest.mark.slow
def test_inpainting_and_the_parts_of_two_experts():
    pipe = StableDiffusionInpaintPipeline(**sd().components, requires_safety_checker=False)
    mask = Image.new("L", (16, 16), 255)
    prompts = [part(0.5) | {"mask_image": mask, "height": 16, "width": 16}]
    assert prune(pipe, prompts, "replay", num_inference_steps=4).layers
    for prompt in (
        {"prompt": "fish", "denoising_end": 0.5, "height": 16, "width": 16},
        {"prompt": "fish"},
    ):
        assert prune(sdxl(), [prompt], "single", num_inference_steps=4).layers
    refiner = StableDiffusionXLImg2ImgPipeline(**sdxl().components, add_watermarker=False)
    prompts = [{"prompt": "fish", "image": PICTURE, "denoising_start": 0.5}]
    assert prune(refiner, prompts, "live", num_inference_steps=4).layers


def test_a_layer_that_no_call_of_a_step_runs_is_named_and_the_advice_works():
    def lazy(pipe):
        block, calls = pipe.transformer.transformer_blocks[1], []
        forward = block.forward

        def sometimes(hidden_states, encoder_hidden_states, **kwargs):
            calls.append(1)
            if len(calls) % 2:
                return encoder_hidden_states, hidden_states
            return forward(hidden_states, encoder_hidden_states, **kwargs)

        block.forward = sometimes
        return pipe

    with pytest.raises(Exception, match=r"transformer_blocks\.1.*--exclude"):
        prune(lazy(sd3()), PROMPTS[:1], "single", num_inference_steps=2)
    exclude = ("transformer_blocks.1.*",)
    assert prune(lazy(sd3()), PROMPTS[:1], "single", num_inference_steps=2, exclude=exclude)
