"""Tensors of one component on disk: JSON and headers of safetensors files, read without torch.

The weights are one file or shards that an index names, plain or as a variant ("fp16" in
model.fp16.safetensors). One set of files is used, plain before any variant; a missing part of it is
named.
"""

import json
import math
import re
import struct
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypedDict

from ..errors import UserError
from ..runtime.json_files import read_json

PICKLED = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
SAFETENSORS_DTYPES = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}
BYTES = {
    "F64": 8,
    "F32": 4,
    "F16": 2,
    "BF16": 2,
    "I64": 8,
    "I32": 4,
    "I16": 2,
    "I8": 1,
    "U8": 1,
    "BOOL": 1,
    "F8_E4M3": 1,
    "F8_E5M2": 1,
}
LARGEST_HEADER = 100_000_000  # bytes; the limit of the safetensors format


class TensorInfo(TypedDict):
    """Entry of a tensor in a safetensors header."""

    dtype: str
    shape: list[int]
    data_offsets: list[int]


@dataclass(frozen=True)
class Tensors:
    """Names, shapes and stored formats of one component's tensors.

    Attributes:
        shapes: shape of each tensor, by its name.
        formats: safetensors dtype of each tensor, by its name.
        size: bytes on disk.
        files: the files that hold them.
        variant: variant of the files, such as fp16; None for plain ones.
        variants: all variants in the folder.
        original: whether the names are those of the model's authors instead of those of diffusers.
    """

    shapes: dict[str, tuple[int, ...]]
    formats: dict[str, str] = field(default_factory=dict)
    size: int = 0
    files: tuple[Path, ...] = ()
    variant: str | None = None
    variants: tuple[str, ...] = ()
    original: bool = False

    @property
    def dtype(self) -> str | None:
        """The torch name of the floating-point format of most parameters; None without any."""
        counts: Counter[str] = Counter()
        for name, shape in self.shapes.items():
            if self.formats[name] in SAFETENSORS_DTYPES:
                counts[SAFETENSORS_DTYPES[self.formats[name]]] += math.prod(shape)
        return counts.most_common(1)[0][0] if counts else None

    @property
    def packed(self) -> str | None:
        """The first weight matrix in another format than floating point: quantised weights."""
        matrices = (
            name
            for name, shape in self.shapes.items()
            if name.endswith("weight") and len(shape) == 2
        )
        return next(
            (name for name in matrices if self.formats[name] not in SAFETENSORS_DTYPES), None
        )

    def layers(self, target: str = "linear") -> dict[str, tuple[int, int]]:
        """Return the shape (O, I) of every layer, by its name.

        Args:
            target: conv adds every convolution (O, C, kh, kw) as its matrix (O, C kh kw).

        Returns:
            The shapes; empty if the tensors have the authors' names.
        """
        sides = (2, 4) if target == "conv" else (2,)
        matrices = {
            n.removesuffix(".weight"): (s[0], math.prod(s[1:]))
            for n, s in self.shapes.items()
            if n.endswith(".weight") and len(s) in sides
        }
        return {} if self.original else matrices


def read_component(folder: Path, weights: bool = True, wanted: str | None = None) -> Tensors:
    """Read the headers of a component's safetensors files.

    Args:
        folder: the component's folder.
        weights: whether the weights are required; if not, the result may be empty.
        wanted: the variant to use if it is there.

    Raises:
        UserError: the weights are missing, incomplete, pickled or damaged.
    """
    files = sorted(folder.glob("*.safetensors"))
    if not files and not weights:
        return Tensors({})
    if not files:
        raise missing_weights(folder)
    variants = tuple(sorted({variant for f in files if (variant := variant_of(f))}))
    plain = any(not variant_of(f) for f in files)
    variant = wanted if wanted in variants else None if plain else variants[0]
    chosen = whole_set([f for f in files if variant_of(f) == variant], variant)
    shapes: dict[str, tuple[int, ...]] = {}
    formats: dict[str, str] = {}
    for file in chosen:
        for name, info in read_header(file).items():
            shapes[name], formats[name] = tuple(info["shape"]), info["dtype"]
    return Tensors(
        shapes, formats, sum(f.stat().st_size for f in chosen), tuple(chosen), variant, variants
    )


def missing_weights(folder: Path) -> UserError:
    """Return the error for a folder without safetensors files."""
    pickles = [f.name for f in folder.iterdir() if f.suffix in PICKLED]
    if pickles:
        return UserError(
            f"{folder} has only pickled weights ({pickles[0]}), which can run code when opened; "
            "convert them first with save_pretrained(..., safe_serialization=True)"
        )
    if any(folder.glob("*.gguf")):
        return UserError(
            f"{folder} has only GGUF weights, which are quantised; "
            "prune the unquantised pipeline, then quantise the result"
        )
    return UserError(f"{folder} has no weights: expected .safetensors files")


def variant_of(file: Path) -> str | None:
    """Return the variant in a file name; None for a plain name.

    It is fp16 for model.fp16.safetensors, model.fp16-00001-of-00002.safetensors and
    model-00001-of-00002.fp16.safetensors.
    """
    return variant_of_name(file.name)


def variant_of_name(name: str) -> str | None:
    """Return the variant in a file's name or path; None for a plain one."""
    found = re.fullmatch(r"[^.]+\.(\w+?)(-\d+-of-\d+)?\.safetensors", name)
    return found[1] if found else None


