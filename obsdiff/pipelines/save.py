"""Load pipelines in the number format they are stored in, and save pruned ones: whole, or not at all.

What is written loads in plain diffusers without obsdiff. Beside the weights lie obsdiff.json (what was done) and, where
the pipeline brought none, a model card. Weights are safetensors; nothing is ever unpickled.
"""

import contextlib
import json
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..errors import RunFailed
from ..models.adapters import require_unwrapped
from ..runtime.file_hashing import file_hashes
from ..runtime.json_files import read_json
from .model_card import model_card
from .partial_output import check_output, put
from .record import RECORD, PruningReport


def cast_(pipe: Any, formats: dict[str, str]) -> None:
    """Bring components to the formats they are to be saved in. RunFailed, with the weight's name, for one that float16 does not hold."""
    for name, format in formats.items():
        module = getattr(pipe, name, None)
        if isinstance(module, nn.Module):
            module.to(getattr(torch, format))
            lost = [
                weight
                for weight, value in module.state_dict().items()
                if format == "float16" and not value.isfinite().all()
            ]
            if lost:
                raise RunFailed(
                    f"{name}.{lost[0]}: it has inf or NaN in float16, which the pipeline is stored in; prune and save it with --dtype bfloat16"
                )


def save_pruned(
    pipe: Any, output: str | Path, report: PruningReport, *, overwrite: bool = False
) -> Path:
    """Save a pruned pipeline with its record, in the formats its components have now. The folder appears complete or not at
    all; an existing one raises UserError unless `overwrite`. Returns the folder."""
    with whole_folder(Path(output), overwrite, sources(pipe)) as inside:
        write_pruned(pipe, inside, report)
    return Path(output)


def sources(pipe: Any) -> list[Path]:
    """The folders that a pipeline and its components were loaded from, as far as they are known and still there."""
    configs = [pipe.config, *(getattr(part, "config", None) for part in pipe.components.values())]
    names = {getattr(config, "_name_or_path", None) for config in configs}
    return [Path(name) for name in names if isinstance(name, str) and name]


def write_pruned(pipe: Any, folder: Path, report: PruningReport) -> None:
    require_unwrapped(pipe)
    pipe.save_pretrained(folder, safe_serialization=True)
    report.hashes["files"] = file_hashes(folder)  # but for the card, which its owner will edit
    (folder / "README.md").write_text(model_card(type(pipe).__name__, report), encoding="utf-8")
    (folder / RECORD).write_text(json.dumps(report.to_dict(), indent=1) + "\n", encoding="utf-8")


@contextlib.contextmanager
def whole_folder(output: Path, overwrite: bool, inputs: Iterable[Path] = ()) -> Iterator[Path]:
    """A new folder beside `output` to write into, which takes its place when all went well and vanishes otherwise."""
    check_output(output, overwrite, inputs)
    output.absolute().parent.mkdir(parents=True, exist_ok=True)
    beside = Path(tempfile.mkdtemp(prefix=f".{output.name}-", dir=output.absolute().parent))
    inside = beside / "new"
    inside.mkdir()
    try:
        yield inside
        put(inside, output, beside / "old", overwrite)
        shutil.rmtree(beside / "old", ignore_errors=True)
    finally:  # what could not go back to its place stays
        shutil.rmtree(inside, ignore_errors=True)
        with contextlib.suppress(OSError):
            beside.rmdir()


def read_record(folder: Path) -> dict[str, Any]:
    """obsdiff.json of a pruned folder; UserError if there is none or it can't be read."""
    return read_json(Path(folder) / RECORD)
