"""Arguments of a pipeline's call: component, scheduler, device, prompts, seeds, settings."""

import inspect
import random
import warnings
from collections.abc import Iterable
from typing import Any

import torch
from diffusers import DiffusionPipeline
from torch import nn

from ..config import PruningConfig
from ..config.choices import CALL_SETTINGS
from ..errors import CalibrationWarning, UserError
from ..runtime.machine import machine
from .denoisers import DENOISERS, other_denoisers
from .prompt_records import described_prompts

Prompt = str | dict[str, Any]  # text, or arguments of the pipeline's call
ARGUMENTS_SHOWN = 12  # of a pipeline's call, in an error message
VALUE_SHOWN = 60  # characters of a wrong prompt, in an error message


def modules_of(pipe: Any) -> list[str]:
    """Return the names of the components that have weights."""
    return [name for name, part in pipe.components.items() if isinstance(part, nn.Module)]


def denoiser_name(pipe: Any, component: str | None) -> str:
    """Return the name of the component to prune.

    Args:
        pipe: a diffusers pipeline.
        component: a component's name; None selects the first of DENOISERS that is present.

    Raises:
        UserError: the pipeline has no such component, no denoiser, or consists of pipelines.
    """
    inner = [
        type(part).__name__ for part in vars(pipe).values() if isinstance(part, DiffusionPipeline)
    ]
    if inner:
        raise UserError(
            f"{type(pipe).__name__} runs other pipelines, {' and '.join(inner)}: "
            "expected a single one; prune each of them by itself"
        )
    present = modules_of(pipe)
    if component is not None:
        if component not in present:
            raise UserError(
                f"component: this {type(pipe).__name__} has {', '.join(present)}; "
                f"found {component!r}"
            )
        return component
    for name in DENOISERS:
        if name in present:
            return name
    raise UserError(
        f"{type(pipe).__name__} has no denoiser: expected a component named "
        f"{' or '.join(DENOISERS)}, found {', '.join(present) or 'none'}"
    )


def denoisers_besides(pipe: Any, component: str) -> list[str]:
    """Return the names of the pipeline's other denoisers.

    Args:
        pipe: a diffusers pipeline.
        component: the denoiser that is pruned.
    """
    return other_denoisers(modules_of(pipe), component)


def scheduler_name(pipe: Any, component: str) -> str:
    """Return the name of the scheduler whose steps call the component.

    Args:
        pipe: a diffusers pipeline.
        component: name of the denoiser; prior is stepped by prior_scheduler if there is one.

    Raises:
        UserError: the pipeline has neither that scheduler nor one named scheduler.
    """
    own = f"{component}_scheduler"
    name = own if own in pipe.components else "scheduler"
    if name not in pipe.components:
        raise UserError(
            f"{type(pipe).__name__} has no scheduler that steps {component}: "
            f"expected scheduler or {own}"
        )
    return name


def usable_device(name: str, value: str) -> torch.device:
    """Return the torch device of a setting.

    Args:
        name: the setting, for the message.
        value: a device such as cpu or cuda:1.

    Raises:
        UserError: torch can't allocate on the device.
    """
    try:
        device = torch.device(value)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise UserError(
            f"{name}: torch can't use {value!r} here: {str(error).splitlines()[0]}"
        ) from None
    return device


def execution_device(pipe: Any) -> torch.device:
    """Return the device that a pipeline computes on; offloaded weights rest elsewhere."""
    return getattr(pipe, "_execution_device", None) or pipe.device


def machine_of(pipe: Any, component: str, device: str | None = None) -> dict[str, str]:
    """Describe what the denoiser of a pipeline computes on; see `machine`.

    Args:
        pipe: a diffusers pipeline.
        component: name of the denoiser.
        device: the device that it will be moved to; None for its own.
    """
    where = torch.device(device) if device else execution_device(pipe)
    return machine(where, getattr(pipe, component).dtype)


def check_devices(config: PruningConfig) -> None:
    """Check `device` and `offload_device`; UserError for one that torch can't use."""
    for field in ("device", "offload_device"):
        if getattr(config, field):
            usable_device(field, getattr(config, field))


def choose_prompts(
    prompts: Iterable[Prompt], config: PruningConfig
) -> tuple[list[Prompt], list[int]]:
    """Sample the calibration prompts.

    Args:
        prompts: texts, or dicts with arguments of the pipeline's call.
        config: `num_prompts` are sampled with `seed`; all are used if there are no more.

    Returns:
        The prompts, and the noise seed of each.

    Raises:
        UserError: `prompts` is empty or no list of texts or of dicts.
    """
    if isinstance(prompts, str | dict) or not isinstance(prompts, Iterable):
        raise UserError(
            "prompts: expected a list of strings, or of dicts with pipeline arguments; "
            f"found {type(prompts).__name__}"
        )
    prompts = plain_prompts(prompts)
    if len(prompts) > config.num_prompts:
        prompts = random.Random(config.seed).sample(prompts, config.num_prompts)
    return prompts, [config.seed + i for i in range(len(prompts))]


