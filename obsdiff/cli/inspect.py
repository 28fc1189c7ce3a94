"""What a run would prune, in which packages, with how much memory and how many denoiser calls. Nothing is run."""

import inspect
import math
from collections.abc import Mapping
from typing import Any

from ..allocation.budget import size_budget
from ..calibration.groups import at_sparsity, prunable_groups
from ..calibration.packages import (
    GIB,
    Package,
    memory_for_waiting,
    passes,
    plan_packages,
    work_bytes,
)
from ..calibration.selection import select, select_groups
from ..config import PruningConfig
from ..errors import UserError
from ..models.discovery import require_blocks, uncovered
from ..models.meta_device import UNCONDITIONAL, build_on_meta, example_inputs, layers_of_config
from ..models.pruned_classes import CLASS_PREFIX
from ..models.structure import Block, Shape, Tap
from ..pipelines.denoisers import chosen_denoiser, other_denoisers
from ..pipelines.folder import Folder
from ..runtime.json_files import read_json
from .prediction import as_the_paper_counts, predict

LONGEST = 100_000  # text tokens
PIXELS = (
    "DDPM",
    "DDIM",
    "IF",
)  # pipelines that draw pixels, without an autoencoder, by the start of their names


def describe(
    folder: Folder, config: PruningConfig, prompts: int, paper_count: bool = False
) -> dict[str, Any]:
    """The plan as JSON. UserError for everything that would keep the run from starting. A folder without weights is read by its
    config.json alone."""
    component = folder.denoiser(config.component)
    others = other_denoisers(folder.components, component)
    tensors = folder.components[component]
    shapes = tensors.layers(config.target) or layers_of_config(
        folder.config(component), config.target
    )
    blocks = require_blocks(shapes, f"{folder.path}/{component}", config.target)
    units = select(blocks, config, shapes)
    packages = plan_packages(blocks, shapes, config)
    settings = resolved_config(folder, config)
    budget = config.budget
    config = at_budget(folder, component, config, settings)
    tokens = tokens_per_call(folder, component, settings)
    steps = settings["num_inference_steps"]
    calls, seen = (n * steps if steps else None for n in (prompts, config.calibrating_of(prompts)))

    def tap_row(tap: Tap) -> dict[str, Any]:
        columns = shapes[tap.layers[0]][1]
        each = tokens(tap)
        expected = round(each * seen / columns, 2) if each and seen else None
        return {"layers": list(tap.layers), "columns": columns, "tokens_per_column": expected}

    pruned = [layer for package in packages for layer in package.layers]
    return {
        "path": str(folder.source),
        "pipeline": folder.pipeline,
        "component": component,
        "dtype": tensors.dtype,
        "bytes": tensors.size,
        "parameters": stored_parameters(folder, component),
        "targeted_parameters": sum(shapes[layer][0] * shapes[layer][1] for layer in pruned),
        "removed": config.removed,
        "budget": budget,
        "blocks": [{"name": b.name, "kind": b.entry} for b in blocks],
        "layers": len(pruned),
        "units": len(units),
        "packages": [
            {"hessian_gib": p.hessian_bytes / GIB, "layers": len(p.layers), "taps": [tap_row(tap) for tap in p.taps]} for p in packages
        ],
        "settings": settings,
        "prompts": prompts,
        "calibrating": config.calibrating,
        "denoiser_passes": round(passes(config, len(packages)) * calls) if calls else None,
        "allocation_passes": drawings(blocks, packages, config) * steps if steps else None,
        "memory": planned_memory(packages, shapes, config),
        "uncovered": uncovered(shapes, blocks, config.target),
        "notes": folder.notes() + ([chosen_denoiser(folder.pipeline, component, others)] if others and not config.component else []),
        "prediction": prediction(folder, component, config, settings, paper_count) if config.pattern == "structured" else None,
        "config": config.to_dict(),
    }  # fmt: skip


def drawings(blocks: list[Block], packages: list[Package], config: PruningConfig) -> int:
    """How many prompts allocation draws beside the calibration's: for every layer input or group once, and twice before."""
    if config.allocation != "sensitivity":
        return 0
    tried = (
        select_groups(blocks, config)
        if config.pattern == "structured"
        else [tap for package in packages for tap in package.taps]
    )
    return (len(tried) + 2) * min(config.allocation_prompts, config.num_prompts - config.held_out)


def planned_memory(
    packages: list[Package], shapes: Mapping[str, Shape], config: PruningConfig
) -> dict[str, Any]:
    """GiB that the run takes beside model and activations: the largest package's Hessians, of those what waits on disk (known with a
    budget alone), and the work of solving."""
    hessians = max(package.hessian_bytes for package in packages)
    work = work_bytes((tap for package in packages for tap in package.taps), shapes, config)
    on_disk = (
        max(0.0, hessians - memory_for_waiting(config, packages, shapes))
        if config.calibrating == "single" and config.memory_budget_gib
        else 0.0
    )
    return {
        "hessians_gib": hessians / GIB,
        "on_disk_gib": on_disk / GIB,
        "solving_gib": work / GIB,
        "budget_gib": config.memory_budget_gib,
    }


def stored_parameters(folder: Folder, component: str) -> int:
    """Of the stored tensors; where there are none, of the model that config.json describes."""
    tensors = folder.components[component]
    if tensors.shapes and not tensors.original:
        return sum(math.prod(shape) for shape in tensors.shapes.values())
    return sum(p.numel() for p in build_on_meta(folder.config(component)).parameters())


