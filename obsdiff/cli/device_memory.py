"""What a pruning needs on its device, from the files of a model, and the offload that fits."""

import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar

import torch
from torch import nn

from ..allocation.gradient_memory import gradient_bytes
from ..calibration.device_plan import RESERVE, DevicePlan, Weights, moved_blocks
from ..calibration.packages import GIB, plan_packages, work_bytes
from ..config import PruningConfig
from ..errors import UserError
from ..models.activation_memory import HeldBytes, bytes_of_weights, held_by_call
from ..models.call_shapes import CallArguments, family_of
from ..models.discovery import require_blocks
from ..models.linear_view import layer_at, layer_shapes
from ..models.meta_device import build_on_meta, example_inputs
from ..models.structure import Tap
from ..pipelines.call import usable_device
from ..pipelines.folder import Folder
from ..pipelines.load import default_device
from .call_settings import call_defaults, frames_of, latents_of, longest_prompt, pipeline_class
from .guidance import step_passes
from .inspection_plan import DeviceRow

NO_TEXT = ("vae", "movq", "vqvae", "safety_checker", "image_processor")  # do not run before it
Counted = TypeVar("Counted", int, HeldBytes)
UNSTORED = "bfloat16"  # the format that is assumed for a model without weights
# errors of a model that cannot run without data, or not with these settings: a run names its own
UNCOUNTED = (RuntimeError, TypeError, ValueError, ArithmeticError, LookupError)
TO_SUM = 4 * 2048  # bytes for each column of the widest input: a band of products in float32


def placed_config(folder: Folder, config: PruningConfig) -> tuple[PruningConfig, list[str]]:
    """Return a config with the device that runs it and the offload that fits, and why.

    Args:
        folder: the model.
        config: the settings of a pruning.

    Returns:
        The config, unchanged on a CPU; lines for the user.
    """
    device = usable_device("device", config.device or default_device())
    if device.type != "cuda":
        return config, []
    config = replace(config, device=str(device))
    if config.offload is not None:
        return config, []
    free, _ = torch.cuda.mem_get_info(device)
    row = device_row(device_plan(folder, config), free)
    return replace(config, offload=row.offload), [device_line(row)]


def device_plan(folder: Folder, config: PruningConfig) -> DevicePlan:
    """Return what a pruning needs on its device.

    Args:
        folder: the model; without weights its configs are enough.
        config: the settings of the pruning.
    """
    component = folder.denoiser(config.component, plain=False)
    model = build_on_meta(folder.config(component), folder.config_file(component))
    nn.Module.to(model, format_of(folder, component, config))
    shapes = layer_shapes(model, config.target)
    blocks = require_blocks(shapes, f"{folder.path}/{component}", config.target)
    packages = plan_packages(blocks, shapes, config) if config.layerwise else []
    taps = [tap for package in packages for tap in package.taps]
    budget = config.memory_budget_gib is not None
    sizes = {
        name: component_bytes(folder, name, config)
        for name in folder.components
        if name != component
    }
    weights = Weights.of(model)
    by_gradients = config.allocation == "sensitivity"
    count = partial(counted, folder, component, model, config)
    apart = family_of(folder.pipeline).guided_apart
    held = count(
        lambda inputs, halves: held_by_call(
            model,
            inputs,
            (1 if apart else halves) * config.batch_size,
            blocks=moved_blocks(model),
        )
    )
    widest = max(shape[1] for shape in shapes.values())
    return DevicePlan(
        weights,
        {name: size for name, size in sizes.items() if not name.startswith(NO_TEXT)},
        {name: size for name, size in sizes.items() if name.startswith(NO_TEXT)},
        None if held is None else held.peak + TO_SUM * widest,
        max((p.hessian_bytes if budget else p.bytes_there for p in packages), default=0),
        max((package.hessian_bytes for package in packages), default=0),
        work_bytes(taps, shapes, config),
        count(lambda inputs, halves: gradient_bytes(model, inputs, blocks, halves))
        if by_gradients
        else None,
        by_gradients * layer_bytes(model, taps),
        0 if held is None else held.peak + weights.largest - held.peak_in_turn,
    )


def place_to_draw(folder: Folder, settings: dict[str, Any]) -> PruningConfig:
    """Return a config whose device and offload fit one picture: its Hessians are nothing.

    Args:
        folder: the model.
        settings: the settings of the pipeline's call.
    """
    device = usable_device("device", default_device())
    config = PruningConfig(batch_size=1, device=str(device), **settings)
    if device.type != "cuda":
        return config
    plan = device_plan(folder, config).drawing_alone()
    return replace(config, offload=plan.choice(torch.cuda.mem_get_info(device)[0]))


def layer_bytes(model: nn.Module, taps: list[Tap]) -> int:
    """Return the bytes of the weights of some layers."""
    return sum(layer_at(model, layer).weight.nbytes for tap in taps for layer in tap.layers)


