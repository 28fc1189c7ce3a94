"""What a run uses: which component, which prompts and seeds, which settings of the pipeline call."""

import inspect
import random
from typing import Any

import torch
from torch import nn

from .config import PruningConfig
from .errors import UserError
from .folder import DENOISERS
from .running import Prompt


def denoiser_name(pipe: Any, component: str | None) -> str:
    """Name of the pipeline component to prune: `component`, or transformer, or unet."""
    present = [name for name, part in pipe.components.items() if isinstance(part, nn.Module)]
    if component is not None:
        if component not in present:
            raise UserError(f"component: this {type(pipe).__name__} has {', '.join(present)}; found {component!r}")
        return component
    for name in DENOISERS:
        if name in present:
            return name
    raise UserError(f"{type(pipe).__name__} has no denoiser: expected a component named {' or '.join(DENOISERS)}, found {', '.join(present) or 'none'}")


def usable_device(name: str, value: str) -> torch.device:
    """The torch device of a setting; UserError if there is no such device here."""
    try:
        device = torch.device(value)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"{name}: torch can't use {value!r} here: {str(error).splitlines()[0]}") from None
    return device


def check_devices(config: PruningConfig) -> None:
    """UserError for a device setting that torch can't use here."""
    for field in ("device", "offload_device"):
        if getattr(config, field):
            usable_device(field, getattr(config, field))


def choose_prompts(prompts: list[Prompt], config: PruningConfig) -> tuple[list[Prompt], list[int]]:
    """config.num_prompts prompts, sampled with config.seed (all of them if there are no more), and the noise seed of each."""
    kinds = {type(p) for p in prompts}
    if not prompts or not kinds <= {str, dict} or len(kinds) > 1:
        raise UserError(f"prompts: expected a list of strings, or of dicts with pipeline arguments; found {'an empty list' if not prompts else prompts[0]!r}")
    if len(prompts) > config.num_prompts:
        prompts = random.Random(config.seed).sample(prompts, config.num_prompts)
    return prompts, [config.seed + i for i in range(len(prompts))]


def call_settings(pipe: Any, config: PruningConfig) -> dict[str, Any]:
    """Keyword arguments for the pipeline's call: those that were given; what is left out is the pipeline's own default."""
    known = inspect.signature(pipe.__call__).parameters
    given = {name: getattr(config, name) for name in ("num_inference_steps", "guidance_scale", "height", "width")}
    given = {name: value for name, value in given.items() if value is not None}
    for name in given:
        if name not in known:
            raise UserError(f"{name}: {type(pipe).__name__} takes no such setting; leave it out")
    return given
