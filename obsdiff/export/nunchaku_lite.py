"""A result of 4 bits as a diffusers folder for CUDA kernels: quant_method nunchaku_lite.

Two codes share a byte, which torchao's layout for every device does not do. A layer alone is stored
for `awq_w4a16`, one with a correction of low rank for `svdq_w4a4`, whose kernel rounds activations,
too. Codes and scales are those of the folder; nothing is rounded here.
"""

import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import diffusers
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from ..errors import UserError
from ..models.low_rank import DOWN, UP
from ..models.own_names import (
    CLASS_PREFIX,
    FOLDED_KEY,
    HEAD_MARKER_KEY,
    LAYOUT_KEY,
    LOW_RANK,
    LOW_RANK_KEY,
    MODULE,
)
from ..pipelines.bitmask_headers import weight_files_in
from ..pipelines.folder import Folder
from ..pipelines.loading_code import loading_code
from ..pipelines.model_card import CARD, opening
from ..pipelines.record import read_record
from ..pipelines.rounded_files import CODES, SCALE, ZERO_POINT, codes_name
from ..pipelines.save import whole_folder
from ..pipelines.verify import verify_folder
from ..runtime.json_files import read_json, write_json
from ..runtime.whole_files import set_modes, write_whole
from .nunchaku_layouts import (
    AWQ_ROWS,
    GROUP,
    RANKS,
    ROWS,
    awq_scales,
    awq_weight,
    svdq_factors,
    svdq_scales,
    svdq_vector,
    svdq_weight,
)

METHOD = "nunchaku_lite"
AWQ, SVDQ = "awq_w4a16", "svdq_w4a4"
WEIGHTS = "diffusion_pytorch_model.safetensors"
CONFIG, INDEX = "config.json", "model_index.json"
MULTIPLES = {AWQ: (AWQ_ROWS, GROUP), SVDQ: (ROWS, ROWS)}  # of the rows and the inputs of a layer
SHOWN = 3  # layers in an error message
Tensors = dict[str, Tensor]