def format_of(folder: Folder, name: str, config: PruningConfig) -> torch.dtype:
    """Return the number format in which an accelerator holds a component."""
    return getattr(torch, config.dtype or folder.components[name].dtype or UNSTORED)


def format_name(folder: Folder, name: str, config: PruningConfig) -> str:
    """Return the name of the number format in which an accelerator holds a component."""
    return str(format_of(folder, name, config)).removeprefix("torch.")


def component_bytes(folder: Folder, name: str, config: PruningConfig) -> int:
    """Return the bytes of a component's weights on the device, from its files or its config."""
    tensors = folder.components[name]
    dtype = format_of(folder, name, config)
    if tensors.shapes:
        return sum(math.prod(shape) for shape in tensors.shapes.values()) * dtype.itemsize
    found = built(folder, name)
    return bytes_of_weights(nn.Module.to(found, dtype)) if found else 0


def built(folder: Folder, name: str) -> nn.Module | None:
    """Return a component without weights; None for one whose class is not known here."""
    import transformers

    library, cls = folder.classes.get(name, ("", ""))
    if library == "diffusers":
        config = folder.config(name) | {"_class_name": cls}
        return build_on_meta(config, folder.config_file(name))
    kind: Any = getattr(transformers, cls, None)
    known = isinstance(kind, type) and issubclass(kind, transformers.PreTrainedModel)
    if not known:
        return None
    settings: Any = kind.config_class
    with torch.device("meta"):
        return kind(settings.from_dict(folder.config(name)))


def counted(
    folder: Folder,
    component: str,
    model: nn.Module,
    config: PruningConfig,
    count: Callable[[dict[str, Any], int], Counted],
) -> Counted | None:
    """Return what is counted of a call of the denoiser; None if it is not known.

    Args:
        folder: the model.
        component: name of the denoiser.
        model: the denoiser on the meta device.
        config: the settings of the pruning.
        count: counts them, of the arguments for one picture, and the guidance halves of a picture.
    """
    settings, inputs = call_defaults(folder, config), example_call(folder, model, config)
    if inputs is None:
        return None
    halves = step_passes(pipeline_class(folder), folder, component, settings.get("guidance_scale"))
    try:
        return count(inputs, halves)
    except UNCOUNTED:
        return None


def example_call(folder: Folder, model: nn.Module, config: PruningConfig) -> CallArguments | None:
    """Return the arguments of one forward for one picture, on the meta device.

    Args:
        folder: the model.
        model: its denoiser on the meta device.
        config: the settings of the pruning.

    Returns:
        Keyword arguments; None if the picture's size, its frames or the denoiser's arguments are
        not known.
    """
    settings = call_defaults(folder, config)
    frames = frames_of(folder)
    if not settings["height"] or not settings["width"] or not frames:
        return None
    latents = latents_of(folder, settings)
    return example_inputs(model, *latents, longest_prompt(folder) or 0, frames)


def device_row(plan: DevicePlan, memory: int, offload: str | None = None) -> DeviceRow:
    """Return the row of a plan for a device with some free bytes.

    Args:
        plan: what a pruning needs.
        memory: the bytes.
        offload: the offload that was asked for; None for the one that fits.
    """
    offload = offload or plan.choice(memory)
    whole = plan.fits(offload, memory)
    return DeviceRow(
        memory / GIB,
        offload,
        plan.fits(offload, memory, whole),
        {name: size / GIB for name, size in plan.phases(offload, whole).items()},
        0.0 if whole else plan.beside / GIB,
        plan.activations / GIB if plan.activations is not None else None,
    )


def device_line(row: DeviceRow) -> str:
    """Return the line about a device."""
    parts = ", ".join(f"{name} {size:.1f}" for name, size in row.phases_gib.items())
    beside = row.hessians_beside_gib
    elsewhere = f"; Hessians of {beside:.1f} GiB rest on the CPU or in files" if beside else ""
    unknown = "" if row.activations_gib is not None else "; activations not known, not counted"
    short = "" if row.fits else "too little even with "
    return (
        f"device      {row.memory_gib:.1f} GiB free, {RESERVE:.0%} of it kept in reserve: {short}"
        f"--offload {row.offload}: GiB there for {parts}{elsewhere}{unknown}"
    )


def device_to_plan_for(vram: float | None) -> int | None:
    """Return the bytes of the device that a plan is made for; None without one.

    Args:
        vram: GiB of a device; None for the free memory of the one that is here.
    """
    if vram is not None:
        if not 0 < vram < math.inf:
            raise UserError(f"vram: expected GiB above 0, found {vram:g}")
        return round(vram * GIB)
    return torch.cuda.mem_get_info()[0] if torch.cuda.is_available() else None
