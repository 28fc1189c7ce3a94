"""A denoiser alone as a pipeline: its arguments are passed to its forward call, so prune_ prunes
every class."""

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn


class Steps:
    """A scheduler that counts."""

    def __init__(self, steps: int):
        self.timesteps = torch.arange(steps)

    def step(self) -> None:
        pass


class DirectPipeline:
    """Calls its denoiser once in each step, with new arguments from a function."""

    def __init__(
        self, denoiser: nn.Module, arguments: Callable[[], dict[str, Any]], steps: int = 2
    ):
        self.transformer, self.arguments, self.scheduler = denoiser, arguments, Steps(steps)
        self.device = torch.device("cpu")

    @property
    def components(self) -> dict[str, Any]:
        return {"transformer": self.transformer, "scheduler": self.scheduler}

    def set_progress_bar_config(self, **_: Any) -> None:
        pass

    @torch.no_grad()
    def __call__(self, generator: torch.Generator, return_dict: bool = True) -> tuple[Tensor]:
        torch.manual_seed(generator.initial_seed())
        for _ in self.scheduler.timesteps:
            out = self.transformer(**self.arguments())
            self.scheduler.step()
        return (tensors(out)[0],)


def tensors(value: Any) -> list[Tensor]:
    """All tensors of an output, in order."""
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, dict):
        value = list(value.values())
    return (
        [tensor for item in value for tensor in tensors(item)]
        if isinstance(value, list | tuple)
        else []
    )


def converted(value: Any, dtype: torch.dtype) -> Any:
    """Floating-point and complex tensors of (nested) arguments in another precision."""
    if isinstance(value, Tensor):
        return (
            value.to(dtype)
            if value.is_floating_point()
            else value.to(dtype.to_complex())
            if value.is_complex()
            else value
        )
    if isinstance(value, dict):
        return {key: converted(item, dtype) for key, item in value.items()}
    return (
        type(value)(converted(item, dtype) for item in value)
        if isinstance(value, list | tuple)
        else value
    )


@torch.no_grad()
def outputs(
    denoiser: nn.Module,
    arguments: Callable[[], dict[str, Any]],
    dtype: torch.dtype = torch.float64,
    seed: int = 0,
) -> list[Tensor]:
    """The outputs of a copy of the denoiser in this precision."""
    torch.manual_seed(seed)
    return tensors(copy.deepcopy(denoiser).to(dtype).eval()(**converted(arguments(), dtype)))
