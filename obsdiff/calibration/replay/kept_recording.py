"""A recording in a folder, which a resumed replay reads instead of drawing the prompts again.

Each tensor is one safetensors file. recording.json has the calls, with the number of a file for
each tensor, the SHA-256 of every tensor, and one of the run that the recording belongs to; it is
written last. What is missing, damaged or of another run is not read. Nothing in it names code.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.utils._pytree import tree_iter, tree_map_only

from ...models.structure import Block
from ...runtime.hashed_json import read_hashed, write_hashed
from ...runtime.hashing import tensors_hash
from ...runtime.scratch import disk_errors
from ...runtime.whole_files import whole_file
from ..recording_place import RecordingPlace
from .recording import CachedTensor, Call, Recording, TensorCache, Trajectory
from .segments import CallOrder

INDEX = "recording.json"
CALL = ("step", "prompts", "batch", "steps")  # the numbers of a call


class NotPlain(Exception):
    """An input of the denoiser is neither a tensor nor plain data, so the calls stay unstored."""


def write_recording(place: RecordingPlace, trajectory: Trajectory) -> None:
    """Store a trajectory; tensors in files of the scratch storage move to the place.

    Nothing is stored of a trajectory that can't be replayed, or whose calls have inputs other
    than tensors and plain data: a resumed run draws it again.

    Args:
        place: the folder, and the run.
        trajectory: the trajectory; its calls read the moved tensors afterwards.

    Raises:
        RunStopped: the disk is full.
    """
    recording, order = trajectory.recording, trajectory.order
    numbers: dict[CachedTensor, int] = {}
    for call in recording.calls:
        for leaf in tree_iter(call.inputs):
            if isinstance(leaf, CachedTensor):
                numbers.setdefault(leaf, len(numbers))
    try:
        if trajectory.why_not:
            return
        calls = [
            {name: getattr(call, name) for name in CALL}
            | {"seeds": list(call.seeds), "inputs": plain(call.inputs, numbers)}
            for call in recording.calls
        ]
        shapes = plain(order.shapes, {})
    except NotPlain:
        return
    with disk_errors(place.folder):
        place.folder.mkdir(parents=True, exist_ok=True)
    moved, hashes = {}, []
    for kept, number in numbers.items():
        moved[kept], digest = store(place.file(number), recording.cache, kept)
        hashes.append({"sha256": digest, "home": str(kept.home)})
    found = {
        "run": place.run,
        "steps": recording.steps,
        "others": sorted(recording.others.items()),
        "calls": calls,
        "tensors": hashes,
        "order": {"calls": order.calls, "shapes": shapes, "layers": dict(order.layers)},
        "until": trajectory.until,
    }
    with disk_errors(place.folder):
        write_hashed(place.folder / INDEX, found)
    recording.calls = [
        replace(call, inputs=tree_map_only(CachedTensor, moved.__getitem__, call.inputs))
        for call in recording.calls
    ]


def store(file: Path, cache: TensorCache, kept: CachedTensor) -> tuple[CachedTensor, str]:
    """Write a tensor; return it, and its SHA-256. One in a scratch file moves to this file."""
    tensor = cache.get(kept).cpu()
    with disk_errors(file), whole_file(file) as beside:
        save_file({"x": tensor}, beside)
    if isinstance(kept.held, Path):
        cache.drop(kept)
        kept = replace(kept, held=file)
    return kept, tensors_hash([("x", tensor)])


def read_recording(
    place: RecordingPlace, cache: TensorCache, blocks: list[Block]
) -> Trajectory | None:
    """Return the stored trajectory; None if there is none of this run, or it is damaged.

    Args:
        place: the folder, and the run.
        cache: receives as many tensors as its memory has room for; others stay in their files.
        blocks: the blocks of the denoiser.
    """
    found = read_hashed(place.folder / INDEX)
    if not isinstance(found, dict) or found.get("run") != place.run:
        return None
    tensors: list[CachedTensor] = []
    try:
        for number, row in enumerate(found["tensors"]):
            tensors.append(opened(place.file(number), cache, row))
    except (SafetensorError, OSError, LookupError, ValueError):
        cache.drop_all([kept for kept in tensors if isinstance(kept.held, Tensor)])
        return None
    calls = [
        Call(
            inputs=restored(row["inputs"], tensors),
            seeds=tuple(row["seeds"]),
            **{name: row[name] for name in CALL},
        )
        for row in found["calls"]
    ]
    order = CallOrder(blocks)
    order.calls = found["order"]["calls"]
    order.shapes = restored(found["order"]["shapes"], [])
    order.layers.update(found["order"]["layers"])
    others = Counter(dict(found["others"]))
    return Trajectory(Recording(cache, found["steps"], calls, others), order, found["until"])


def opened(file: Path, cache: TensorCache, row: dict[str, str]) -> CachedTensor:
    """Return a stored tensor; ValueError if it is not as recorded."""
    if not file.is_file():
        raise ValueError(f"{file} is no file")
    tensor = load_file(file)["x"]
    if tensors_hash([("x", tensor)]) != row["sha256"]:
        raise ValueError(f"{file} is not as recorded")
    return cache.adopt(tensor, file, torch.device(row["home"]))


def plain(value: Any, numbers: dict[CachedTensor, int]) -> Any:
    """Return a tree as JSON data that `restored` reads; NotPlain for objects of other types.

    Args:
        value: nested tuples, lists and dicts of numbers, texts, dtypes, stored tensors, and tensors
            that stand for a shape.
        numbers: the number of each stored tensor.
    """
    if value is None or type(value) in (bool, int, str):
        return value
    if isinstance(value, CachedTensor):
        return {"tensor": numbers[value]}
    if isinstance(value, Tensor):
        return {"like": [list(value.shape), name_of(value.dtype), str(value.device)]}
    writer = WRITERS.get(type(value))
    if writer is None:
        raise NotPlain
    name, parts = writer(value)
    return {name: parts if isinstance(parts, str) else [plain(part, numbers) for part in parts]}


WRITERS: dict[type, Callable[[Any], tuple[str, Any]]] = {
    float: lambda value: ("float", value.hex()),  # inf and NaN, too
    torch.dtype: lambda value: ("dtype", name_of(value)),
    torch.device: lambda value: ("device", str(value)),
    torch.Size: lambda value: ("size", tuple(value)),
    tuple: lambda value: ("tuple", value),
    list: lambda value: ("list", value),
    dict: lambda value: ("dict", value.items()),
}


def restored(value: Any, tensors: list[CachedTensor]) -> Any:
    """Return the tree of which `plain` made JSON data."""
    if not isinstance(value, dict):
        return value
    ((name, content),) = value.items()
    if name == "tensor":
        return tensors[content]
    if name == "like":
        shape, dtype, device = content
        return torch.zeros((), dtype=dtype_of(dtype), device=device).expand(shape)
    if name in ("float", "dtype", "device"):
        return {"float": float.fromhex, "dtype": dtype_of, "device": torch.device}[name](content)
    parts = [restored(part, tensors) for part in content]
    return {"size": torch.Size, "tuple": tuple, "list": list, "dict": dict}[name](parts)


def name_of(dtype: torch.dtype) -> str:
    """Return the name of a dtype without its module."""
    return str(dtype).removeprefix("torch.")


def dtype_of(name: str) -> torch.dtype:
    """Return the dtype of a name."""
    dtype = getattr(torch, name)
    assert isinstance(dtype, torch.dtype)
    return dtype
