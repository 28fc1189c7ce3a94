"""LoRAs of random numbers, for a denoiser's own shapes and under the names of several trainers."""

import torch
from torch import Tensor, nn

from obsdiff.models.linear_view import layer_shapes


def peft_lora(model: nn.Module, start: str, *endings: str, rank: int = 2) -> dict[str, Tensor]:
    """A LoRA for all layers with these endings, as peft names it.

    Args:
        model: the denoiser.
        start: the component's name and a dot, or "".
        endings: the last parts of the layers' names; none for all layers.
        rank: its rank.
    """
    generator = torch.Generator().manual_seed(1)
    found = {}
    for name in layer_shapes(model, "conv"):
        weight = model.get_submodule(name).weight
        if name.endswith(endings or ("",)):
            ones = [1] * (weight.dim() - 2)
            down, up = (rank, *weight.shape[1:]), (len(weight), rank, *ones)
            for side, shape in (("A", down), ("B", up)):
                numbers = torch.randn(shape, generator=generator)
                found[f"{start}{name}.lora_{side}.weight"] = numbers
    return found


def diffusers_names(lora: dict[str, Tensor]) -> dict[str, Tensor]:
    """The LoRA under the names that diffusers gave before peft."""
    names = {"lora_A": "lora.down", "lora_B": "lora.up"}
    return {replaced(name, names): tensor for name, tensor in lora.items()}


def processor_names(lora: dict[str, Tensor]) -> dict[str, Tensor]:
    """The LoRA under the oldest names, those of attention processors."""
    names = {
        ".to_out.0.lora_A": ".processor.to_out_lora.down",
        ".to_out.0.lora_B": ".processor.to_out_lora.up",
        **{f".to_{k}.lora_A": f".processor.to_{k}_lora.down" for k in "qkv"},
        **{f".to_{k}.lora_B": f".processor.to_{k}_lora.up" for k in "qkv"},
    }
    return {replaced(name, names): tensor for name, tensor in lora.items()}


def kohya_names(lora: dict[str, Tensor], start: str, alpha: float) -> dict[str, Tensor]:
    """The LoRA as kohya's scripts write it, with an alpha for each layer.

    Args:
        lora: the LoRA; its names begin with `start`.
        start: the component's name and a dot.
        alpha: the alpha of every layer.
    """
    found = {}
    for name, tensor in lora.items():
        layer, side = name.removeprefix(start).removesuffix(".weight").rsplit(".", 1)
        base = "lora_unet_" + layer.replace(".", "_")
        found[f"{base}.{ {'lora_A': 'lora_down', 'lora_B': 'lora_up'}[side] }.weight"] = tensor
        found[f"{base}.alpha"] = torch.tensor(alpha)
    return found


def replaced(name: str, words: dict[str, str]) -> str:
    for old, new in words.items():
        name = name.replace(old, new)
    return name
