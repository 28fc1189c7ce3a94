"""Draw latents with the sampler of a ComfyUI checkout, in a process of its own.

    python comfyui_draw.py FILE INPUTS OUTPUT            PYTHONPATH names the checkout

FILE is a denoiser. INPUTS has the tensors of benchmarks/clients/task.py by their names there, and
in its metadata, under `settings`, the JSON that comfyui.py beside it writes. The latents are
written to OUTPUT, as `latents`, multiplied by the VAE's scaling factor as in diffusers.

The built-in models have other widths than the models that ComfyUI knows. They are added here to its
list of models; their classes, layers and sampling are ComfyUI's.
"""

import json
import logging
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

from comfyui_loader import replace_missing
from comfyui_node import node_pack

PREFIX = "negative_"


def add_model(settings: dict[str, Any]) -> None:
    """Add a model to the list of those that ComfyUI knows.

    Args:
        settings: `base` names a class of ComfyUI, `widths` replaces what it expects of a file,
            `heads` how it counts heads; `sampling` its noise levels, `scale` the factor of its
            latents.
    """
    import comfy.latent_formats
    import comfy.supported_models

    base = getattr(comfy.supported_models, settings["base"])

    class Latents(comfy.latent_formats.LatentFormat):
        scale_factor = settings["scale"]

    class Model(base):
        unet_config = base.unet_config | settings["widths"]
        unet_extra_config = base.unet_extra_config | settings["heads"]
        sampling_settings = base.sampling_settings | settings["sampling"]
        latent_format = Latents

    comfy.supported_models.models.append(Model)


def operations(layers: type, groups: int | None) -> type:
    """Return classes of layers with another number of groups in every group norm.

    Args:
        layers: ComfyUI's classes of layers, or those of the node.
        groups: the number; None for ComfyUI's own, 32.
    """
    if groups is None:
        return layers

    class Grouped(layers):
        class GroupNorm(layers.GroupNorm):
            def __init__(self, num_groups: int, *rest: Any, **more: Any):
                super().__init__(groups, *rest, **more)

    return Grouped


def opened(file: str, settings: dict[str, Any]) -> Any:
    """Return ComfyUI's patcher of a file, opened by obsdiff's node or by its own loader."""
    import comfy.ops
    import comfy.sd

    pack: ModuleType = node_pack()
    node = sys.modules[f"{pack.__name__}.pruned_model"]
    if settings["node"]:
        node.PrunedOperations = operations(node.PrunedOperations, settings["groups"])
        return node.load_pruned(file)
    own = operations(comfy.ops.manual_cast, settings["groups"])
    with node.blocks_of_the_file():
        return comfy.sd.load_diffusion_model(file, model_options={"custom_operations": own})


def draw(patcher: Any, given: dict[str, Any], settings: dict[str, Any]) -> Any:
    """Return the latents of every prompt, as ComfyUI's node KSampler samples them."""
    import comfy.sample

    drawn = []
    for i in range(len(given["noise"])):
        sides = [
            [[text(given, "prompt_embeds", sign, i), pooled(given, sign, i)]]
            for sign in ("", PREFIX)
        ]
        drawn.append(
            comfy.sample.sample(
                patcher,
                given["noise"][i : i + 1],
                settings["steps"],
                settings["guidance"],
                settings["sampler"],
                settings["scheduler"],
                *sides,
                latent_image=torch.zeros_like(given["noise"][i : i + 1]),
                disable_pbar=True,
                seed=0,
            )
        )
    return torch.cat(drawn) * settings["scale"]


def text(given: dict[str, Any], name: str, sign: str, i: int) -> Any:
    """Return the tensor of one prompt, shape (1, ...)."""
    return given[f"{sign}{name}"][i : i + 1]


def pooled(given: dict[str, Any], sign: str, i: int) -> dict[str, Any]:
    """Return what ComfyUI stores beside the text of one prompt."""
    name = "pooled_prompt_embeds"
    if f"{sign}{name}" not in given:
        return {}
    return {"pooled_output": text(given, name, sign, i)}


if __name__ == "__main__":
    file, inputs, output = sys.argv[1:]
    sys.argv[1:] = ["--cpu"]
    replace_missing()
    import comfy.options

    comfy.options.enable_args_parsing()
    logging.disable(logging.CRITICAL)
    import folder_paths
    import torch
    from safetensors import safe_open
    from safetensors.torch import load_file, save_file

    folder_paths.add_model_folder_path("diffusion_models", str(Path(file).parent))
    with safe_open(inputs, "pt") as header:
        settings = json.loads(header.metadata()["settings"])
    add_model(settings)
    with torch.no_grad():
        latents = draw(opened(file, settings), load_file(inputs), settings)
    save_file({"latents": latents.contiguous()}, output)
