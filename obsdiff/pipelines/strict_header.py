"""The header of a safetensors file, as strict as the format: what safetensors refuses, and more.

Beside what the library refuses, a name or a key that occurs twice and sizes that no file has are
refused. Imports no torch.
"""

import json
import math
from typing import Any, TypedDict

BITS = {
    "F64": 64,
    "F32": 32,
    "F16": 16,
    "BF16": 16,
    "I64": 64,
    "I32": 32,
    "I16": 16,
    "I8": 8,
    "U64": 64,
    "U32": 32,
    "U16": 16,
    "U8": 8,
    "BOOL": 8,
    "C64": 64,
    "F8_E4M3": 8,
    "F8_E5M2": 8,
    "F8_E8M0": 8,
    "F8_E4M3FNUZ": 8,
    "F8_E5M2FNUZ": 8,
    "F6_E2M3": 6,
    "F6_E3M2": 6,
    "F4": 4,
}
LONGEST_NAME = 2_000  # characters of a tensor's name
LARGEST_SIDE = 2**63 - 1  # of a shape
MOST_SIDES = 64  # of a shape
SHOWN = 60  # characters of a name in a message


class TensorInfo(TypedDict):
    """Entry of a tensor in a safetensors header."""

    dtype: str
    shape: list[int]
    data_offsets: list[int]


def parse_header(raw: bytes) -> tuple[dict[str, TensorInfo], int]:
    """Read a header and check it by itself.

    Args:
        raw: the bytes of the header.

    Returns:
        {tensor: {"dtype", "shape", "data_offsets"}}, and the bytes of data that it describes.

    Raises:
        ValueError: the header is not strict; the message says where.
    """
    try:
        header = json.loads(raw.decode("utf-8"), object_pairs_hook=unique, parse_constant=refuse)
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise ValueError(f"it is no JSON ({error})") from None
    if not isinstance(header, dict):
        raise ValueError("it is no JSON object")
    check_metadata(header.pop("__metadata__", None))
    for name, info in header.items():
        check_name(name)
        check_tensor(name, info)
    return header, covered_bytes(header)


def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return a JSON object; ValueError for a key that occurs twice."""
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise ValueError(f"{shown(key)} occurs twice")
        found[key] = value
    return found


def refuse(word: str) -> None:
    """Refuse NaN and Infinity, which JSON does not have."""
    raise ValueError(f"{word} is no JSON")


def shown(name: str) -> str:
    """Return a name as a message quotes it."""
    return repr(name if len(name) <= SHOWN else name[: SHOWN - 3] + "...")


def check_metadata(metadata: Any) -> None:
    """Check that the metadata are texts by name; ValueError if not."""
    if metadata is None:
        return
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise ValueError("__metadata__ has something else than texts")


def check_name(name: str) -> None:
    """Check that a tensor's name is of usual length and can be encoded; ValueError if not."""
    if len(name) > LONGEST_NAME:
        raise ValueError(f"{shown(name)} has {len(name)} characters: expected a tensor's name")
    try:
        name.encode("utf-8")
    except UnicodeEncodeError:
        raise ValueError(f"{shown(name)} is no Unicode text") from None


def check_tensor(name: str, info: Any) -> None:
    """Check a tensor's format, shape and offsets against one another; ValueError if wrong."""
    if not isinstance(info, dict) or not {"dtype", "shape", "data_offsets"} <= set(info):
        raise ValueError(f"{shown(name)} lacks dtype, shape or data_offsets")
    dtype, shape, offsets = info["dtype"], info["shape"], info["data_offsets"]
    if not isinstance(dtype, str) or dtype not in BITS:
        raise ValueError(f"{shown(name)} has the unknown format {shown(str(dtype))}")
    if not are_sizes(shape) or len(shape) > MOST_SIDES or math.prod(shape) > LARGEST_SIDE:
        raise ValueError(f"{shown(name)} has a shape that no tensor has")
    if not are_sizes(offsets) or len(offsets) != 2:
        raise ValueError(f"{shown(name)} has no pair of data_offsets")
    if BITS[dtype] * math.prod(shape) != 8 * (offsets[1] - offsets[0]):
        raise ValueError(
            f"{shown(name)} has {offsets[1] - offsets[0]} bytes, which its shape and {dtype} "
            "do not fill"
        )


def are_sizes(value: Any) -> bool:
    """Return whether a value is a list of whole numbers that sizes can have."""
    return isinstance(value, list) and all(
        type(size) is int and 0 <= size <= LARGEST_SIDE for size in value
    )


def covered_bytes(header: dict[str, TensorInfo]) -> int:
    """Return the end of the tensors' data; ValueError if they overlap or leave a hole."""
    end = 0
    for name in sorted(header, key=lambda name: header[name]["data_offsets"]):
        start, after = header[name]["data_offsets"]
        if start != end:
            what = "overlaps another tensor" if start < end else "leaves a hole before it"
            raise ValueError(f"{shown(name)} {what}")
        end = after
    return end
