"""Run a diffusers pipeline for its latents, through its own call, and restore it afterwards.

Each batch of text is encoded once and cached; the VAE never decodes; the scheduler is a copy, so
that the original keeps its state. Progress bars, modes of modules and the random state are
restored, also after an error.
"""

import contextlib
import copy
import functools
import inspect
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from diffusers import SchedulerMixin
from torch.utils.hooks import RemovableHandle

from ..errors import RunFailed, UserError
from ..runtime.random_state import noise, random_state_kept
from .call import Prompt, arguments_of
from .errors_below import one_line_errors
from .part_of_schedule import runs_in_part, schedule_of, uncomputed
from .refusals import refused


def denoiser_call(
    pipe: Any, denoiser: torch.nn.Module, prompt: Prompt, settings: dict[str, Any]
) -> dict[str, Any]:
    """Return the arguments of the denoiser's first call when the pipeline draws one picture.

    Args:
        pipe: a diffusers pipeline.
        denoiser: the module whose call is captured; the pipeline is stopped there.
        prompt: a text, or a dict of arguments.
        settings: arguments of the pipeline's call.

    Returns:
        The keyword arguments, with positional ones by their names.

    Raises:
        UserError: the pipeline refuses its arguments, or never calls the denoiser.
    """
    found: list[dict[str, Any]] = []

    class StopPipeline(Exception):
        pass

    def hook(module: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        names = inspect.signature(module.forward).parameters
        found.append(dict(zip(names, args, strict=False)) | kwargs)
        raise StopPipeline

    handle = denoiser.register_forward_pre_hook(hook, with_kwargs=True)
    with (
        hooked([handle]),
        contextlib.suppress(StopPipeline),
        one_line_errors(pipe, StopPipeline),
        refused(pipe),
        torch.no_grad(),
    ):
        pipe(**settings | arguments_of([prompt]), generator=noise(0))
    if not found:
        raise UserError(
            f"{type(pipe).__name__} draws without calling this {type(denoiser).__name__}: "
            "expected its denoiser; see --component"
        )
    return found[0]


@dataclass
class Run:
    """A prepared pipeline and the position of its current call.

    The position is set by `latents`, or by a replay: `recorded` sets the number of steps, `at_call`
    the position of the call that is replayed.

    Attributes:
        pipe: the pipeline.
        scheduler: name of the scheduler whose steps are counted.
        step: number of completed steps, 0 ... T.
        prompts: number of prompts in the batch.
        seeds: the noise seed of each of them.
        memory: encoded text by the arguments of encode_prompt.
        recorded_steps: T of the recording that is replayed; None outside a replay.
        batch: number of pipeline calls so far.
        counted: T of schedules of which a part runs, by their arguments.
        part: T of the current call if a part of its schedule runs, else None.
        draw: calls the pipeline for `latents`, with the arguments of `call` (None: `call`).
    """

    pipe: Any
    scheduler: str = "scheduler"
    step: int = 0
    prompts: int = 0
    seeds: tuple[int, ...] = ()
    memory: dict[str, Any] = field(default_factory=dict)
    recorded_steps: int | None = None
    batch: int = 0
    counted: dict[str, int] = field(default_factory=dict)
    part: int | None = None
    draw: Callable[[dict[str, Any], list[Prompt], list[int]], Any] | None = None

    @property
    def steps(self) -> int:
        """T, the number of time steps that run, or of the recording in a replay.

        The denoiser may be called more often: 2T - 1 times for Heun, T + 1 times for PNDM.
        """
        return self.recorded_steps or self.part or len(getattr(self.pipe, self.scheduler).timesteps)

    def at_call(
        self,
        step: int,
        prompts: int,
        batch: int = 0,
        steps: int | None = None,
        seeds: Sequence[int] = (),
    ) -> None:
        """Set the position to a recorded call of the denoiser.

        Args:
            step: number of completed steps before the call.
            prompts: number of prompts in its batch.
            batch: the number of its batch.
            steps: T of its batch, if it differs from that of the recording.
            seeds: the noise seed of each prompt.
        """
        self.step, self.prompts, self.batch, self.seeds = step, prompts, batch, tuple(seeds)
        self.recorded_steps = steps or self.recorded_steps

    @contextlib.contextmanager
    def recorded(self, steps: int) -> Iterator[None]:
        """Replay a recording inside: T is that of the recording, not that of the scheduler.

        Args:
            steps: T of the recording.
        """
        self.recorded_steps = steps
        try:
            yield
        finally:
            self.recorded_steps = None

    def latents(
        self, prompts: list[Prompt], seeds: list[int], settings: dict[str, Any]
    ) -> torch.Tensor:
        """Draw one batch through the pipeline's own call and return the final latents.

        Args:
            prompts: a batch of texts, or a single dict of arguments.
            seeds: the noise seed of each prompt.
            settings: arguments of the pipeline's call.

        Returns:
            Latents (B, ...). A dict may draw several pictures, all from its one seed.

        Raises:
            UserError: the pipeline refuses its arguments.
            RunFailed: the scheduler's steps could not be counted, or the pipeline raised an error.
        """
        self.at_call(0, len(prompts), self.batch + 1, seeds=seeds)
        arguments = settings | arguments_of(prompts)
        output = inspect.signature(self.pipe.__call__).parameters.get("output_type")
        if output and output.default != "pt":  # the default of priors, which return tensors
            arguments["output_type"] = "latent"
        self.part = self.counted_part(arguments, prompts, seeds)
        out = (self.draw or self.call)(arguments, prompts, seeds)
        if self.step != self.steps:
            raise RunFailed(
                f"{type(self.pipe).__name__}: counted {self.step} steps of its scheduler, expected "
                f"{self.steps}: its steps can't be followed; set num_inference_steps, and no "
                "argument that leaves steps out"
            )
        return out[0] if isinstance(out, tuple) else out

    def call(self, arguments: dict[str, Any], prompts: list[Prompt], seeds: list[int]) -> Any:
        """Call the pipeline with a generator for each seed, without gradients."""
        source = self.noise_source(prompts, seeds)
        with (
            one_line_errors(self.pipe),
            refused(self.pipe, lambda: self.step == 0),
            torch.no_grad(),
        ):
            return self.pipe(**arguments | {"generator": source}, return_dict=False)

    def noise_source(
        self, prompts: list[Prompt], seeds: list[int]
    ) -> torch.Generator | list[torch.Generator]:
        """Return a generator for each seed, or for a dict of arguments a single one."""
        generators = [noise(seed) for seed in seeds]
        return generators[0] if isinstance(prompts[0], dict) else generators

    def counted_part(
        self, arguments: dict[str, Any], prompts: list[Prompt], seeds: list[int]
    ) -> int | None:
        """Return T if a part of the schedule may run, else None; counted once for each schedule.

        Raises:
            UserError: no step runs.
        """
        if not runs_in_part(self.pipe, arguments):
            return None
        schedule = schedule_of(arguments)
        if schedule not in self.counted:
            with uncomputed(self.pipe):
                self.call(arguments, prompts, seeds)
            self.counted[schedule], self.step = self.step, 0
        if not self.counted[schedule]:
            raise UserError(
                f"{type(self.pipe).__name__} runs no step with these prompts and settings: raise "
                "strength, or num_inference_steps"
            )
        return self.counted[schedule]


@contextlib.contextmanager
def prepared(pipe: Any, scheduler_name: str = "scheduler") -> Iterator[Run]:
    """Prepare a pipeline for its latents, and restore it at the end.

    Args:
        pipe: a diffusers pipeline.
        scheduler_name: name of the scheduler whose steps are counted.

    Yields:
        The run.
    """
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
        undo.enter_context(random_state_kept())
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


def restore(
    pipe: Any,
    schedulers: dict[str, Any],
    bar: dict[str, Any],
    modules: list[torch.nn.Module],
    modes: list[bool],
) -> None:
    """Restore schedulers, progress bar and modes of modules, in place."""
    for name, scheduler in schedulers.items():
        setattr(pipe, name, scheduler)
    pipe.set_progress_bar_config(**bar)
    for module, mode in zip(modules, modes, strict=True):
        module.training = mode


def follow_steps(scheduler: Any, run: Run) -> None:
    """Wrap the scheduler's step to count completed steps in `run.step`.

    The wrapper has the signature of the step: there pipelines see whether it takes a generator.
    """
    step = scheduler.step

    @functools.wraps(step)
    def counted(*args: Any, **kwargs: Any) -> Any:
        out = step(*args, **kwargs)
        run.step += 1
        return out

    scheduler.step = counted


@contextlib.contextmanager
def remember_text(pipe: Any, memory: dict[str, Any]) -> Iterator[None]:
    """Cache the results of encode_prompt by its arguments; calls with tensors are not cached."""
    encode = getattr(pipe, "encode_prompt", None)
    if encode is None:
        yield
        return

    def remembered(*args: Any, **kwargs: Any) -> Any:
        key = repr((args, sorted(kwargs.items())))
        if any(isinstance(v, torch.Tensor) for v in (*args, *kwargs.values())):
            return encode(*args, **kwargs)  # repr abbreviates tensors
        if key not in memory:
            memory[key] = encode(*args, **kwargs)
        return memory[key]

    with replaced(pipe, "encode_prompt", remembered):
        yield


@contextlib.contextmanager
def no_decoding(pipe: Any) -> Iterator[None]:
    """Replace the VAE's decode by the identity for a pipeline without `output_type`."""
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
    """Remove hooks at the end.

    Args:
        handles: handles of the hooks; a generator registers them one after the other.
    """
    with contextlib.ExitStack() as undo:
        for handle in handles:
            undo.enter_context(handle)
        yield


@contextlib.contextmanager
def replaced(thing: Any, name: str, function: Callable[..., Any]) -> Iterator[None]:
    """Replace a method on an instance, or a function of a module, and restore it at the end.

    Args:
        thing: the instance or module.
        name: the attribute.
        function: its replacement.
    """
    own = vars(thing).get(name)
    vars(thing)[name] = function
    try:
        yield
    finally:
        if own is None:
            vars(thing).pop(name, None)
        else:
            vars(thing)[name] = own