def at_budget(
    folder: Folder, component: str, config: PruningConfig, settings: dict[str, Any]
) -> PruningConfig:
    """The config with the uniform sparsity that would meet its target; as it is without one. UserError for a target that can't be reached."""
    if not config.budget:
        return config
    denoiser = build_on_meta(folder.config(component))
    inputs = example_inputs(denoiser, *latents_of(folder, settings), text_tokens(folder) or 0)
    if inputs is None and config.target_macs is not None:
        raise UserError(
            f"inspect: target_macs: the arguments of {type(denoiser).__name__} are not known here; give target_parameters"
        )
    groups = prunable_groups(denoiser, config)
    return at_sparsity(config, size_budget(denoiser, groups, config, inputs or {}).sparsity)


def latents_of(folder: Folder, settings: dict[str, Any]) -> tuple[int, int]:
    """Height and width of the latents."""
    if not settings["height"] or not settings["width"]:
        raise UserError("inspect: the picture's size is not known; give --height and --width")
    return settings["height"] // vae_factor(folder), settings["width"] // vae_factor(folder)


def prediction(
    folder: Folder,
    component: str,
    config: PruningConfig,
    settings: dict[str, Any],
    paper_count: bool,
) -> dict[str, Any]:
    """What structured pruning would leave, counted on the meta device."""
    latents, tokens = latents_of(folder, settings), text_tokens(folder)
    if (
        not tokens
        and folder.config(component).get("_class_name", "").removeprefix(CLASS_PREFIX)
        not in UNCONDITIONAL
    ):
        raise UserError(
            f"inspect: the number of text tokens is not known: {folder.path} has no tokenizer/tokenizer_config.json"
        )
    found = predict(folder.config(component), config, latents, tokens or 0)
    if paper_count:
        found["as_the_paper_counts"] = as_the_paper_counts(
            folder.config(component), config, vae_factor(folder)
        )
    return found


def resolved_config(folder: Folder, config: PruningConfig) -> dict[str, Any]:
    """Steps, guidance and size: as configured, else the pipeline's defaults; None where nothing is known."""
    import diffusers

    pipeline = getattr(diffusers, folder.pipeline, None)
    if pipeline is None:
        raise UserError(
            f"{folder.path}: the installed diffusers has no pipeline {folder.pipeline!r}"
        )
    known = inspect.signature(pipeline.__call__).parameters
    settings = {}
    for name in ("num_inference_steps", "guidance_scale", "height", "width"):
        default = known[name].default if name in known else None
        own = getattr(config, name)
        settings[name] = (
            own if own is not None else (None if default is inspect.Parameter.empty else default)
        )
    side = folder.config(folder.denoiser(config.component)).get("sample_size")
    for name in ("height", "width"):
        if settings[name] is None and isinstance(side, int):
            settings[name] = side * vae_factor(folder)
    return settings


def vae_factor(folder: Folder) -> int:
    """Pixels for each latent along a side."""
    if folder.pipeline.startswith(PIXELS):
        return 1
    levels = (
        folder.config("vae").get("block_out_channels", [0] * 4)
        if "vae" in folder.components
        else [0] * 4
    )
    return 2 ** (len(levels) - 1)


def tokens_per_call(folder: Folder, component: str, settings: dict[str, Any]) -> Any:
    """A function Tap -> tokens that one prompt brings it in one denoising step, both guidance halves; None where not known."""
    height, width, guidance = settings["height"], settings["width"], settings["guidance_scale"]
    config = folder.config(component)
    text = text_tokens(folder)
    halves = 2 if guidance and guidance > 1 and not config.get("guidance_embeds") else 1
    patch = (
        2
        if component == "transformer" and folder.pipeline.startswith("Flux")
        else config.get("patch_size", 1)
    )

    def tokens(tap: Tap) -> int | None:
        if not height or not width:
            return None
        down = (
            vae_factor(folder)
            * (patch if isinstance(patch, int) else 1)
            * 2 ** level(tap.layers[0], config)
        )
        image = (height // down) * (width // down)
        each = {"image": image, "text": text, "joint": text and image + text}[tap.stream]
        return each and halves * each

    return tokens


def level(layer: str, config: dict[str, Any]) -> int:
    """How often a UNet has halved the latents in what this layer gives; 0 in a transformer."""
    parts = layer.split(".")
    depth = len(config.get("block_out_channels", [0])) - 1
    if parts[0] == "mid_block":
        return depth
    sampled = {"downsamplers": 1, "upsamplers": -1}.get(parts[2], 0) if len(parts) > 2 else 0
    return (
        sampled
        + {"down_blocks": int(parts[1]), "up_blocks": depth - int(parts[1])}.get(parts[0], 0)
        if parts[1].isdigit()
        else 0
    )


def text_tokens(folder: Folder) -> int | None:
    """Text tokens of one prompt: CLIP's, with the 256 of SD3's third encoder (zeros where it is missing) or FLUX's 512."""
    if folder.pipeline.startswith("Flux"):
        return 512
    file = folder.path / "tokenizer" / "tokenizer_config.json"
    length = read_json(file).get("model_max_length", 77) if file.is_file() else None
    if (
        not isinstance(length, int) or not 0 < length < LONGEST
    ):  # transformers writes 1e30 where there is no limit
        return None
    return length + 256 if folder.pipeline.startswith("StableDiffusion3") else length
