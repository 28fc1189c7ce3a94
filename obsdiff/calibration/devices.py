"""Where a calibration computes, and the room that the devices have for what it stores.

Hessians and recordings are stored on the device that computes, while it has room, then in host
memory, then in files. A memory budget counts all memory together; without one, each accelerator has
room for what is free on it, less the weights that an offload still brings there, the Hessians of a
package, and the memory of solving, or an eighth of the device for the activations of a call.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from ..models.linear_view import weight_of
from ..models.offload_hooks import group_offloaded
from ..pipelines.call import execution_device
from ..runtime.device_memory import exact, free_bytes
from ..runtime.distributed import Ranks
from .packages import largest_package, work_bytes
from .plan import PruningPlan

ACTIVATIONS = 1 / 8  # of the memory of a device, for the activations of a call


def computing_devices(
    pipe: Any, layers: Sequence[nn.Module], stored: str | None = None
) -> list[torch.device]:
    """Return the device that computes with the inputs of each layer.

    It is that of the weight; for a weight that an offload keeps on the CPU, that of the pipeline's
    call; for a pipeline on the CPU, an accelerator that stores the Hessians. The pipeline is asked
    once for all layers: diffusers walks through its modules to answer.

    Args:
        pipe: the pipeline.
        layers: the layers.
        stored: the device that stores the Hessians, if it is set.
    """
    others = [torch.device(place) for place in (execution_device(pipe), stored) if place]
    places = [[weight_of(layer).device, *others] for layer in layers]
    return [next((place for place in row if place.type != "cpu"), row[0]) for row in places]


def device_rooms(pipe: Any, plans: Sequence[PruningPlan], ranks: Ranks) -> dict[str, float]:
    """Return the bytes on each accelerator for Hessians or a recording.

    All processes of a job agree on the least, so that they store a Hessian in the same place.

    Args:
        pipe: the pipeline, where it will run.
        plans: the prunings that share the calibration.
        ranks: the processes.

    Returns:
        By device; none on a CPU, with a memory budget, or where torch can't tell.
    """
    found: dict[str, float] = {}
    for plan in plans:
        for device in accelerators(pipe, plan):
            room = room_on(device, pipe, plan)
            if room is not None:
                found[str(device)] = min(room, found.get(str(device), math.inf))
    least = ranks.least(min(found.values(), default=math.inf))
    return found if ranks.size == 1 else dict.fromkeys(found, least)


def accelerators(pipe: Any, plan: PruningPlan) -> list[torch.device]:
    """Return the accelerators that compute with a plan's layers, or store its Hessians."""
    stored = plan.config.offload_device
    if plan.config.memory_budget_gib is not None:
        return []
    layers = [plan.denoiser.get_submodule(tap.layers[0]) for tap in plan.taps]
    places = set(computing_devices(pipe, layers, stored))
    places |= {torch.device(stored)} if stored else set()
    return sorted({exact(place) for place in places if place.type != "cpu"}, key=str)


def room_on(device: torch.device, pipe: Any, plan: PruningPlan) -> float | None:
    """Return the room for a plan on an accelerator; None if torch can't tell."""
    memory = free_bytes(device)
    if memory is None:
        return None
    free, most = memory
    own = largest_package(plan.config, plan.packages, on_accelerator=True)
    working = max(work_bytes(plan.taps, plan.shapes, plan.config), ACTIVATIONS * most)
    return max(0.0, free - waiting_bytes(pipe) - own - working)


def waiting_bytes(pipe: Any) -> int:
    """Return the bytes of the largest model that an offload brings to the device when it is called.

    Group offloading brings parts alone.
    """
    models = [part for part in pipe.components.values() if isinstance(part, nn.Module)]
    on_host = [
        sum(p.numel() * p.element_size() for p in model.parameters() if p.device.type == "cpu")
        for model in models
        if not group_offloaded(model)
    ]
    return max(on_host, default=0)
