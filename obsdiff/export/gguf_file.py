"""A denoiser as one GGUF file under its authors' names, as ComfyUI-GGUF and others open it.

Matrices have the type that was asked for; rounded ones keep their codes (gguf_codes.py). Everything
else keeps its precision, because readers take it as it is: convolutions are float16, vectors and
tables float32.
"""

import contextlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..pipelines.folder import Folder
from ..pipelines.output_path import absolute
from ..pipelines.rounded_files import is_declared
from ..pipelines.verify import verify_folder
from ..runtime.whole_files import whole_file
from .gguf_codes import BLOCK, TYPES, in_blocks
from .layouts import class_of, places
from .originals import Original, originals
from .shapes import require_widths_alone
from .single_file import metadata

F32, F16, BF16, Q8_0 = "F32", "F16", "BF16", "Q8_0"  # as the gguf package names them
SMALL = 1024  # weights; smaller matrices stay in float32
ARCHITECTURES = {"SD3Transformer2DModel": "sd3", "FluxTransformer2DModel": "flux"}
TABLES = ("pos_embed",)  # no layers, by the authors' names


def export_gguf(folder: Folder, output: Path, component: str, kind: str | None) -> dict[str, int]:
    """Write the denoiser of a pipeline as one GGUF file.

    Args:
        folder: a checked folder.
        output: the file to write.
        component: the denoiser.
        kind: type of the matrices that are not rounded, such as Q8_0; None keeps bfloat16, and is
            float16 otherwise.

    Returns:
        How many tensors have each type.

    Raises:
        UserError: the model can't be written as one file; the message says why.
        RunFailed: its rounded weights differ from their record.
    """
    import gguf

    chosen = places(folder, component)
    require_widths_alone(folder, component)
    if is_declared(folder.path / component):
        verify_folder(folder.path)
    else:
        folder.require_unquantised()
    kind = kind or (BF16 if folder.components[component].dtype == "bfloat16" else F16)
    types = gguf.GGMLQuantizationType
    counts: dict[str, int] = {}
    with contextlib.ExitStack() as opened:
        tensors = list(originals(folder, chosen, opened))
        output = absolute(output)
        output.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(output) as beside:
            writer = gguf.GGUFWriter(beside, architecture(folder, component))
            describe(writer, gguf, main_type(tensors) or kind, metadata(folder, [component]))
            for tensor in tensors:
                own, data = stored(gguf, tensor, kind)
                counts[own] = counts.get(own, 0) + 1
                writer.add_tensor(tensor.name, data, raw_dtype=types[own])
            writer.write_header_to_file()
            writer.write_kv_data_to_file()
            writer.write_tensors_to_file()
            writer.close()
    return counts


def main_type(tensors: Iterable[Original]) -> str | None:
    """Return the type of the rounded matrices; None without any."""
    bits = {bits for tensor in tensors for bits in tensor.part.bits.values()}
    return TYPES[min(bits)] if bits else None


def stored(gguf: Any, tensor: Original, kind: str) -> tuple[str, Any]:
    """Return the type of a tensor in the file, and its numbers in that type.

    Args:
        gguf: the package.
        tensor: the tensor.
        kind: type of the matrices that are not rounded.
    """
    value, steps = tensor.value(), tensor.steps()
    if steps and value.ndim == 2 and fits_half(steps[0]):
        return TYPES[steps[1]], in_blocks(value, *steps)
    own = type_of(tensor.name, value, kind)
    return own, gguf.quants.quantize(value.float().numpy(), gguf.GGMLQuantizationType[own])


def describe(writer: Any, gguf: Any, kind: str, texts: Mapping[str, str]) -> None:
    """Write the fields of a GGUF file: its type, the configs, and what was pruned."""
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    writer.add_file_type(gguf.LlamaFileType[f"MOSTLY_{kind}"])
    own = json.loads(texts["obsdiff"]) | {
        "configs": {name: json.loads(text) for name, text in texts.items() if "/" in name}
    }
    writer.add_string("obsdiff", json.dumps(own))


def architecture(folder: Folder, component: str) -> str:
    """Return the name that ComfyUI-GGUF gives the architecture of a denoiser."""
    if known := ARCHITECTURES.get(class_of(folder, component)):
        return known
    is_sdxl = folder.config(component).get("addition_embed_type") == "text_time"
    return "sdxl" if is_sdxl else "sd1"


def type_of(name: str, value: Tensor, kind: str) -> str:
    """Return the type of a tensor in the file.

    Args:
        name: the authors' name.
        value: the tensor.
        kind: type of the matrices.
    """
    is_layer = not name.endswith(TABLES)
    if value.ndim == 2 and is_layer and value.numel() > SMALL:
        if kind == Q8_0 and value.shape[1] % BLOCK:
            kind = F16
        wanted = kind
    else:
        wanted = F16 if value.ndim == 4 else F32
    return F32 if wanted == F16 and not fits_half(value) else wanted


def fits_half(value: Tensor) -> bool:
    """Return whether float16 holds a tensor's largest weight."""
    return bool(value.abs().max() <= torch.finfo(torch.float16).max)