def export_nunchaku_lite(folder: Folder, output: Path) -> dict[str, int]:
    """Write a result of 4 bits for nunchaku_lite's kernels, whole or not at all.

    Args:
        folder: the checked folder; it is verified first.
        output: the folder to write; must not exist.

    Returns:
        The number of layers for each kernel.

    Raises:
        UserError: it has no weights of 4 bits in groups of 64, or shapes that no kernel reads.
        RunFailed: it differs from its record.
    """
    record = read_record(folder.path)
    rounded = rounded_layers(folder.path, record)
    verify_folder(folder.path)
    component = str(record["component"])
    tensors = read_all(folder.path / component)
    kernels = {name: SVDQ if f"{name}.{UP}" in tensors else AWQ for name in rounded}
    require_shapes(tensors, kernels)
    rank = shared_rank(tensors, kernels)
    dtype = scale_dtype(tensors, kernels)
    with whole_folder(output, overwrite=False, inputs=[folder.path]) as inside:
        for name in record["hashes"]["files"]:
            if Path(name).parts[0] != component or name == f"{component}/{CONFIG}":
                (inside / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(folder.path / name, inside / name)
        packed = dict(converted(tensors, kernels, rank, dtype))
        save_file(packed, inside / component / WEIGHTS, {"format": "pt"})
        rewrite_configs(inside, component, kernels, rank, dtype)
        set_modes(inside)
        write_whole(inside / CARD, card(inside, component, kernels))
    return {kernel: list(kernels.values()).count(kernel) for kernel in (AWQ, SVDQ)}


def rounded_layers(folder: Path, record: Mapping[str, Any]) -> list[str]:
    """Return the names of the rounded layers; UserError if they are not of 4 bits, groups of 64."""
    rows = [row for row in (*record["layers"], *record.get("rounded_too", [])) if row.get("bits")]
    found = {(row["bits"], row["group_size"]) for row in rows}
    if found != {(4, GROUP)}:
        has = " and ".join(f"{bits} bits in groups of {group}" for bits, group in sorted(found))
        raise UserError(
            f"{folder}: expected weights of 4 bits in groups of {GROUP}, found {has or 'none'}; "
            f"prune with --bits 4 --group-size {GROUP}"
        )
    return sorted(row["name"] for row in rows)


def read_all(component: Path) -> Tensors:
    """Return every tensor of a component."""
    tensors: Tensors = {}
    for file in weight_files_in(component):
        with safe_open(file, "pt") as opened:
            tensors |= {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
    return tensors


def require_shapes(tensors: Tensors, kernels: Mapping[str, str]) -> None:
    """Check that the kernels read the shapes; UserError with the first layers that they do not."""
    odd = []
    for name, kernel in kernels.items():
        shape, wanted = tuple(tensors[codes_name(name)].shape), MULTIPLES[kernel]
        if any(size % multiple for size, multiple in zip(shape, wanted, strict=True)):
            odd.append(f"{name} {shape}, for {kernel} with multiples of {wanted}")
    if odd:
        more = f" and {len(odd) - SHOWN} more" if len(odd) > SHOWN else ""
        raise UserError(
            f"nunchaku-lite: its kernels do not read {', '.join(odd[:SHOWN])}{more}; "
            f"prune with --round-to {ROWS}, or exclude these layers"
        )


def shared_rank(tensors: Tensors, kernels: Mapping[str, str]) -> int:
    """Return the rank that all corrections are padded to; 0 without corrections."""
    ranks = [tensors[f"{name}.{UP}"].shape[1] for name, kernel in kernels.items() if kernel == SVDQ]
    return -(-max(ranks, default=0) // RANKS) * RANKS


def scale_dtype(tensors: Tensors, kernels: Mapping[str, str]) -> torch.dtype:
    """Return the half-precision format that the kernels compute in.

    float16 where the folder has it and it holds every scale; else bfloat16, which holds them all.
    """
    scales = [tensors[f"{name}.{SCALE}"] for name in kernels]
    held = all(torch.equal((8 * s.float()).half().float(), 8 * s.float()) for s in scales)
    return torch.float16 if held and scales[0].dtype == torch.float16 else torch.bfloat16


def converted(
    tensors: Tensors, kernels: Mapping[str, str], rank: int, dtype: torch.dtype
) -> Iterator[tuple[str, Tensor]]:
    """Yield the tensors of the folder to write, by name.

    Args:
        tensors: those of the source.
        kernels: rounded layer -> its kernel.
        rank: of all corrections.
        dtype: of scales, biases and corrections.
    """
    own = {f"{name}.{part}" for name in kernels for part in (CODES, SCALE, ZERO_POINT, UP, DOWN)}
    own |= {f"{name}.bias" for name in kernels} | {f"{MODULE}.{LOW_RANK}"}
    for name, tensor in tensors.items():
        if name not in own:
            yield name, tensor
    for name, kernel in kernels.items():
        parts = {
            part: tensors[f"{name}.{part}"]
            for part in (CODES, SCALE, UP, DOWN, "bias")
            if f"{name}.{part}" in tensors
        }
        made = awq_layer(parts, dtype) if kernel == AWQ else svdq_layer(parts, rank, dtype)
        for part, tensor in made.items():
            yield f"{name}.{part}", tensor.contiguous()


def awq_layer(parts: Tensors, dtype: torch.dtype) -> Tensors:
    """Return the tensors of a layer without a correction."""
    scales, zeros = awq_scales(parts[SCALE].to(dtype))
    bias = {"bias": parts["bias"].to(dtype)} if "bias" in parts else {}
    return {"qweight": awq_weight(parts[CODES]), "wscales": scales, "wzeros": zeros} | bias


def svdq_layer(parts: Tensors, rank: int, dtype: torch.dtype) -> Tensors:
    """Return the tensors of a layer with a correction; its inputs are not smoothed."""
    up, down = svdq_factors(parts[UP].to(dtype), parts[DOWN].to(dtype), rank)
    bias = {"bias": svdq_vector(parts["bias"].to(dtype))} if "bias" in parts else {}
    return {
        "qweight": svdq_weight(parts[CODES]),
        "wscales": svdq_scales(parts[SCALE].to(dtype)),
        "smooth_factor": torch.ones(parts[CODES].shape[1], dtype=dtype),
        "proj_down": down,
        "proj_up": up,
    } | bias


def rewrite_configs(
    folder: Path, component: str, kernels: Mapping[str, str], rank: int, dtype: torch.dtype
) -> None:
    """State the kernels in config.json; a model without pruned shapes is diffusers' own again."""
    file = folder / component / CONFIG
    config: dict[str, Any] = read_json(file)
    config.pop(LOW_RANK_KEY, None)
    sections: dict[str, Any] = {}
    for kernel in (AWQ, SVDQ):
        targets = [name for name, own in kernels.items() if own == kernel]
        if targets:
            sections[kernel] = {"precision": "int4", "group_size": GROUP, "targets": targets}
    if SVDQ in sections:
        sections[SVDQ]["rank"] = rank
    compute = str(dtype).removeprefix("torch.")
    config["quantization_config"] = {
        "quant_method": METHOD,
        "compute_dtype": compute,
        **sections,
    }
    if not any(config.get(key) for key in (LAYOUT_KEY, FOLDED_KEY)):
        config.pop(HEAD_MARKER_KEY, None)
        config["_class_name"] = str(config["_class_name"]).removeprefix(CLASS_PREFIX)
        index = read_json(folder / INDEX)
        index[component] = ["diffusers", config["_class_name"]]
        write_json(folder / INDEX, index)
    write_json(file, config)


def card(folder: Path, component: str, kernels: Mapping[str, str]) -> str:
    """Return the README.md of the folder.

    Args:
        folder: the folder, complete but for its card.
        component: name of the rounded component.
        kernels: rounded layer -> its kernel.
    """
    name = str(read_json(folder / INDEX)["_class_name"])
    cls = getattr(diffusers, name, diffusers.DiffusionPipeline)
    corrected = list(kernels.values()).count(SVDQ)
    activations = (
        f" The kernel of the {corrected} with a correction of low rank rounds activations to 4 "
        "bits, too, which was not measured."
        if corrected
        else " Activations stay in half precision."
    )
    text = (
        f"{len(kernels)} linear layers of {component} have 4 bits, two in a byte, in the layout of "
        "CUDA kernels (`obsdiff export --to nunchaku-lite`)."
        f"{activations} diffusers opens it with `pip install kernels` on a CUDA card, and "
        "downloads the kernels, which are code of others: it asks for "
        "`DIFFUSERS_TRUST_REMOTE_KERNELS=true`. No GPU has opened it yet."
    )
    lines = opening(f"{name}, rounded by obsdiff to 4 bits", text, loading_code(folder, cls))
    return "\n".join([*lines, "The licence of the dense model applies."]) + "\n"
