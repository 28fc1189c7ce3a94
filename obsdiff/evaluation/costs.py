"""Cost of a pipeline: parameters, zeros, bytes on disk, MACs, peak memory, speed against dense."""

import contextlib
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

from torch import nn

from ..models.meta_device import build_on_meta, macs_or_why_not
from ..pipelines.bitmask_files import names_in, read_weight
from ..pipelines.folder import Folder
from ..pipelines.headers import Tensors
from ..pipelines.load import load_denoiser, load_pipeline
from ..pipelines.record import RECORD, read_record
from ..pipelines.removed import compressed, leaving
from ..pipelines.replaceable import WORK
from ..pipelines.rounded_files import is_weight
from ..pipelines.run import denoiser_call, replaced
from ..runtime.hashed_json import read_hashed, write_hashed
from ..runtime.machine import empty_cache
from ..runtime.progress import say
from ..runtime.random_state import noise
from ..runtime.timing import compared, interleaved
from .flaws import remove_checkers_
from .inputs import Evaluation
from .peak_memory import peak_memory
from .report.noise import DENSE_NAME

NO_PARTS: Mapping[str, nn.Module] = MappingProxyType({})
STEPS_PER_PICTURE = 4  # timed denoiser steps for each timed picture


def resumable_cost(evaluation: Evaluation, name: str, part: Path) -> dict[str, Any]:
    """Return the cost of a pipeline, from the file of an earlier run if there is one.

    Args:
        evaluation: the pipelines, and how they are called.
        name: of the pipeline in `evaluation.folders`.
        part: the folder that the run fills; stores the cost, because timing is slow.
    """
    file = part / WORK / "costs" / f"{evaluation.key(name)}.json"
    stored = read_hashed(file)
    if isinstance(stored, dict):
        return stored
    cost = measured_cost(evaluation, name)
    write_hashed(file, cost)
    return cost


def measured_cost(evaluation: Evaluation, name: str) -> dict[str, Any]:
    """Return the cost of a pipeline as results.json stores it; speed for pruned pipelines only."""
    folder = evaluation.folders[name]
    cost: dict[str, Any] = cost_on_disk(folder.components[evaluation.component])
    pipe = load_silent(folder)
    cost["macs"] = pipeline_macs(pipe, evaluation)
    record = record_of(folder)
    cost |= leaving(record.get("groups", [])) | compressed(record)
    if record:
        cost["seconds"] = record.get("seconds", {})
    if name != DENSE_NAME and evaluation.rounds:
        say(f"{name}: timing {evaluation.rounds} pictures, dense and pruned in turn")
        dense = load_denoiser(evaluation.dense, evaluation.component)
        cost |= measure_speed(dense, pipe, evaluation)
        del dense
    del pipe
    if evaluation.rounds:
        empty_cache()  # the measuring process needs the room
        cost["memory"] = peak_memory(
            folder.path, evaluation.settings, evaluation.prompts[0], folder.single_file
        )
    return cost


def load_silent(folder: Folder) -> Any:
    """Return the pipeline of a folder, without progress bar and safety checkers."""
    pipe, _ = load_pipeline(folder)
    remove_checkers_(pipe)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def record_of(folder: Folder) -> dict[str, Any]:
    """Return obsdiff.json of a pruned folder; {} for a folder that obsdiff did not write."""
    return read_record(folder.path) if (folder.path / RECORD).is_file() else {}


def cost_on_disk(stored: Tensors) -> dict[str, int]:
    """Return {"parameters", "zeros", "bytes_on_disk"} of a stored component."""
    from safetensors import safe_open

    parameters = zeros = 0
    for file in stored.files:
        with safe_open(file, "pt") as opened:
            # a single-file checkpoint holds other components, too
            for name in stored.shapes.keys() & names_in(opened, stored.bitmasks):
                if not is_weight(name):  # the scales of rounded weights
                    continue
                tensor = read_weight(opened, name, stored.bitmasks)
                parameters += tensor.numel()
                zeros += int((tensor == 0).sum())
    return {"parameters": parameters, "zeros": zeros, "bytes_on_disk": stored.size}


def pipeline_macs(pipe: Any, evaluation: Evaluation) -> dict[str, Any]:
    """Return the MACs of one denoiser step of a pipeline; see step_macs."""
    denoiser = getattr(pipe, evaluation.component)
    call = denoiser_call(pipe, denoiser, evaluation.prompts[0], evaluation.settings)
    return step_macs(denoiser, call)


def step_macs(denoiser: nn.Module, inputs: dict[str, Any]) -> dict[str, Any]:
    """Return the multiply-accumulates of one denoiser call, by kind.

    Args:
        denoiser: a model of diffusers; a copy without weights is run.
        inputs: keyword arguments of the call.

    Returns:
        The counts, "total" among them, and "why_not"; see macs_or_why_not.
    """
    config: Any = denoiser.config  # a dict, which nn.Module's typing does not show
    copy = build_on_meta(dict(config) | {"_class_name": type(denoiser).__name__})
    return macs_or_why_not(copy.to(next(denoiser.parameters()).dtype), inputs)


def measure_speed(dense: nn.Module, pipe: Any, evaluation: Evaluation) -> dict[str, Any]:
    """Time one denoiser step and one whole picture, dense and pruned interleaved.

    A step is one denoiser call for one picture, both halves of classifier-free guidance included.
    Both denoisers draw with the pruned pipeline's encoders and VAE, so that memory holds one of
    each.

    Args:
        dense: the dense denoiser.
        pipe: the pruned pipeline.
        evaluation: denoiser, prompt, settings and number of rounds.

    Returns:
        {"step", "picture"}, each as timing.compared returns it.
    """
    prompt, settings = evaluation.prompts[0], evaluation.settings
    steps: dict[str, Callable[[], Any]] = {}
    pictures: dict[str, Callable[[], Any]] = {}
    pruned = getattr(pipe, evaluation.component)
    for name, denoiser in {"dense": dense, "pruned": pruned}.items():
        with replaced(pipe, evaluation.component, denoiser):
            steps[name] = partial(denoiser, **denoiser_call(pipe, denoiser, prompt, settings))
        pictures[name] = partial(draw_one, pipe, prompt, settings, {evaluation.component: denoiser})
    step_seconds = interleaved(steps, STEPS_PER_PICTURE * evaluation.rounds, warmup=2)
    picture_seconds = interleaved(pictures, evaluation.rounds)
    return {
        "step": compared(step_seconds, "pruned", "dense"),
        "picture": compared(picture_seconds, "pruned", "dense"),
    }


def draw_one(
    pipe: Any, prompt: str, settings: dict[str, Any], parts: Mapping[str, nn.Module] = NO_PARTS
) -> Any:
    """Draw one picture from seed 0; return the pipeline's output.

    Args:
        pipe: the pipeline.
        prompt: of the picture.
        settings: arguments of the pipeline's call.
        parts: components that take the place of the pipeline's own, by their names.
    """
    with contextlib.ExitStack() as undo:
        for name, part in parts.items():
            undo.enter_context(replaced(pipe, name, part))
        return pipe(prompt=prompt, generator=noise(0), **settings)
