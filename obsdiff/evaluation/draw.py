"""Draw pictures with a pipeline, a seed for each prompt, and keep the final latents."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from PIL.Image import Image

from ..pipelines.run import refused, replaced


def draw(
    pipe: Any, prompts: list[str], seeds: list[int], settings: dict[str, Any], batch_size: int = 4
) -> tuple[list[Image], torch.Tensor]:
    """Pictures, and the final latents (N, C, h, w) as the VAE got them, a seed for each prompt. The pipeline's progress bar is
    switched off."""
    images: list[Image] = []
    latents: list[torch.Tensor] = []
    pipe.set_progress_bar_config(disable=True)
    with recorded_latents(pipe, latents), refused(pipe), torch.no_grad():
        for i in range(0, len(prompts), batch_size):
            generators = [
                torch.Generator(pipe.device).manual_seed(s) for s in seeds[i : i + batch_size]
            ]
            images += pipe(
                prompt=prompts[i : i + batch_size], generator=generators, **settings
            ).images
    return images, torch.cat(latents)


@contextlib.contextmanager
def recorded_latents(pipe: Any, latents: list[torch.Tensor]) -> Iterator[None]:
    """Keep what goes into the VAE: the final latents, up to the VAE's scale and shift, which the relative error does not see."""
    decode = pipe.vae.decode

    def recording(z: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        latents.append(z.detach().float().cpu())
        return decode(z, *args, **kwargs)

    with replaced(pipe.vae, "decode", recording):
        yield


def save_images(images: list[Image], folder: Path, paths: list[str]) -> None:
    """Write pictures to their paths below `folder`."""
    for image, path in zip(images, paths, strict=True):
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        image.save(folder / path)
