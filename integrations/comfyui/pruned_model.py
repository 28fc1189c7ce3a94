"""ComfyUI's model of a denoiser that obsdiff pruned.

ComfyUI builds the dense model, SD3 with as many blocks as the file has. Its linear layers then take
their shapes from the file, and every attention the number of heads that its layers have. Nothing
else is changed: sampling, LoRA for these shapes, offloading and previews are ComfyUI's own.

Needs ComfyUI and torch; no obsdiff.
"""

import contextlib
import json
from collections.abc import Iterator
from typing import Any

import comfy.model_detection
import comfy.ops
import comfy.sd
import comfy.supported_models
import comfy.utils
import torch
from torch import nn

MARKER = "model.heads_removed_open_with_obsdiff"  # stops ComfyUI's own loader
FORMAT = 1  # of the metadata


class PrunedOperations(comfy.ops.manual_cast):
    """ComfyUI's layers, linear ones with the shapes of the file."""

    class Linear(comfy.ops.manual_cast.Linear):
        """A linear layer that takes its shape from the file."""

        def _load_from_state_dict(
            self, state_dict: dict[str, Any], prefix: str, *rest: Any
        ) -> None:
            """Take the shape of the file's weight, then load it."""
            found = state_dict.get(prefix + "weight")
            if found is not None and found.ndim == 2 and found.shape != self.weight.shape:
                self.out_features, self.in_features = found.shape
                self.weight = resized(self.weight, found.shape)
                if self.bias is not None:
                    self.bias = resized(self.bias, found.shape[:1])
            super()._load_from_state_dict(state_dict, prefix, *rest)


def resized(old: nn.Parameter, shape: torch.Size) -> nn.Parameter:
    """Return a parameter of another shape, with the format and device of the old one."""
    return nn.Parameter(torch.empty(shape, dtype=old.dtype, device=old.device), requires_grad=False)


def load_pruned(path: str) -> Any:
    """Open a file that `obsdiff export DIR --to comfyui` wrote.

    Args:
        path: the file.

    Returns:
        ComfyUI's patcher of the model.

    Raises:
        ValueError: obsdiff did not write the file, or ComfyUI does not know the model.
    """
    weights, metadata = comfy.utils.load_torch_file(path, return_metadata=True)
    require_ours(path, metadata or {})
    weights.pop(MARKER, None)
    options = {"custom_operations": PrunedOperations}
    with blocks_of_the_file():
        patcher = comfy.sd.load_diffusion_model_state_dict(weights, model_options=options)
    if patcher is None:
        raise ValueError(f"{path}: this version of ComfyUI does not know the model")
    count_heads_(patcher.model.diffusion_model)
    patcher.cached_patcher_init = (load_pruned, (path,))
    return patcher


def require_ours(path: str, metadata: dict[str, str]) -> None:
    """Check the metadata of a file; ValueError if obsdiff did not write it, or a later version."""
    notes = json.loads(metadata.get("obsdiff", "{}"))
    if "format" not in notes:
        raise ValueError(
            f"{path}: expected a file of `obsdiff export DIR --to comfyui`, found no note of "
            "obsdiff in its metadata; ComfyUI's own loader opens others"
        )
    if notes["format"] > FORMAT:
        raise ValueError(
            f"{path}: its notes have format {notes['format']}, this node reads {FORMAT}; "
            "update the node"
        )


@contextlib.contextmanager
def blocks_of_the_file() -> Iterator[None]:
    """Have ComfyUI build as many blocks of SD3 as a file has, instead of width / 64.

    ComfyUI's own loader has no setting for it, so its detection is replaced for the time of a load.
    """
    detected = comfy.model_detection.model_config_from_unet

    def counted(weights: dict[str, Any], prefix: str, *rest: Any, **settings: Any) -> Any:
        config = detected(weights, prefix, *rest, **settings)
        if isinstance(config, comfy.supported_models.SD3):
            blocks = f"{prefix}joint_blocks." + "{}."
            config.unet_config["num_blocks"] = comfy.model_detection.count_blocks(weights, blocks)
        return config

    comfy.model_detection.model_config_from_unet = counted
    try:
        yield
    finally:
        comfy.model_detection.model_config_from_unet = detected


def count_heads_(model: nn.Module) -> None:
    """Set the number of heads of every attention to what its layers have.

    Args:
        model: a UNet, an MMDiT (SD3) or a FLUX of ComfyUI, with its weights.
    """
    for module in model.modules():
        if hasattr(module, "to_q") and hasattr(module, "dim_head"):  # UNet
            module.heads = heads(module.to_q.weight.shape[0], module.dim_head)
        elif hasattr(module, "qkv") and hasattr(module, "num_heads"):  # SD3, FLUX's double streams
            size = getattr(module, "head_dim", None) or head_size(module.norm)
            module.num_heads = heads(module.qkv.weight.shape[0], 3 * size)
        elif hasattr(module, "linear1") and hasattr(module, "linear2"):  # FLUX's single streams
            count_single_(module)
    for module in model.modules():
        if hasattr(module, "img_attn"):  # FLUX's double streams have the number, too
            module.num_heads = module.img_attn.num_heads


def count_single_(block: nn.Module) -> None:
    """Set heads and neurons of a single stream of FLUX.

    The rows of linear1 are q, k, v and the neurons; the columns of linear2 the heads and the
    neurons.
    """
    rows, columns = block.linear1.weight.shape[0], block.linear2.weight.shape[1]
    width = (rows - columns) // 2
    block.num_heads = heads(width, head_size(block.norm))
    block.hidden_size = width
    block.mlp_hidden_dim = block.mlp_hidden_dim_first = columns - width


def head_size(norm: nn.Module) -> int:
    """Return the size of a head, which FLUX's norm of the queries has."""
    (scale,) = norm.query_norm.parameters()
    return scale.numel()


def heads(rows: int, size: int) -> int:
    """Return how many heads of a size some rows are; ValueError if they are no whole heads."""
    if rows % size:
        raise ValueError(f"expected whole heads of {size} rows, found {rows} rows in an attention")
    return rows // size