def plain_prompts(prompts: Iterable[Any]) -> list[Prompt]:
    """Return prompts as plain strings, or as plain dicts; those of numpy are strings, too.

    Raises:
        UserError: there are none, or one is of another type; the message names the first such.
    """
    expected = "prompts: expected a list of strings, or of dicts with pipeline arguments"
    try:
        found = list(prompts)
    except TypeError as error:
        raise UserError(f"{expected}; found {type(prompts).__name__}: {error}") from None
    if not found:
        raise UserError(f"{expected}; found an empty list")
    kind = dict if isinstance(found[0], dict) else str
    for i, prompt in enumerate(found):
        if not isinstance(prompt, kind):
            others = "" if i == 0 else f", where those before it are {kind.__name__}"
            value = repr(prompt)
            value = value if len(value) <= VALUE_SHOWN else value[:VALUE_SHOWN] + "..."
            raise UserError(f"{expected}; found {value} as prompts[{i}]{others}")
    return [kind(prompt) for prompt in found]


def check_prompts(pipe: Any, prompts: list[Prompt]) -> None:
    """Check that the pipeline's call accepts the prompts, and that a record can describe them.

    Warns of arguments that the call accepts without naming them.

    Args:
        pipe: a diffusers pipeline.
        prompts: at least one text or dict of arguments.

    Raises:
        UserError: an unknown argument, a value of an unsupported type, or text without an encoder.
    """
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
            what = f"has no argument {key!r}" if isinstance(prompts[0], dict) else "accepts no text"
            raise UserError(
                f"prompts: {name} {what}; pass dicts, from Python, with arguments of its call: "
                f"{', '.join(list(known)[:ARGUMENTS_SHOWN])} ..."
            )
        if key not in known:
            warnings.warn(
                f"prompts: {name} names no argument {key!r} and may ignore it",
                CalibrationWarning,
                stacklevel=3,
            )
        if key == "prompt" and (absent := absent_encoders(pipe)) and not has_encoder(pipe):
            raise UserError(
                f"prompts: this {name} has no {' and no '.join(absent)}, so it reads no text; "
                "pass dicts, from Python, with prompt_embeds"
            )


def call_settings(pipe: Any, config: PruningConfig) -> dict[str, Any]:
    """Return the settings that are arguments of the pipeline's call.

    Args:
        pipe: a diffusers pipeline.
        config: settings that are None are omitted; the pipeline's defaults apply to them.

    Raises:
        UserError: a setting that was given is no argument of the call.
    """
    known = inspect.signature(pipe.__call__).parameters
    given = {name: getattr(config, name) for name in CALL_SETTINGS}
    given = {name: value for name, value in given.items() if value is not None}
    for name in given:
        if name not in known:
            raise UserError(f"{name}: {type(pipe).__name__} has no such setting; leave it out")
    return given | shared_steps(pipe, config)


def shared_steps(pipe: Any, config: PruningConfig) -> dict[str, int]:
    """Return the number of denoising steps where `step_share` shortens the schedule, else {}.

    Raises:
        UserError: the number of steps that it is a share of is not known.
    """
    if config.step_share == 1:
        return {}
    steps = config.num_inference_steps
    if steps is None:
        argument = inspect.signature(pipe.__call__).parameters.get("num_inference_steps")
        steps = argument.default if argument else None
    if not isinstance(steps, int):
        raise UserError(
            f"step_share: {type(pipe).__name__} has no number of steps of its own to take a share "
            "of; pass num_inference_steps, or step_share 1"
        )
    return {"num_inference_steps": config.steps_of(steps)}


def absent_encoders(pipe: Any) -> list[str]:
    """Return the names of the text encoders that the pipeline declares and lacks."""
    return [
        name
        for name, part in pipe.components.items()
        if name.startswith("text_encoder") and part is None
    ]


def has_encoder(pipe: Any) -> bool:
    """Return whether the pipeline has a text encoder."""
    return any(
        name.startswith("text_encoder") and part is not None
        for name, part in pipe.components.items()
    )


def arguments_of(prompts: list[Prompt]) -> dict[str, Any]:
    """Return the keyword arguments of one call.

    Args:
        prompts: a batch of texts, or a single dict of arguments.
    """
    if len(prompts) == 1 and isinstance(prompts[0], dict):
        return dict(prompts[0])
    return {"prompt": list(prompts)}
