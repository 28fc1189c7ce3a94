"""What a call of a pipeline is given, and the tokens its denoiser reads, from configs alone."""

import inspect
from collections.abc import Callable
from typing import Any, NamedTuple

from ..config import PruningConfig
from ..config.choices import CALL_SETTINGS
from ..errors import UserError
from ..models.call_shapes import family_of, latent_side, pixels_per_latent, tap_tokens, text_tokens
from ..models.structure import Tap
from ..pipelines.folder import Folder
from ..runtime.json_files import read_json
from .guidance import latent_frames, step_passes


class StepTokens(NamedTuple):
    """Tokens of a tap's input from one prompt in one denoising step.

    Attributes:
        each: tokens in one guidance half.
        halves: number of guidance halves.
    """

    each: int
    halves: int


TokensOf = Callable[[Tap], StepTokens | None]  # None if the number is not known


def pipeline_class(folder: Folder) -> Any:
    """Return the pipeline's class; UserError if the installed diffusers has none of its name."""
    import diffusers

    pipeline = getattr(diffusers, folder.pipeline, None)
    if pipeline is None:
        raise UserError(
            f"{folder.path}: the installed diffusers has no pipeline {folder.pipeline!r}"
        )
    return pipeline


def call_defaults(folder: Folder, config: PruningConfig) -> dict[str, Any]:
    """Return steps of calibration, guidance and size: as configured, else the pipeline's defaults.

    Args:
        folder: the model.
        config: the settings of the pruning.

    Returns:
        A value for each of CALL_SETTINGS; None if it is not known.

    Raises:
        UserError: the installed diffusers has no such pipeline.
    """
    pipeline = pipeline_class(folder)
    known = inspect.signature(pipeline.__call__).parameters
    settings: dict[str, Any] = {}
    for name in CALL_SETTINGS:
        default = known[name].default if name in known else None
        own = getattr(config, name)
        settings[name] = (
            own if own is not None else (None if default is inspect.Parameter.empty else default)
        )
    if settings["num_inference_steps"]:
        settings["num_inference_steps"] = config.steps_of(settings["num_inference_steps"])
    side = latent_side(folder.pipeline, folder.config(folder.denoiser(config.component)))
    for name in ("height", "width"):
        if settings[name] is None and side is not None:
            settings[name] = side * pixels_of_latent(folder)
    return settings


def latents_of(folder: Folder, settings: dict[str, Any]) -> tuple[int, int]:
    """Return height and width of the latents."""
    if not settings["height"] or not settings["width"]:
        raise UserError("inspect: the picture's size is not known; pass --height and --width")
    side = pixels_of_latent(folder)
    return settings["height"] // side, settings["width"] // side


def pixels_of_latent(folder: Folder) -> int:
    """Return the number of pixels for each latent along a side."""
    return pixels_per_latent(folder.pipeline, vae_config(folder))


def vae_config(folder: Folder) -> dict[str, Any] | None:
    """Return the config.json of the autoencoder; None if there is none."""
    return folder.config("vae") if "vae" in folder.components else None


def prompt_tokens(folder: Folder) -> int | None:
    """Return the text tokens of one prompt; None if the tokenizer states no limit."""
    file = folder.path / "tokenizer" / "tokenizer_config.json"
    return text_tokens(folder.pipeline, read_json(file) if file.is_file() else None)


def longest_prompt(folder: Folder) -> int | None:
    """Return the text tokens of one prompt, at most; None if they are not known."""
    return prompt_tokens(folder) or family_of(folder.pipeline).longest_text


def frames_of(folder: Folder) -> int | None:
    """Return the frames of latents of a picture or video; None if they are not known."""
    return latent_frames(pipeline_class(folder), vae_config(folder))


def tokens_per_call(folder: Folder, component: str, settings: dict[str, Any]) -> TokensOf:
    """Return the function that counts the tokens of a tap's input.

    Args:
        folder: the model.
        component: the denoiser's name.
        settings: the settings of the pipeline call.

    Returns:
        Tap -> tokens of one prompt in one denoising step; None if the number is not known.
    """
    config, text = folder.config(component), prompt_tokens(folder)
    pipeline = pipeline_class(folder)
    frames = frames_of(folder)
    known = settings["height"] and settings["width"] and frames
    latents = latents_of(folder, settings) if known else None
    passes = step_passes(pipeline, folder, component, settings["guidance_scale"])

    def tokens(tap: Tap) -> StepTokens | None:
        if not latents or not frames:
            return None
        each = tap_tokens(tap, folder.pipeline, config, latents, text, frames)
        return StepTokens(each, passes) if each else None

    return tokens