def unknown_variant(variant: str, there: Collection[str]) -> UserError:
    """Return the error for a variant that no component has.

    Args:
        variant: the variant that was asked for.
        there: the variants of the model.
    """
    has = f"{', '.join(sorted(there))} beside plain files" if there else "plain files only"
    return UserError(f"variant: expected one of the model's, which has {has}; found {variant!r}")


def whole_set(files: list[Path], variant: str | None) -> list[Path]:
    """Return the files of one variant that form a whole: a single file, or all shards.

    Args:
        files: at least one file, all of the variant.
        variant: the variant; None for plain files.

    Raises:
        UserError: a shard or the index is missing, or a shard lacks a tensor of the index.
    """
    shards = [shard for f in files if (shard := shard_of(f))]
    if len(shards) < len(files):
        return [f for f in files if not shard_of(f)]
    first, count = shards[0]
    here = {number for number, _ in shards}
    missing = sorted(set(range(1, count + 1)) - here)
    if missing:
        absent = files[0].name.replace(f"-{first:05}-of-", f"-{missing[0]:05}-of-", 1)
        raise UserError(
            f"{files[0].parent}: shard {absent} is missing: expected {count} shards, "
            f"found {len(here)}; fetch the pipeline again"
        )
    index = index_file(files[0].parent, variant)
    if index is None:
        raise UserError(
            f"{files[0].parent} has {len(files)} shards, but no index: "
            "expected a .safetensors.index.json; fetch the pipeline again"
        )
    check_index(index)
    return files


def shard_of(file: Path) -> tuple[int, int] | None:
    """Return (2, 3) for model-00002-of-00003.safetensors; None for a file that is no shard."""
    return shard_of_name(file.name)


def shard_of_name(name: str) -> tuple[int, int] | None:
    """Return the shard's number and the number of all in a file's name or path."""
    found = re.search(r"-(\d+)-of-(\d+)\.(\w+\.)?safetensors$", name)
    return (int(found[1]), int(found[2])) if found else None


def index_file(folder: Path, variant: str | None) -> Path | None:
    """Return model.safetensors.index.json, or model.safetensors.index.fp16.json; None if absent."""
    ending = f".safetensors.index.{variant}.json" if variant else ".safetensors.index.json"
    return next(iter(sorted(folder.glob(f"*{ending}"))), None)


def check_index(index: Path) -> None:
    """Check that the shards that an index names exist and hold its tensors.

    Raises:
        UserError: the index can't be read, a shard is missing, or a shard lacks a tensor.
    """
    promised: dict[str, list[str]] = {}
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not all(
        isinstance(file, str) for file in weight_map.values()
    ):
        raise UserError(
            f"{index}: expected the tensors' files in weight_map, found {weight_map!r:.80}"
        )
    for tensor, file in weight_map.items():
        promised.setdefault(file, []).append(tensor)
    for file, tensors in promised.items():
        if not (index.parent / Path(file).name).is_file():
            raise UserError(
                f"{index.parent}: shard {file} is missing: {index.name} names it; "
                "fetch the pipeline again"
            )
        header = read_header(index.parent / Path(file).name)
        lacking = [tensor for tensor in tensors if tensor not in header]
        if lacking:
            raise UserError(
                f"{index.parent / file} lacks {shortened(lacking)}, which {index.name} names; "
                "fetch the pipeline again"
            )


def shortened(names: list[str], shown: int = 3) -> str:
    """Return the first names and the number of further ones."""
    more = len(names) - shown
    return ", ".join(names[:shown]) + (f" and {more} more" if more > 0 else "")


def read_header(file: Path) -> dict[str, TensorInfo]:
    """Read the header of a safetensors file and check it against the file's length.

    Returns:
        {tensor: {"dtype", "shape", "data_offsets"}}.

    Raises:
        UserError: the file is no safetensors file, or it is incomplete.
    """
    size = file.stat().st_size
    with file.open("rb") as handle:
        start = handle.read(8)
        length = struct.unpack("<Q", start)[0] if len(start) == 8 else 0
        if not 2 <= length <= min(size - 8, LARGEST_HEADER):
            raise UserError(
                f"{file} is no whole safetensors file: its header does not fit into its "
                f"{size} bytes; fetch it again"
            )
        raw = handle.read(length)
    try:
        header = json.loads(raw)
        tensors = {name: info for name, info in header.items() if name != "__metadata__"}
        end = max((check_tensor(info) for info in tensors.values()), default=0)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        raise UserError(
            f"{file} is no safetensors file: its header can't be read; fetch it again"
        ) from None
    if 8 + length + end != size:
        raise UserError(
            f"{file} is cut off or damaged: expected {8 + length + end} bytes by its header, "
            f"found {size}; fetch it again"
        )
    return tensors


def check_tensor(info: Any) -> int:
    """Check a tensor's entry and return the offset of its end; ValueError for a wrong one."""
    begin, end = info["data_offsets"]
    shape = info["shape"]
    if not all(type(x) is int and x >= 0 for x in (begin, end, *shape)) or begin > end:
        raise ValueError("offsets")
    if info["dtype"] in BYTES and BYTES[info["dtype"]] * math.prod(shape) != end - begin:
        raise ValueError("size")
    return end
