"""A pipeline as one safetensors file under its authors' names, as ComfyUI and others open it.

The weights are those of the folder, bit for bit and in their stored formats. The configs of all
components, and what was pruned, are in the file's metadata.
"""

import contextlib
import json
from pathlib import Path

from safetensors.torch import save_file
from torch import Tensor

from ..pipelines.folder import Folder
from ..pipelines.output_path import absolute
from ..runtime.json_files import read_json
from ..runtime.version import VERSION
from ..runtime.whole_files import whole_file
from .layouts import places
from .originals import original_tensors
from .shapes import require_widths_alone

FORMAT = 1  # of the metadata


def export_single_file(folder: Folder, output: Path, component: str | None) -> list[str]:
    """Write a pipeline, or its denoiser alone, as one file.

    Args:
        folder: a checked folder.
        output: the file to write.
        component: the denoiser to write alone; None for the whole model.

    Returns:
        The names of the components in the file.

    Raises:
        UserError: the model can't be written as one file; the message says why.
    """
    chosen = places(folder, component)
    for name in chosen:
        require_widths_alone(folder, name)
    with contextlib.ExitStack() as opened:
        tensors = original_tensors(folder, chosen, opened)
        write_tensors(folder, list(chosen), tensors, output)
    return list(chosen)


def write_tensors(
    folder: Folder, names: list[str], tensors: dict[str, Tensor], output: Path
) -> None:
    """Write a file whole.

    Args:
        folder: the checked folder.
        names: the components whose tensors these are.
        tensors: by their names in the file.
        output: the file.
    """
    output = absolute(output)
    output.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(output) as beside:
        save_file(tensors, beside, metadata(folder, names))


def metadata(folder: Folder, names: list[str]) -> dict[str, str]:
    """Return the texts in the file's header: configs, what was pruned, the version.

    Args:
        folder: the checked folder.
        names: the components in the file.
    """
    configs = {f"{name}/config.json": folder.config(name) for name in names}
    layouts = {name: folder.config(name).get("pruned_layout") for name in names}
    others = ("model_index.json", "scheduler/scheduler_config.json")
    configs |= {f: read_json(folder.path / f) for f in others if (folder.path / f).is_file()}
    for config in configs.values():
        for key in ("_name_or_path", "quantization_config"):  # of the folder, not of the file
            config.pop(key, None)
    own = {
        "format": FORMAT,
        "version": VERSION,
        "pipeline": folder.pipeline,
        "classes": {name: list(folder.classes[name]) for name in names},
        "pruned_layout": {name: layout for name, layout in layouts.items() if layout},
    }
    texts = {name: json.dumps(config) for name, config in configs.items()}
    return {"format": "pt", "obsdiff": json.dumps(own)} | texts
