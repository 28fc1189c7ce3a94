"""Models of public sizes with random weights, without text encoders and VAE, and their calls."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from benchmarks.sizes import FLUX_DEV, SD3_MEDIUM
from obsdiff import PruningConfig
from obsdiff.calibration.plan import plan_pruning
from obsdiff.models.meta_device import example_inputs
from obsdiff.pipelines.run import denoiser_call, prepared
from obsdiff.runtime.machine import synchronise

from .check import Check

FLUX = FLUX_DEV | {"num_layers": 2, "num_single_layers": 2}
TINY_SD3 = {
    "num_layers": 3, "attention_head_dim": 16, "num_attention_heads": 4, "joint_attention_dim": 32,
    "caption_projection_dim": 64, "pooled_projection_dim": 48, "sample_size": 16,
}  # fmt: skip
TINY_FLUX = {
    "num_layers": 1, "num_single_layers": 1, "attention_head_dim": 16, "num_attention_heads": 4,
    "joint_attention_dim": 32, "pooled_projection_dim": 48, "axes_dims_rope": (4, 6, 6),
}  # fmt: skip


def sd3(check: Check, layers: int | None = None) -> Any:
    """A pipeline of SD3-medium's sizes, made on the device, in bfloat16 on a GPU."""
    from diffusers import (
        FlowMatchEulerDiscreteScheduler,
        SD3Transformer2DModel,
        StableDiffusion3Pipeline,
    )

    torch.manual_seed(0)
    config = SD3_MEDIUM | (TINY_SD3 if check.tiny else {})
    config |= {"num_layers": layers} if layers else {}
    model = random_model(check, partial(SD3Transformer2DModel, **config))
    scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0)
    pipe = StableDiffusion3Pipeline(model, scheduler, None, None, None, None, None, None, None)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def flux_model(check: Check) -> Any:
    """A transformer of FLUX.1-dev's sizes with 2 double and 2 single blocks."""
    from diffusers import FluxTransformer2DModel

    config = FLUX | (TINY_FLUX if check.tiny else {})
    return random_model(check, partial(FluxTransformer2DModel, **config))


def random_model(check: Check, make: Callable[[], Any]) -> Any:
    """A model with random weights, made on the device and in the dtype of the run."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(check.dtype)
    try:
        with torch.device(check.device):
            model = make()
    finally:
        torch.set_default_dtype(before)
    return model.to(check.device, check.dtype).eval().requires_grad_(False)


def embedded(check: Check, pipe: Any, calls: int, images: int) -> list[dict[str, torch.Tensor]]:
    """Random text embeddings for some calls of the pipeline, each of several images."""
    config, kind = pipe.transformer.config, pipe.transformer.dtype
    generator = torch.Generator(check.device).manual_seed(1)

    def made(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, device=check.device).to(kind)

    text = images, 20 if check.tiny else 333, config.joint_attention_dim
    pooled = images, config.pooled_projection_dim
    return [
        {
            "prompt_embeds": made(*text),
            "negative_prompt_embeds": made(*text),
            "pooled_prompt_embeds": made(*pooled),
            "negative_pooled_prompt_embeds": made(*pooled),
        }
        for _ in range(calls)
    ]


def settings(check: Check, **changes: Any) -> PruningConfig:
    """A config for the pipelines of `sd3`."""
    fixed = {"guidance_scale": 7.0, "calibration": "single"}
    fixed |= {"height": check.pixels, "width": check.pixels}
    return PruningConfig(**fixed | {"num_prompts": 1, "num_inference_steps": 2} | changes)


def drawn(pipe: Any, prompts: list[dict[str, Any]], config: PruningConfig) -> None:
    """Plain inference of the prompts, without the VAE."""
    plan = plan_pruning(pipe, prompts, config)
    with prepared(pipe, plan.scheduler) as run:
        for some, seeds in plan.calibration_set.batches():
            run.latents(some, seeds, plan.calibration_set.settings)
    synchronise()


def first_call(pipe: Any, prompt: dict[str, Any], config: PruningConfig) -> dict[str, Any]:
    """The arguments of the transformer's first call."""
    plan = plan_pruning(pipe, [prompt], config)
    return denoiser_call(pipe, pipe.transformer, prompt, plan.calibration_set.settings)


def flux_call(check: Check, model: Any) -> dict[str, Any]:
    """Random arguments of one call of a FLUX transformer for 4 pictures."""
    images, side = 4 if check.gpu else 1, check.pixels // 8
    made = {}
    for name, value in example_inputs(model, side, side, 512 if check.gpu else 20).items():
        if isinstance(value, torch.Tensor):
            value = torch.randn(*value.shape, device=check.device).to(model.dtype)
            if value.shape[0] == 1:
                value = value.expand(images, *value.shape[1:]).contiguous()
        made[name] = value
    return made
