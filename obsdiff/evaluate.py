"""The same prompts and seeds through the dense and the pruned pipeline: pictures, latents, results.json."""

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from PIL.Image import Image

from .metrics import relative_latent_error
from .record import PruningReport, versions
from .running import replaced

SCHEMA = 1
RESULTS = "results.json"


def draw(pipe: Any, prompts: list[str], seeds: list[int], settings: dict[str, Any], batch_size: int = 4) -> tuple[list[Image], torch.Tensor]:
    """Pictures, and the final latents (N, C, h, w) as the VAE got them, a seed for each prompt. The pipeline's progress bar is
    switched off."""
    images: list[Image] = []
    latents: list[torch.Tensor] = []
    pipe.set_progress_bar_config(disable=True)
    with recorded_latents(pipe, latents), torch.no_grad():
        for i in range(0, len(prompts), batch_size):
            generators = [torch.Generator(pipe.device).manual_seed(s) for s in seeds[i : i + batch_size]]
            images += pipe(prompt=prompts[i : i + batch_size], generator=generators, **settings).images
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


def save_images(images: list[Image], folder: Path, name: str) -> list[str]:
    """Write pictures as PNG below `folder`; their paths relative to it."""
    (folder / name).mkdir(parents=True, exist_ok=True)
    paths = [f"{name}/{i:03}.png" for i in range(len(images))]
    for image, path in zip(images, paths, strict=True):
        image.save(folder / path)
    return paths


def run_entry(
    name: str, path: str, report: PruningReport, cost: dict[str, Any], pruned: torch.Tensor, dense: torch.Tensor, images: list[str]
) -> dict[str, Any]:
    """One element of `runs` in results.json."""
    record = report.to_dict()
    return {
        "name": name,
        "path": path,
        "config": record["config"],
        "cost": cost | {"seconds": record["seconds"]},
        "metrics": {"relative_latent_error": relative_latent_error(pruned, dense)},
        "layers": record["layers"],
        "images": images,
    }


def write_results(
    folder: Path, dense: str, dense_images: list[str], dense_cost: dict[str, Any], runs: list[dict], prompts: list[str], seeds: list[int], settings: dict
) -> None:
    """results.json, schema 1. Image paths are relative to the folder."""
    results = {
        "schema": SCHEMA,
        "dense": dense,
        "dense_images": dense_images,
        "dense_cost": dense_cost,
        "runs": runs,
        "prompts": prompts,
        "seeds": seeds,
        "settings": settings,
        "versions": versions(),
    }
    (folder / RESULTS).write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


def cost_on_disk(folder: Path, component: str) -> dict[str, int]:
    """Parameters and zeros of a saved component, and bytes of its weights on disk."""
    from safetensors.torch import load_file

    files = sorted((folder / component).glob("*.safetensors"))
    parameters = zeros = 0
    for file in files:
        for tensor in load_file(file).values():
            parameters += tensor.numel()
            zeros += int((tensor == 0).sum())
    return {"parameters": parameters, "zeros": zeros, "bytes_on_disk": sum(f.stat().st_size for f in files)}
