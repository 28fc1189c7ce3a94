"""What a run uses: which component, which prompts and seeds, which settings of the pipeline call."""

import inspect
import random
import warnings
from collections.abc import Iterable
from typing import Any

import torch
from diffusers import DiffusionPipeline
from torch import nn

from ..config import PruningConfig
from ..errors import CalibrationWarning, UserError
from .denoisers import DENOISERS, other_denoisers
from .prompt_records import described_prompts

Prompt = str | dict[str, Any]


def denoiser_name(pipe: Any, component: str | None) -> str:
    """Name of the pipeline component to prune: `component`, or the first of DENOISERS that is there."""
    inner = [
        type(part).__name__ for part in vars(pipe).values() if isinstance(part, DiffusionPipeline)
    ]
    if inner:
        raise UserError(
            f"{type(pipe).__name__} runs other pipelines, {' and '.join(inner)}: expected a single one; prune each of them by itself"
        )
    present = [name for name, part in pipe.components.items() if isinstance(part, nn.Module)]
    if component is not None:
        if component not in present:
            raise UserError(
                f"component: this {type(pipe).__name__} has {', '.join(present)}; found {component!r}"
            )
        return component
    for name in DENOISERS:
        if name in present:
            return name
    raise UserError(
        f"{type(pipe).__name__} has no denoiser: expected a component named {' or '.join(DENOISERS)}, found {', '.join(present) or 'none'}"
    )


def denoisers_besides(pipe: Any, component: str) -> list[str]:
    """Names of the pipeline's other denoisers."""
    return other_denoisers(
        [name for name, part in pipe.components.items() if isinstance(part, nn.Module)], component
    )


def scheduler_name(pipe: Any, component: str) -> str:
    """The scheduler whose steps the component runs in: its own where the pipeline has one, such as prior_scheduler."""
    own = f"{component}_scheduler"
    name = own if own in pipe.components else "scheduler"
    if name not in pipe.components:
        raise UserError(
            f"{type(pipe).__name__} has no scheduler whose steps {component} could be followed in: expected scheduler or {own}"
        )
    return name


def usable_device(name: str, value: str) -> torch.device:
    """The torch device of a setting; UserError if there is no such device here."""
    try:
        device = torch.device(value)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise UserError(
            f"{name}: torch can't use {value!r} here: {str(error).splitlines()[0]}"
        ) from None
    return device


def check_devices(config: PruningConfig) -> None:
    """UserError for a device setting that torch can't use here."""
    for field in ("device", "offload_device"):
        if getattr(config, field):
            usable_device(field, getattr(config, field))


def choose_prompts(
    prompts: Iterable[Prompt], config: PruningConfig
) -> tuple[list[Prompt], list[int]]:
    """config.num_prompts prompts, sampled with config.seed (all of them if there are no more), and the noise seed of each."""
    if isinstance(prompts, str | dict) or not isinstance(prompts, Iterable):
        raise UserError(
            f"prompts: expected a list of strings, or of dicts with pipeline arguments; found {type(prompts).__name__}"
        )
    prompts = list(prompts)
    kinds = {type(p) for p in prompts}
    if not prompts or not kinds <= {str, dict} or len(kinds) > 1:
        raise UserError(
            f"prompts: expected a list of strings, or of dicts with pipeline arguments; found {'an empty list' if not prompts else prompts[0]!r}"
        )
    if len(prompts) > config.num_prompts:
        prompts = random.Random(config.seed).sample(prompts, config.num_prompts)
    return prompts, [config.seed + i for i in range(len(prompts))]


def check_prompts(pipe: Any, prompts: list[Prompt]) -> None:
    """UserError for arguments that the pipeline's call does not have or that a record can't hold, and for text that the pipeline has no encoder for."""
    described_prompts(prompts)
    name = type(pipe).__name__
    known = {
        key: p for key, p in inspect.signature(pipe.__call__).parameters.items() if key != "self"
    }
    takes_more = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in known.values())
    for key in dict.fromkeys(
        key for prompt in prompts for key in (prompt if isinstance(prompt, dict) else ("prompt",))
    ):
        if key not in known and not takes_more:
            what = f"takes no {key!r}" if isinstance(prompts[0], dict) else "takes no text"
            raise UserError(
                f"prompts: {name} {what}; give dicts, from Python, with arguments of its call: {', '.join(list(known)[:12])} ..."
            )
        if key not in known:
            warnings.warn(
                f"prompts: {name} names no argument {key!r}; it may leave it out of account",
                CalibrationWarning,
                stacklevel=3,
            )
        if key == "prompt" and (absent := absent_encoders(pipe)) and not has_encoder(pipe):
            raise UserError(
                f"prompts: this {name} has no {' and no '.join(absent)}, so it reads no text; give dicts, from Python, with prompt_embeds"
            )


def call_settings(pipe: Any, config: PruningConfig) -> dict[str, Any]:
    """Keyword arguments for the pipeline's call: those that were given; what is left out is the pipeline's own default."""
    known = inspect.signature(pipe.__call__).parameters
    given = {
        name: getattr(config, name)
        for name in ("num_inference_steps", "guidance_scale", "height", "width")
    }
    given = {name: value for name, value in given.items() if value is not None}
    for name in given:
        if name not in known:
            raise UserError(f"{name}: {type(pipe).__name__} takes no such setting; leave it out")
    return given


def absent_encoders(pipe: Any) -> list[str]:
    """Text encoders that the pipeline could have and does not."""
    return [
        name
        for name, part in pipe.components.items()
        if name.startswith("text_encoder") and part is None
    ]


def has_encoder(pipe: Any) -> bool:
    return any(
        name.startswith("text_encoder") and part is not None
        for name, part in pipe.components.items()
    )


def arguments_of(prompts: list[Prompt]) -> dict[str, Any]:
    """The keyword arguments of one call: prompts as strings, or the one dict of arguments."""
    if len(prompts) == 1 and isinstance(prompts[0], dict):
        return dict(prompts[0])
    return {"prompt": list(prompts)}
