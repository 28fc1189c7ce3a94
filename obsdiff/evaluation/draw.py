"""Draw pictures with one seed a prompt, and record the final latents; resumable by batches.

Pictures that the denoiser did not draw are marked; see flaws.py.
"""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from PIL.Image import Image
from torch import Tensor

from ..errors import RunStopped
from ..pipelines.load import load_pipeline
from ..pipelines.refusals import refused
from ..pipelines.replaceable import WORK
from ..pipelines.run import replaced
from ..runtime.console import shown
from ..runtime.display import current
from ..runtime.progress import counting
from ..runtime.random_state import noise
from ..runtime.scratch import disk_errors
from .flaws import finite, flaws_of, marked, remove_checkers_
from .inputs import Evaluation
from .stored_batch import read_batch, write_batch

LOADING = "loading"  # the name of a phase


@dataclass
class Drawn:
    """Pictures, and what is known of each."""

    images: list[Image] = field(default_factory=list)  # N
    latents: list[Tensor] = field(default_factory=list)  # (B, C, h, w), as the VAE decodes them
    sound: list[Tensor] = field(default_factory=list)  # (B,) whether the decoded values are finite
    flagged: list[bool] = field(default_factory=list)  # N, or none without a safety checker

    def flaws(self) -> Tensor:
        """Return the Flaw of each picture, (N,) uint8."""
        return flaws_of(torch.cat(self.latents), torch.cat(self.sound), self.flagged)


def draw(
    pipe: Any, prompts: list[str], seeds: list[int], settings: dict[str, Any], batch_size: int = 4
) -> tuple[list[Image], Tensor]:
    """Draw one picture a prompt. Disables the pipeline's progress bar.

    Args:
        pipe: a text-to-image pipeline of diffusers with a VAE.
        prompts: N prompts.
        seeds: N generator seeds.
        settings: further keyword arguments of the call.
        batch_size: prompts of one call.

    Returns:
        N pictures, and the final latents (N, C, h, w), float32 on the CPU, as the VAE decodes them.

    Raises:
        UserError: the pipeline refuses its arguments.
    """
    drawn = draw_checked(pipe, prompts, seeds, settings, batch_size)
    return drawn.images, torch.cat(drawn.latents)


def draw_checked(
    pipe: Any, prompts: list[str], seeds: list[int], settings: dict[str, Any], batch_size: int = 4
) -> Drawn:
    """Draw as `draw` does, and find the pictures that are flawed, which are marked."""
    drawn = Drawn()
    pipe.set_progress_bar_config(disable=True)
    with recorded_latents(pipe, drawn), refused(pipe), torch.no_grad():
        for i in range(0, len(prompts), batch_size):
            generators = [noise(seed) for seed in seeds[i : i + batch_size]]
            output = pipe(prompt=prompts[i : i + batch_size], generator=generators, **settings)
            drawn.images += output.images
            drawn.flagged += getattr(output, "nsfw_content_detected", None) or []
    flaws = drawn.flaws().tolist()
    drawn.images = [
        marked(image) if flaw else image for image, flaw in zip(drawn.images, flaws, strict=True)
    ]
    return drawn


@contextlib.contextmanager
def recorded_latents(pipe: Any, drawn: Drawn) -> Iterator[None]:
    """Record the VAE's inputs (B, C, h, w), and whether its outputs are finite.

    The inputs are the final latents but for the VAE's scale and shift, to which the relative latent
    error is invariant. Outputs that are not finite become 0, which makes a picture in any pipeline.
    """
    decode = pipe.vae.decode

    def recording(z: Tensor, *args: Any, **kwargs: Any) -> Any:
        drawn.latents.append(z.detach().float().cpu())
        output = decode(z, *args, **kwargs)
        decoded = output[0].detach()
        drawn.sound.append(finite(decoded))
        torch.nan_to_num_(decoded, 0.0, 0.0, 0.0)
        return output

    with replaced(pipe.vae, "decode", recording):
        yield


def draw_missing(evaluation: Evaluation, name: str, part: Path) -> list[str]:
    """Draw the batches of a pipeline that are not on disk yet.

    Args:
        evaluation: prompts, seeds and settings.
        name: of the pipeline in `evaluation.folders`.
        part: the folder that the run fills; gets the pictures, and the latents of each batch.

    Returns:
        The paths of all N pictures, relative to `part`.
    """
    paths = image_paths(evaluation, name)
    folder = latents_folder(evaluation, name, part)
    missing, drawn = [], 0
    for i in range(0, len(paths), evaluation.batch_size):
        images = paths[i : i + evaluation.batch_size]
        if read_batch(latents_file(folder, i), part, images):
            drawn += len(images)
        else:
            missing.append(i)
    if missing:
        with current().within(LOADING):
            pipe, _ = load_pipeline(evaluation.folders[name])
            remove_checkers_(pipe)
        current().advance(LOADING)
        with counting(drawing_phase(name), len(paths) - drawn) as advance:
            for i in missing:
                advance(draw_batch(pipe, evaluation, name, i, part))
    else:  # a resumed run has them
        current().complete(drawing_phase(name))
        current().strike(LOADING, 1)
    return paths


def drawing_phase(name: str) -> str:
    """Return the name of the phase in which a pipeline draws."""
    return f"drawing {shown(name)}"


def draw_batch(pipe: Any, evaluation: Evaluation, name: str, first: int, part: Path) -> int:
    """Draw and store the batch that starts at prompt `first`; return its number of prompts.

    Raises:
        RunStopped: its pictures and latents can't be written.
    """
    batch = slice(first, first + evaluation.batch_size)
    prompts = evaluation.prompts[batch]
    drawn = draw_checked(
        pipe, prompts, evaluation.seeds[batch], evaluation.settings, evaluation.batch_size
    )
    file = latents_file(latents_folder(evaluation, name, part), first)
    paths = image_paths(evaluation, name)[batch]
    stored = {"latents": torch.cat(drawn.latents).contiguous(), "flaws": drawn.flaws()}
    with disk_errors(part):
        write_batch(file, stored, drawn.images, part, paths)
    return len(prompts)


def image_paths(evaluation: Evaluation, name: str) -> list[str]:
    """Return the paths of a pipeline's N pictures, relative to the folder of the run."""
    return [f"images/{evaluation.key(name)}/{i:03}.png" for i in range(len(evaluation.prompts))]


def latents_folder(evaluation: Evaluation, name: str, part: Path) -> Path:
    """Return the folder of a pipeline's latents, one file a batch."""
    return part / WORK / "latents" / evaluation.key(name)


def latents_file(folder: Path, first: int) -> Path:
    """Return the latents' file of the batch that starts at prompt `first`."""
    return folder / f"{first:06}.safetensors"


def load_drawn(evaluation: Evaluation, name: str, part: Path) -> tuple[Tensor, Tensor]:
    """Return a pipeline's final latents (N, C, h, w) and the Flaw of each picture (N,).

    Raises:
        RunStopped: a batch was changed during the run.
    """
    folder, paths = latents_folder(evaluation, name, part), image_paths(evaluation, name)
    found = []
    for i in range(0, len(paths), evaluation.batch_size):
        batch = read_batch(latents_file(folder, i), part, paths[i : i + evaluation.batch_size])
        if batch is None:
            raise RunStopped(f"{latents_file(folder, i)}, or a picture of it, changed meanwhile")
        found.append(batch)
    latents, flaws = (torch.cat([batch[key] for batch in found]) for key in ("latents", "flaws"))
    return latents, flaws
