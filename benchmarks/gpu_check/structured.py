"""Structured 30 %: a step at 1024 px beside the ratio of operations, eager and compiled."""

from functools import partial
from typing import Any

import torch

from obsdiff.allocation.uniform_latency import shrunk
from obsdiff.models.macs import count_macs

from .behaves import refused
from .check import Check
from .measurement import free_memory, seconds
from .random_models import embedded, first_call, sd3, settings


def structured_pair(check: Check, layers: int | None) -> tuple[Any, Any, dict[str, Any]]:
    """A transformer of SD3's sizes, the same after structured pruning to 30 %, and a call."""
    config = settings(check, pattern="structured", sparsity=0.3)
    pipe = sd3(check, layers)
    call = first_call(pipe, embedded(check, pipe, 1, 1)[0], config)
    return pipe.transformer, shrunk(pipe.transformer, config)[0], call


def smaller(check: Check) -> None:
    """The step as it is."""
    pair = structured_pair(check, 8 if check.gpu else None)
    models, call = pair[:2], pair[2]
    with torch.no_grad():
        macs = [count_macs(partial(model, **call)).total for model in models]
    dense, pruned = (seconds(partial(model, **call), 10, 3) for model in models)
    promised = macs[0] / macs[1]
    check.figure("structured", "30 %: operations dense / pruned", promised)
    share = (dense / pruned - 1) / (promised - 1)
    what, expected = "30 %: step dense / pruned, eager", ">= 0.7 of what the operations promise"
    check.figure("structured", what, dense / pruned, expected, share >= 0.7 if check.gpu else None)


def compiled(check: Check) -> None:
    """What torch.compile changes: the gain of structured pruning, and that a compiled
    model is refused."""
    pair = structured_pair(check, 4 if check.gpu else None)
    models, call = pair[:2], pair[2]
    with check.recorded_errors("compiled", "structured"):
        dense, pruned = (seconds(partial(torch.compile(m), **call), 10, 3) for m in models)
        what, expected = "30 %: step dense / pruned", ">= 0.8 of what the operations promise"
        check.figure("compiled", what, dense / pruned, expected)
    del pair, models, call
    free_memory()
    refused(check, "compiled", "a compiled module", lambda pipe: pipe.transformer.compile())
