"""Save pruned pipelines whole or not at all, in the formats their weights were stored in.

A saved folder loads in plain diffusers without obsdiff, unless shapes were pruned. It also has
obsdiff.json (the record) and a model card. Weights are safetensors; nothing is ever unpickled.
"""

import contextlib
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..errors import RunFailed
from ..models.adapters import require_unwrapped
from ..models.client_marker import is_marked
from ..models.folded import folded_ranks
from ..models.layout import layout_of
from ..models.low_rank import ranks_of
from ..models.pruned_classes import mark_heads_
from ..runtime.file_hashing import file_hash, file_hashes
from ..runtime.json_files import write_json
from ..runtime.progress import say
from ..runtime.whole_files import set_modes, sync_folder, sync_tree, write_whole
from .bitmask_folder import pack_pipeline_
from .copied_parts import forget_places
from .loading_code import loading_code
from .low_bits import grids_of, stored_in_bits
from .model_card import CARD, model_card
from .output_path import absolute
from .partial_output import check_output, put
from .record import RECORD, PruningReport, sealed


def cast_(pipe: Any, formats: dict[str, str]) -> None:
    """Cast components to the formats to save them in.

    Args:
        pipe: the pipeline that is changed.
        formats: torch name of each component's dtype.

    Raises:
        RunFailed: float16 does not hold a weight; the message names it.
    """
    for name, dtype in formats.items():
        module = getattr(pipe, name, None)
        if isinstance(module, nn.Module):
            module.to(getattr(torch, dtype))
            lost = [
                weight
                for weight, value in module.state_dict().items()
                if dtype == "float16" and not value.isfinite().all()
            ]
            if lost:
                raise RunFailed(
                    f"{name}.{lost[0]}: it has inf or NaN in float16, the pipeline's stored "
                    "format; prune and save it with --dtype bfloat16"
                )


def save_pruned(
    pipe: Any, output: str | Path, report: PruningReport, *, overwrite: bool = False
) -> Path:
    """Save a pruned pipeline with its record, in the current dtypes of its components.

    The folder appears complete or not at all.

    Args:
        pipe: the pruned pipeline.
        output: the folder to write.
        report: the report that prune_ returned; the hashes of the files are added to it.
        overwrite: whether to replace an existing folder that obsdiff wrote.

    Returns:
        The folder.

    Raises:
        UserError: the folder exists or can't be written, or contains or is in the model's folder.
    """
    with whole_folder(Path(output), overwrite, sources(pipe)) as inside:
        write_pruned(pipe, inside, report)
    return Path(output)


def sources(pipe: Any) -> list[Path]:
    """Return the paths that a pipeline and its components were loaded from, where recorded."""
    configs = [pipe.config, *(getattr(part, "config", None) for part in pipe.components.values())]
    names = {getattr(config, "_name_or_path", None) for config in configs}
    return [Path(name) for name in names if isinstance(name, str) and name]


def write_pruned(pipe: Any, folder: Path, report: PruningReport) -> None:
    """Write a pruned pipeline, its model card and its record into an existing folder.

    Args:
        pipe: the pruned pipeline.
        folder: an empty folder.
        report: the report of the run; the hashes of the files are added to it.

    Raises:
        UserError: a LoRA is attached to the denoiser.
    """
    require_unwrapped(pipe)
    if layout_of(denoiser := getattr(pipe, report.component)):
        mark_heads_(denoiser)  # one pruned by an older version has no marker
    with stored_in_bits(denoiser):
        pipe.save_pretrained(folder, safe_serialization=True)
    forget_places(folder)
    packed = stored_as_asked_(folder, report)
    set_modes(folder)
    report.hashes["files"] = file_hashes(folder)  # without the card, which its owner may edit
    kinds = removed_kinds(denoiser) | ({"bitmask"} if packed else set())
    code = loading_code(folder, type(pipe))
    write_whole(folder / CARD, model_card(type(pipe).__name__, report, code, kinds))
    report.hashes["card"] = file_hash(folder / CARD)  # to see after a crash that it is whole
    write_json(folder / RECORD, sealed(report.to_dict()))


def stored_as_asked_(folder: Path, report: PruningReport) -> bool:
    """Store the zeros of a saved pipeline as bitmasks, if the run was asked to.

    Args:
        folder: the pipeline, saved plainly.
        report: of the run.

    Returns:
        Whether zeros are bitmasks now.
    """
    if report.config.get("store") != "bitmask":
        return False
    packed = pack_pipeline_(folder, report.component, {row.name for row in report.layers})
    if not packed:
        say("store bitmask: too few zeros to make any layer smaller; they are stored plainly")
    return packed


def removed_kinds(denoiser: nn.Module) -> set[str]:
    """Return what was removed from a denoiser, now or before: heads, neurons, channels; or added.

    "low rank" stands for corrections beside its weights, "modulation" for folded layers, "bits"
    for rounded weights.
    """
    kinds = {kind for owner in layout_of(denoiser).values() for kind in owner}
    kinds |= {"low rank"} if ranks_of(denoiser) else set()
    kinds |= {"modulation"} if folded_ranks(denoiser) else set()
    kinds |= {"bits"} if grids_of(denoiser) else set()
    return kinds if is_marked(denoiser) else kinds - {"heads"}  # else all heads are left


@contextlib.contextmanager
def whole_folder(output: Path, overwrite: bool, inputs: Iterable[Path] = ()) -> Iterator[Path]:
    """Open a new folder beside `output` that replaces it at the end, unless an error is raised.

    Args:
        output: the folder to write.
        overwrite: whether to replace an existing folder that obsdiff wrote.
        inputs: paths that the output must not overlap.

    Yields:
        The folder to write into.

    Raises:
        UserError: `output` can't be written or may not be replaced.
    """
    output = absolute(output)
    check_output(output, overwrite, inputs)
    output.parent.mkdir(parents=True, exist_ok=True)
    beside = Path(tempfile.mkdtemp(prefix=".obsdiff-", dir=output.parent))
    inside = beside / "new"
    inside.mkdir()
    try:
        yield inside
        sync_tree(inside)
        put(inside, output, beside / "old", overwrite)
        sync_folder(output.parent)
        shutil.rmtree(beside / "old", ignore_errors=True)
    finally:  # an old folder that could not be moved back is kept
        shutil.rmtree(inside, ignore_errors=True)
        with contextlib.suppress(OSError):
            beside.rmdir()
