"""The Python code that opens a saved pipeline, for its model card."""

import math
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import diffusers

from ..runtime.json_files import read_json
from .headers import SAFETENSORS_DTYPES, read_header
from .published import PLACE

CODE = "obsdiff.py"  # a modelling file beside the weights; diffusers looks for it by this name


def loading_code(folder: Path, pipeline: type) -> list[str]:
    """Return the lines of code that open a saved pipeline as it was stored.

    They import obsdiff if model_index.json names it, unless a modelling file beside the weights
    takes its place; state the number formats, since diffusers opens in float32 otherwise; and pass
    None for components that the pipeline requires and lacks.

    Args:
        folder: the saved pipeline.
        pipeline: its class.
    """
    index = read_json(folder / "model_index.json")
    parts = {name: value for name, value in index.items() if isinstance(value, list)}
    name = pipeline.__name__
    kind = name if hasattr(diffusers, name) else "DiffusionPipeline"
    formats = formats_in(folder, parts)
    optional = getattr(pipeline, "_optional_components", [])
    absent = [part for part, value in parts.items() if value[:1] == [None] and part not in optional]
    arguments = [f'"{PLACE}"']
    arguments += [f"dtype={dtype_code(formats)}"] if formats else []
    arguments += [f"{part}=None" for part in absent]
    coded = [part for part in parts if code_file(folder, part).is_file()]
    arguments += ["trust_remote_code=True"] if coded else []
    call = f"pipe = {kind}.from_pretrained("
    pruned = not coded and any(value[:1] == ["obsdiff"] for value in parts.values())
    return [
        *(["import obsdiff  # defines the pruned classes"] if pruned else []),
        *(["import torch"] if formats else []),
        f"from diffusers import {kind}",
        "",
        *(
            f"# trust_remote_code runs {part}/{CODE} of this folder: read it first"
            for part in coded
        ),
        *([f"{call}{arguments[0]})"] if len(arguments) == 1 else [call]),
        *([f"    {argument}," for argument in arguments] + [")"] if len(arguments) > 1 else []),
    ]


def code_file(folder: Path, component: str) -> Path:
    """Return the place of a modelling file that opens a component without obsdiff."""
    return folder / component / CODE


def formats_in(folder: Path, parts: Iterable[str]) -> dict[str, str]:
    """Return the number format of most stored weights of each component that has any, by its name.

    Args:
        folder: the saved pipeline.
        parts: names of components.
    """
    found = {}
    for name in parts:
        counts: Counter[str] = Counter()
        for file in (folder / name).glob("*.safetensors"):
            for info in read_header(file).values():
                if info["dtype"] in SAFETENSORS_DTYPES:
                    counts[SAFETENSORS_DTYPES[info["dtype"]]] += math.prod(info["shape"])
        if counts:
            found[name] = counts.most_common(1)[0][0]
    return found


def dtype_code(formats: dict[str, str]) -> str:
    """Return the value of from_pretrained's `dtype`: one format, or one for each component.

    Args:
        formats: component -> number format; at least one.
    """
    (most, _), *_ = Counter(formats.values()).most_common(1)
    others = {name: dtype for name, dtype in formats.items() if dtype != most}
    if not others:
        return f"torch.{most}"
    each = [f'"{name}": torch.{dtype}' for name, dtype in {"default": most, **others}.items()]
    return "{" + ", ".join(each) + "}"
