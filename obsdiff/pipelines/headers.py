"""What is stored of one component: its JSON and the headers of its safetensors files, read without torch.

Weights may lie in one file or in shards that an index names, plain or as a variant ("fp16" in model.fp16.safetensors). One set
of files is taken, plain before any variant; what is missing from it is named.
"""

import json
import math
import re
import struct
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

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


@dataclass(frozen=True)
class Tensors:
    """Names, shapes and stored formats of one component's tensors, from its safetensors headers. `variant` is the one its files
    carry, out of `variants`; `original` means that the names are those of the model's authors, not those of diffusers."""

    shapes: dict[str, tuple[int, ...]]
    formats: dict[str, str] = field(default_factory=dict)
    size: int = 0  # bytes on disk
    files: tuple[Path, ...] = ()
    variant: str | None = None
    variants: tuple[str, ...] = ()
    original: bool = False

    @property
    def dtype(self) -> str | None:
        """The format most parameters are stored in, as torch names it."""
        counts: Counter = Counter()
        for name, shape in self.shapes.items():
            if self.formats[name] in SAFETENSORS_DTYPES:
                counts[SAFETENSORS_DTYPES[self.formats[name]]] += math.prod(shape)
        return counts.most_common(1)[0][0] if counts else None

    @property
    def packed(self) -> str | None:
        """The first weight matrix stored in a format that is no plain floating point: quantised weights."""
        matrices = (
            name
            for name, shape in self.shapes.items()
            if name.endswith("weight") and len(shape) == 2
        )
        return next(
            (name for name in matrices if self.formats[name] not in SAFETENSORS_DTYPES), None
        )

    def layers(self, target: str = "linear") -> dict[str, tuple[int, int]]:
        """Layer name -> (O, I) of the linear layers and, for target conv, of every convolution (O, C, kh, kw) as its matrix
        (O, C kh kw); empty where the names are not those of the layers."""
        sides = (2, 4) if target == "conv" else (2,)
        matrices = {
            n.removesuffix(".weight"): (s[0], math.prod(s[1:]))
            for n, s in self.shapes.items()
            if n.endswith(".weight") and len(s) in sides
        }
        return {} if self.original else matrices


def read_component(folder: Path, weights: bool = True) -> Tensors:
    """Tensors of one component. Without `weights` it may have none."""
    files = sorted(folder.glob("*.safetensors"))
    if not files and not weights:
        return Tensors({})
    if not files:
        pickles = [f.name for f in folder.iterdir() if f.suffix in PICKLED]
        if pickles:
            raise UserError(
                f"{folder} has only pickled weights ({pickles[0]}), which can run code when opened; convert them first with save_pretrained(..., safe_serialization=True)"
            )
        if any(folder.glob("*.gguf")):
            raise UserError(
                f"{folder} has only GGUF weights, which are quantised; prune the unquantised pipeline, then quantise the result"
            )
        raise UserError(f"{folder} has no weights: expected .safetensors files")
    variants = tuple(sorted({variant for f in files if (variant := variant_of(f))}))
    variant = None if any(not variant_of(f) for f in files) else variants[0]
    chosen = whole_set([f for f in files if variant_of(f) == variant], variant)
    shapes: dict[str, tuple[int, ...]] = {}
    formats: dict[str, str] = {}
    for file in chosen:
        for name, info in read_header(file).items():
            shapes[name], formats[name] = tuple(info["shape"]), info["dtype"]
    return Tensors(
        shapes, formats, sum(f.stat().st_size for f in chosen), tuple(chosen), variant, variants
    )


def variant_of(file: Path) -> str | None:
    """ "fp16" of model.fp16.safetensors, model.fp16-00001-of-00002.safetensors and model-00001-of-00002.fp16.safetensors."""
    found = re.fullmatch(r"[^.]+\.(\w+?)(-\d+-of-\d+)?\.safetensors", file.name)
    return found[1] if found else None


def whole_set(files: list[Path], variant: str | None) -> list[Path]:
    """The files of one variant that belong together: a single file if there is one, else all shards. UserError for a shard that
    is missing, or that lacks what the index promises."""
    single = [f for f in files if not shard_of(f)]
    if single:
        return single
    parts = shard_of(files[0])
    here = {shard_of(f)[0] for f in files}
    missing = sorted(set(range(1, parts[1] + 1)) - here)
    if missing:
        absent = files[0].name.replace(f"-{parts[0]:05}-of-", f"-{missing[0]:05}-of-", 1)
        raise UserError(
            f"{files[0].parent}: shard {absent} is missing: expected {parts[1]} shards, found {len(here)}; fetch the pipeline again"
        )
    index = index_file(files[0].parent, variant)
    if index is None:
        raise UserError(
            f"{files[0].parent} has {len(files)} shards, but no index: expected a .safetensors.index.json; fetch the pipeline again"
        )
    check_index(index)
    return files


def shard_of(file: Path) -> tuple[int, int] | None:
    """(2, 3) of model-00002-of-00003.safetensors; None for a file that is no shard."""
    found = re.search(r"-(\d+)-of-(\d+)\.(\w+\.)?safetensors$", file.name)
    return (int(found[1]), int(found[2])) if found else None


def index_file(folder: Path, variant: str | None) -> Path | None:
    """model.safetensors.index.json, or model.safetensors.index.fp16.json."""
    ending = f".safetensors.index.{variant}.json" if variant else ".safetensors.index.json"
    return next(iter(sorted(folder.glob(f"*{ending}"))), None)


def check_index(index: Path) -> None:
    """UserError for a shard that the index names and that is not there, or that lacks a tensor the index promises."""
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
                f"{index.parent}: shard {file} is missing: {index.name} names it; fetch the pipeline again"
            )
        header = read_header(index.parent / Path(file).name)
        lacking = [tensor for tensor in tensors if tensor not in header]
        if lacking:
            raise UserError(
                f"{index.parent / file} lacks {shortened(lacking)}, which {index.name} promises; fetch the pipeline again"
            )


def shortened(names: list[str], shown: int = 3) -> str:
    """The first names, and how many more there are."""
    more = len(names) - shown
    return ", ".join(names[:shown]) + (f" and {more} more" if more > 0 else "")


def read_header(file: Path) -> dict[str, dict]:
    """Header of a safetensors file, checked against the file's length: {tensor: {"dtype", "shape", "data_offsets"}}."""
    size = file.stat().st_size
    with file.open("rb") as handle:
        start = handle.read(8)
        length = struct.unpack("<Q", start)[0] if len(start) == 8 else 0
        if not 2 <= length <= min(size - 8, 100_000_000):
            raise UserError(
                f"{file} is no whole safetensors file: its header does not fit into its {size} bytes; fetch it again"
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
            f"{file} is cut off or damaged: its header promises {8 + length + end} bytes, found {size}; fetch it again"
        )
    return tensors


def check_tensor(info: dict) -> int:
    """Where the tensor's bytes end; ValueError if its entry makes no sense."""
    begin, end = info["data_offsets"]
    shape = info["shape"]
    if not all(type(x) is int and x >= 0 for x in (begin, end, *shape)) or begin > end:
        raise ValueError("offsets")
    if info["dtype"] in BYTES and BYTES[info["dtype"]] * math.prod(shape) != end - begin:
        raise ValueError("size")
    return end
