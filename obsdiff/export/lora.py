"""A LoRA file for the dense model, cut to a pruned folder: a file that its pipeline loads as it is.

diffusers' own reader of the pipeline names the tensors, so every form that it reads can be cut.
Where it finds alphas, they are multiplied into the weights. Text encoders' tensors stay.
"""

import inspect
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import diffusers
from diffusers.utils import convert_unet_state_dict_to_peft
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from ..errors import UserError
from ..models.layout import layout_of
from ..models.lora import cut_lora, require_blocks
from ..models.meta_device import build_on_meta
from ..pipelines.folder import Folder
from ..runtime.whole_files import whole_file
from .lora_blocks import renumbered, require_former

LAYER = re.compile(r"(.+?)\.(?:lora_A|lora_B|lora_linear_layer|lora)\b.*")
UP = re.compile(r".*(?:\.lora_B|[._]lora\.up|\.lora_linear_layer\.up|_lora\.up)\b.*")


@dataclass(frozen=True)
class CutFile:
    """What was done with a LoRA file.

    Attributes:
        tensors: number of tensors for the denoiser.
        cut: how many of them became smaller.
        dropped: how many of them were of blocks that are out.
    """

    tensors: int
    cut: int
    dropped: int


def cut_file(
    file: Path, folder: Folder, component: str, kept: Mapping[str, list[int]], output: Path
) -> CutFile:
    """Write a LoRA cut to the denoiser of a pruned folder, whole or not at all.

    Args:
        file: the LoRA, a checked safetensors file.
        folder: the pruned folder.
        component: its denoiser.
        kept: for each of its lists of blocks the former numbers of the blocks that are left; empty
            if no blocks were removed.
        output: the file to write; must not exist.

    Raises:
        UserError: the file is no LoRA for this pipeline, or can't be cut.
    """
    with safe_open(file, "pt") as opened:
        tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
        metadata = opened.metadata() or {}
    model = build_on_meta(folder.config(component))
    named = with_alphas(*as_diffusers_names(file, folder, model, tensors))
    own = [name for name in named if name.startswith(f"{component}.")]
    if not own:
        raise UserError(
            f"{file}: expected a LoRA with tensors of {component}, found none, but "
            f"{next(iter(named), 'nothing')}"
        )
    require_former(named, component, kept, folder.path)
    left = renumbered(named, component, kept)
    cut = cut_lora(model, left, component) if layout_of(model) else left
    require_blocks(model, cut, component)
    with whole_file(output) as beside:
        save_file(
            {name: tensor.contiguous() for name, tensor in cut.items()},
            beside,
            {"format": "pt"} | metadata,
        )
    smaller = sum(cut[name].shape != left[name].shape for name in cut)
    return CutFile(len(own), smaller, len(named) - len(left))


def as_diffusers_names(
    file: Path, folder: Folder, model: nn.Module, tensors: Mapping[str, Tensor]
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return a LoRA as the pipeline's own reader names it, and its alphas by layer.

    Args:
        file: the file, for messages.
        folder: the pruned folder.
        model: its denoiser.
        tensors: the content of the file.

    Raises:
        UserError: diffusers reads no LoRA for the pipeline, or not this one.
    """
    read = getattr(getattr(diffusers, folder.pipeline, None), "lora_state_dict", None)
    if read is None:
        raise UserError(f"{folder.path}: diffusers reads no LoRA for {folder.pipeline}")
    options: dict[str, Any] = {}
    if "return_alphas" in inspect.signature(read).parameters:
        options["return_alphas"] = True
    if "unet" in folder.components:  # to rename the blocks of SDXL's authors
        options["unet_config"] = model.config
    try:
        found = read(dict(tensors), **options)
    except (ValueError, LookupError, TypeError, RuntimeError, AttributeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"{file}: diffusers can't read it as a LoRA for {folder.pipeline}: {reason}"
        ) from None
    named, alphas = found if isinstance(found, tuple) else (found, None)
    return named, alphas or {}


def with_alphas(named: Mapping[str, Tensor], alphas: Mapping[str, Any]) -> dict[str, Tensor]:
    """Return a LoRA whose alphas are multiplied into its weights, as alpha / rank.

    Args:
        named: the LoRA.
        alphas: a number for each layer, by the layer's or a weight's name and ".alpha".
    """
    factors = {layer_of(name.removesuffix(".alpha")): float(a) for name, a in alphas.items()}
    scaled = dict(named)
    for name, tensor in named.items():
        alpha = factors.get(layer_of(name))
        if alpha is not None and UP.fullmatch(name) and tensor.dim() > 1:
            scaled[name] = (tensor.float() * (alpha / tensor.shape[1])).to(tensor.dtype)
    return scaled


def layer_of(name: str) -> str:
    """Return the layer of a tensor of a LoRA, or the name itself if it is that of a layer."""
    (peft_name,) = convert_unet_state_dict_to_peft({name: None})
    match = LAYER.fullmatch(peft_name)
    return match[1] if match else peft_name
