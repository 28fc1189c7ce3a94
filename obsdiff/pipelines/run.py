"""Run a diffusers pipeline for its latents, the way a user would call it, and leave it as it was.

Text is encoded once for each batch and remembered; the VAE never decodes; the scheduler is a copy, so that the user's
keeps its state; progress bars, module modes and random state come back as they were, whatever happens.
"""

import contextlib
import copy
import inspect
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from diffusers import SchedulerMixin
from torch.utils.hooks import RemovableHandle

from ..errors import UserError
from .call import Prompt, absent_encoders, arguments_of


def denoiser_call(
    pipe: Any, denoiser: torch.nn.Module, prompt: Prompt, settings: dict[str, Any]
) -> dict[str, Any]:
    """The keyword arguments of the denoiser's first call when the pipeline draws one picture."""
    found: list[dict[str, Any]] = []

    class Enough(Exception):
        pass

    def hook(module: torch.nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
        names = inspect.signature(module.forward).parameters
        found.append(dict(zip(names, args, strict=False)) | kwargs)
        raise Enough

    handle = denoiser.register_forward_pre_hook(hook, with_kwargs=True)
    try:
        with contextlib.suppress(Enough), refused(pipe), torch.no_grad():
            pipe(
                **settings | arguments_of([prompt]),
                generator=torch.Generator(pipe.device).manual_seed(0),
            )
    finally:
        handle.remove()
    if not found:
        raise UserError(
            f"{type(pipe).__name__} draws without calling this {type(denoiser).__name__}: expected its denoiser; see --component"
        )
    return found[0]


@dataclass
class Run:
    """A pipeline made ready to give latents. `step` is the number of completed steps of its scheduler (the component of that
    name) in the current call, `prompts` the number of prompts in it."""

    pipe: Any
    scheduler: str = "scheduler"
    step: int = 0
    prompts: int = 0
    memory: dict[str, Any] = field(default_factory=dict)
    recorded_steps: int | None = (
        None  # T of a recording that is replayed: the scheduler may never have run here
    )

    @property
    def steps(self) -> int:
        """T: the number of time steps of the schedule (2T - 1 denoiser calls for Heun, T + 1 for PNDM, count too)."""
        return self.recorded_steps or len(getattr(self.pipe, self.scheduler).timesteps)

    def latents(
        self, prompts: list[Prompt], seeds: list[int], settings: dict[str, Any]
    ) -> torch.Tensor:
        """Final latents of one batch, through the pipeline's own __call__, a seed for each prompt. UserError if the pipeline refuses its arguments."""
        self.step, self.prompts = 0, len(prompts)
        device = getattr(self.pipe, "_execution_device", None) or self.pipe.device
        generators = [torch.Generator(device).manual_seed(seed) for seed in seeds]
        one_for_all = isinstance(
            prompts[0], dict
        )  # the call of a dict may draw several pictures, from its one seed
        arguments = (
            settings
            | arguments_of(prompts)
            | {"generator": generators[0] if one_for_all else generators}
        )
        output = inspect.signature(self.pipe.__call__).parameters.get("output_type")
        if output and output.default != "pt":  # a prior gives tensors by itself
            arguments["output_type"] = "latent"
        with refused(self.pipe, lambda: self.step == 0), torch.no_grad():
            out = self.pipe(**arguments, return_dict=False)
        if self.step != self.steps:
            raise RuntimeError(
                f"the scheduler completed {self.step} steps of {self.steps}: its steps could not be followed"
            )
        return out[0] if isinstance(out, tuple) else out


@contextlib.contextmanager
def refused(pipe: Any, at_the_door: Callable[[], bool] = lambda: True) -> Iterator[None]:
    """What a pipeline refuses before its first step, where it checks its arguments, becomes a UserError; so does its stumbling
    over a text encoder that is not there."""
    try:
        yield
    except (ValueError, TypeError, AttributeError) as error:
        absent = absent_encoders(pipe)
        if (
            not at_the_door()
            or isinstance(error, UserError)
            or (isinstance(error, AttributeError) and not absent)
        ):
            raise
        without = f" (it has no {' and no '.join(absent)})" if absent else ""
        raise UserError(
            f"{type(pipe).__name__} does not take these prompts and settings{without}: {' '.join(str(error).split())}"
        ) from error


@contextlib.contextmanager
def prepared(pipe: Any, scheduler_name: str = "scheduler") -> Iterator[Run]:
    """A Run of the pipeline that follows one scheduler; on the way out everything is restored."""
    run = Run(pipe, scheduler_name)
    schedulers = {
        name: part
        for name, part in pipe.components.items()
        if isinstance(part, SchedulerMixin) or name == scheduler_name
    }
    bar = dict(getattr(pipe, "_progress_bar_config", {}))
    modules = [
        m for c in pipe.components.values() if isinstance(c, torch.nn.Module) for m in c.modules()
    ]
    modes = [m.training for m in modules]
    with contextlib.ExitStack() as undo:
        undo.enter_context(torch.random.fork_rng(devices=range(torch.cuda.device_count())))
        undo.callback(restore, pipe, schedulers, bar, modules, modes)
        for module in modules:
            module.training = False
        pipe.set_progress_bar_config(disable=True)
        for name, scheduler in schedulers.items():
            setattr(pipe, name, copy.deepcopy(scheduler))
        follow_steps(getattr(pipe, scheduler_name), run)
        undo.enter_context(remember_text(pipe, run.memory))
        undo.enter_context(no_decoding(pipe))
        yield run


def restore(pipe: Any, schedulers: dict, bar: dict, modules: list, modes: list[bool]) -> None:
    for name, scheduler in schedulers.items():
        setattr(pipe, name, scheduler)
    pipe.set_progress_bar_config(**bar)
    for module, mode in zip(modules, modes, strict=True):
        module.training = mode


def follow_steps(scheduler: Any, run: Run) -> None:
    """Count the scheduler's completed steps on the run."""
    step = scheduler.step

    def counted(*args: Any, **kwargs: Any) -> Any:
        out = step(*args, **kwargs)
        run.step += 1
        return out

    scheduler.step = counted


@contextlib.contextmanager
def remember_text(pipe: Any, memory: dict[str, Any]) -> Iterator[None]:
    """Encode each batch of prompts once: encode_prompt answers from memory when it is asked the same again."""
    encode = getattr(pipe, "encode_prompt", None)
    if encode is None:
        yield
        return

    def remembered(*args: Any, **kwargs: Any) -> Any:
        key = repr((args, sorted(kwargs.items())))
        if any(isinstance(v, torch.Tensor) for v in (*args, *kwargs.values())):
            return encode(*args, **kwargs)  # the key would not hold all of a tensor
        if key not in memory:
            memory[key] = encode(*args, **kwargs)
        return memory[key]

    with replaced(pipe, "encode_prompt", remembered):
        yield


@contextlib.contextmanager
def no_decoding(pipe: Any) -> Iterator[None]:
    """Where a pipeline has no latent output, its VAE's decode gives the latents back as the picture."""
    vae = getattr(pipe, "vae", None)
    if vae is None or "output_type" in inspect.signature(pipe.__call__).parameters:
        yield
        return

    def undecoded(
        latents: torch.Tensor, *args: Any, return_dict: bool = True, **kwargs: Any
    ) -> Any:
        from diffusers.models.autoencoders.vae import DecoderOutput

        return DecoderOutput(sample=latents) if return_dict else (latents,)

    with replaced(vae, "decode", undecoded):
        yield


@contextlib.contextmanager
def hooked(handles: Iterable[RemovableHandle]) -> Iterator[None]:
    """Hooks for a while; `handles` registers them, one after the other."""
    with contextlib.ExitStack() as undo:
        for handle in handles:
            undo.enter_context(handle)
        yield


@contextlib.contextmanager
def replaced(thing: Any, name: str, function: Callable) -> Iterator[None]:
    """thing.name is the function, on the instance, for a while."""
    own = vars(thing).get(name)
    vars(thing)[name] = function
    try:
        yield
    finally:
        if own is None:
            vars(thing).pop(name, None)
        else:
            vars(thing)[name] = own
