"""Schedules of which a part runs: image to image at a strength below 1, denoising_start and _end.

How many steps a pipeline runs is known to its own code alone. So it is called once with denoisers
that compute their first call and repeat its output: every step is counted, and none is computed.
"""

import contextlib
import inspect
from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import Any

from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from ..runtime.random_state import random_state_kept
from .denoisers import DENOISERS

PARTS = ("strength", "denoising_start", "denoising_end")  # arguments that choose a part
SCHEDULES = (*PARTS, "num_inference_steps", "timesteps", "sigmas")
REPEATED = ("controlnet", "unconditional")  # first words of other models that run in every step


def runs_in_part(pipe: Any, arguments: dict[str, Any]) -> bool:
    """Return whether a call of the pipeline may run a part of its schedule.

    Args:
        pipe: a diffusers pipeline.
        arguments: the arguments of the call.
    """
    known = inspect.signature(pipe.__call__).parameters
    return "strength" in known or any(arguments.get(name) is not None for name in PARTS)


def schedule_of(arguments: dict[str, Any]) -> str:
    """Return the arguments that decide which steps run, as a key."""
    return repr([arguments.get(name) for name in SCHEDULES])


@contextlib.contextmanager
def uncomputed(pipe: Any) -> Iterator[None]:
    """Let denoisers repeat the output of their first call, without hooks; restore all at the end.

    Args:
        pipe: a diffusers pipeline.
    """
    models = [
        part
        for name, part in pipe.components.items()
        if isinstance(part, nn.Module) and (name in DENOISERS or name.startswith(REPEATED))
    ]
    with contextlib.ExitStack() as undo:
        undo.enter_context(random_state_kept())
        for model in models:
            undo.enter_context(without_hooks(model))
            undo.enter_context(repeating(model))
        yield


@contextlib.contextmanager
def without_hooks(model: nn.Module) -> Iterator[None]:
    """Take away the hooks of a model and of its parts; put them back at the end."""
    before = [(m, m._forward_pre_hooks, m._forward_hooks) for m in model.modules()]
    try:
        for module in model.modules():
            module._forward_pre_hooks, module._forward_hooks = OrderedDict(), OrderedDict()
        yield
    finally:
        for module, first, last in before:
            module._forward_pre_hooks, module._forward_hooks = first, last


@contextlib.contextmanager
def repeating(model: nn.Module) -> Iterator[None]:
    """Replace a model's forward by one that computes each kind of inputs once."""
    own, outputs = vars(model).get("forward"), {}
    forward: Callable[..., Any] = model.forward

    def repeated(*args: Any, **kwargs: Any) -> Any:
        tensors = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
        kind = tuple((x.shape, x.dtype) for x in tensors)
        if kind not in outputs:
            outputs[kind] = forward(*args, **kwargs)
        return outputs[kind]

    vars(model)["forward"] = repeated
    try:
        yield
    finally:
        if own is None:
            del vars(model)["forward"]
        else:
            vars(model)["forward"] = own
