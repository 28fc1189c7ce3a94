"""What every client draws from: the same noise, the same encoded prompts, the same steps."""

from dataclasses import dataclass
from typing import Any

import torch
from diffusers import DDIMScheduler, StableDiffusion3Pipeline
from PIL.Image import Image
from torch import Tensor

TEXTS = ("prompt_embeds", "negative_prompt_embeds")
POOLED = ("pooled_prompt_embeds", "negative_pooled_prompt_embeds")


@dataclass(frozen=True)
class Task:
    """One run of the sampler over some prompts.

    Attributes:
        noise: unit normal noise, one latent a prompt, shape (prompts, channels, height, width).
        texts: what diffusers' pipeline takes for the prompts, by its names; first axis: prompts.
        steps: the number of denoiser steps.
        guidance: the scale of classifier-free guidance.
    """

    noise: Tensor
    texts: dict[str, Tensor]
    steps: int
    guidance: float

    def text(self, i: int) -> dict[str, Tensor]:
        """The texts of one prompt."""
        return {name: value[i : i + 1] for name, value in self.texts.items()}


def task_of(pipe: Any, prompts: list[str], steps: int, guidance: float) -> Task:
    """Encode prompts with the pipeline's text encoders, and make the noise from seed 0.

    Args:
        pipe: a StableDiffusion3Pipeline or a StableDiffusionPipeline, in float32.
        prompts: the prompts.
        steps: the number of denoiser steps.
        guidance: the scale of classifier-free guidance.
    """
    with torch.no_grad():
        if isinstance(pipe, StableDiffusion3Pipeline):
            names = (*TEXTS, *POOLED)
            found = pipe.encode_prompt(prompts, None, None)
        else:
            names = TEXTS
            found = pipe.encode_prompt(prompts, "cpu", 1, True)
    config = denoiser(pipe).config
    shape = (len(prompts), config.in_channels, config.sample_size, config.sample_size)
    noise = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    texts = {name: value.contiguous() for name, value in zip(names, found, strict=True)}
    return Task(noise, texts, steps, guidance)


def denoiser(pipe: Any) -> Any:
    """The pipeline's transformer or UNet."""
    return getattr(pipe, "transformer", None) or pipe.unet


def end_like_comfyui_(pipe: Any) -> None:
    """Let DDIM's last step end without noise, as ComfyUI's does.

    The built-in emoji-unet ends with the noise of the first training step (`set_alpha_to_one`
    false); flow matching ends without noise in both.
    """
    if isinstance(pipe.scheduler, DDIMScheduler):
        pipe.scheduler = DDIMScheduler.from_config(pipe.scheduler.config, set_alpha_to_one=True)


def drawn_by_pipeline(pipe: Any, task: Task) -> Tensor:
    """Draw latents with diffusers' pipeline, one prompt after the other.

    Returns:
        The latents as the denoiser has them, shape (prompts, channels, height, width).
    """
    scale = first_noise_level(pipe, task.steps)
    drawn = []
    for i in range(len(task.noise)):
        drawn.append(
            pipe(
                **task.text(i),
                latents=scale * task.noise[i : i + 1],
                num_inference_steps=task.steps,
                guidance_scale=task.guidance,
                output_type="latent",
            ).images
        )
    return torch.cat(drawn)


def first_noise_level(pipe: Any, steps: int) -> float:
    """The share of noise in the first latent.

    1 for flow matching. DDIM's first step is not the last training step, and ComfyUI begins with
    the noise of that step; diffusers would begin with a share of 1.
    """
    pipe.scheduler.set_timesteps(steps)
    if not isinstance(pipe.scheduler, DDIMScheduler):
        return 1.0
    first = pipe.scheduler.timesteps[0]
    return float((1 - pipe.scheduler.alphas_cumprod[first]).sqrt())


def decoded(pipe: Any, latents: Tensor) -> list[Image]:
    """The pictures of some latents, by diffusers' VAE."""
    config = pipe.vae.config
    with torch.no_grad():
        found = pipe.vae.decode(latents / config.scaling_factor + (config.shift_factor or 0.0))
    pictures: list[Image] = pipe.image_processor.postprocess(found.sample)
    return pictures
