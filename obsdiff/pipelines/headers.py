"""Tensors of one component on disk: the headers of its safetensors files, read without torch.

The weights are one file or shards that an index names, plain or as a variant ("fp16" in
model.fp16.safetensors). One set of files is used, plain before any variant; a missing part of it is
named.
"""

import math
import struct
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ..errors import UserError
from ..models.bitmask_format import Packed
from ..runtime.regular_files import require_regular
from .strict_header import TensorInfo, parse_header
from .weight_files import WeightFiles, missing_weights, weight_files

SAFETENSORS_DTYPES = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}
LARGEST_HEADER = 100_000_000  # bytes; the limit of the safetensors format


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
        strays: names of safetensors files in the folder that are none of the weights.
        bitmasks: layers whose weights are stored as values and bits; the shapes and formats are
            then those of the dense weights.
    """

    shapes: dict[str, tuple[int, ...]]
    formats: dict[str, str] = field(default_factory=dict)
    size: int = 0
    files: tuple[Path, ...] = ()
    variant: str | None = None
    variants: tuple[str, ...] = ()
    original: bool = False
    strays: tuple[str, ...] = ()
    bitmasks: Mapping[str, Packed] = field(default_factory=dict)

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


def read_component(
    folder: Path, stem: str, weights: bool = True, wanted: str | None = None
) -> Tensors:
    """Read the headers of a component's weights.

    Args:
        folder: the component's folder.
        stem: the beginning of their names, as weight_files.stem_of returns it.
        weights: whether the weights are required; if not, the result may be empty.
        wanted: the variant to use if it is there.

    Raises:
        UserError: the weights are missing, incomplete, pickled or damaged.
    """
    if not weights and not any(folder.glob("*.safetensors")):  # an index may be there alone
        return Tensors({})
    chosen = weight_files(folder, stem, wanted)
    if chosen is None:
        if weights:
            raise missing_weights(folder, stem)
        return Tensors({})
    headers = {file: read_header(file) for file in chosen.files}
    check_promised(chosen, headers)
    infos = [(name, info) for header in headers.values() for name, info in header.items()]
    return Tensors(
        shapes={name: tuple(info["shape"]) for name, info in infos},
        formats={name: info["dtype"] for name, info in infos},
        size=sum(file.stat().st_size for file in chosen.files),
        files=chosen.files,
        variant=chosen.variant,
        variants=chosen.variants,
        strays=chosen.strays,
    )


def check_promised(chosen: WeightFiles, headers: Mapping[Path, Mapping[str, TensorInfo]]) -> None:
    """Check that every shard has the tensors that the index names, and no other shard has them.

    Raises:
        UserError: a shard lacks a tensor, or two shards have the same one.
    """
    home: dict[str, str] = {}
    for file, header in headers.items():
        for name in header:
            if home.setdefault(name, file.name) != file.name:
                raise UserError(
                    f"{file.parent}: {name} is in {home[name]} and in {file.name}: expected it "
                    "once; fetch the pipeline again"
                )
    lacking: dict[str, list[str]] = {}
    for name, shard in chosen.promised.items():
        if home.get(name) != shard:
            lacking.setdefault(shard, []).append(name)
    for shard, names in lacking.items():
        assert chosen.index is not None
        raise UserError(
            f"{chosen.index.parent / shard} lacks {shortened(names)}, which {chosen.index.name} "
            "names; fetch the pipeline again"
        )


def shortened(names: Sequence[str], shown: int = 3) -> str:
    """Return the first names and the number of further ones."""
    more = len(names) - shown
    return ", ".join(names[:shown]) + (f" and {more} more" if more > 0 else "")


def read_header(file: Path) -> dict[str, TensorInfo]:
    """Read the header of a safetensors file and check it, and the file's length against it.

    Returns:
        {tensor: {"dtype", "shape", "data_offsets"}}.

    Raises:
        UserError: the path is no regular file, or no safetensors file, or it is incomplete.
    """
    size = require_regular(file).st_size
    try:
        with file.open("rb") as handle:
            start = handle.read(8)
            length = struct.unpack("<Q", start)[0] if len(start) == 8 else 0
            if not 2 <= length <= min(size - 8, LARGEST_HEADER):
                raise UserError(
                    f"{file} is no whole safetensors file: its header does not fit into its "
                    f"{size} bytes; fetch it again"
                )
            raw = handle.read(length)
    except OSError as error:
        raise UserError(f"{file} can't be read: {error.strerror}") from None
    try:
        tensors, end = parse_header(raw)
    except ValueError as error:
        raise UserError(
            f"{file} is no safetensors file: its header can't be read: {error}; fetch it again"
        ) from None
    if 8 + length + end != size:
        raise UserError(
            f"{file} is cut off or damaged: expected {8 + length + end} bytes by its header, "
            f"found {size}; fetch it again"
        )
    return tensors
