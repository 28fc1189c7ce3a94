"""Calibration prompts as JSON, and one hash of them.

A prompt that is a dict holds arguments of a pipeline's call. Text and numbers are recorded as they
are; pictures, tensors and arrays by their kind, shape and SHA-256.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from PIL.Image import Image
from torch import Tensor

from ..errors import UserError
from ..runtime.hashing import tensors_hash
from .prompt_files import half_of_pair

JSON_SCALARS = (str, bool, int, float, type(None))


def described(value: Any, name: str = "prompt") -> Any:
    """Describe a value as JSON; equal values have equal descriptions, different ones do not.

    Args:
        value: text, a number, a picture, a tensor, an array, or lists and dicts of them.
        name: its place in the prompt, for the message.

    Raises:
        UserError: the value is of another type.
    """
    if isinstance(value, str) and (half := half_of_pair(value)):
        raise UserError(f"prompts: {name} has {half!a}, half of a surrogate pair; remove it")
    if isinstance(value, JSON_SCALARS):
        return value
    if isinstance(value, Tensor) and value.layout == torch.strided and not value.is_meta:
        return {
            "tensor": str(value.dtype).removeprefix("torch."),
            "shape": list(value.shape),
            "sha256": tensors_hash([("", value.detach().resolve_conj().resolve_neg())]),
        }
    if isinstance(value, Image):
        return described_image(value)
    if isinstance(value, np.generic):
        return described(
            value.item() if isinstance(value.item(), JSON_SCALARS) else np.asarray(value), name
        )
    if isinstance(value, np.ndarray) and not value.dtype.hasobject:
        return {
            "array": str(value.dtype),
            "shape": list(value.shape),
            "sha256": hashlib.sha256(array_bytes(value)).hexdigest(),
        }
    if isinstance(value, torch.dtype | torch.device):
        return str(value)
    if isinstance(value, Mapping) and all(isinstance(key, str) for key in value):
        return {key: described(part, f"{name}.{key}") for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [described(part, f"{name}[{i}]") for i, part in enumerate(value)]
    raise UserError(
        f"prompts: {name} is of type {type(value).__name__}; expected text, numbers, pictures, "
        "tensors, arrays, or lists and dicts of them"
    )


def array_bytes(value: np.ndarray) -> bytes:
    """Return the bytes of an array; long doubles as text, since their padding has any content."""
    if value.dtype.char not in "gG":
        return np.ascontiguousarray(value).tobytes()
    numbers = np.atleast_1d(np.ascontiguousarray(value)).view(np.longdouble).ravel()
    return " ".join(np.format_float_scientific(number) for number in numbers).encode()


def described_image(image: Image) -> dict[str, Any]:
    """Describe a picture by its mode, its size, and the hash of its pixels and palette."""
    colours = (
        repr((image.getpalette("RGBA"), image.info.get("transparency"))) if image.palette else ""
    )
    return {
        "image": image.mode,
        "size": list(image.size),
        "sha256": hashlib.sha256(image.tobytes() + colours.encode()).hexdigest(),
    }


def described_prompts(prompts: Sequence[Any]) -> list[Any]:
    """Describe every prompt as JSON.

    Args:
        prompts: texts, or dicts of arguments.

    Raises:
        UserError: a value is of a type that `described` does not support.
    """
    return [
        {key: described(value, key) for key, value in prompt.items()}
        if isinstance(prompt, dict)
        else described(prompt, f"prompt {i}")
        for i, prompt in enumerate(prompts)
    ]


def prompts_hash(prompts: Sequence[Any], seeds: Sequence[int]) -> str:
    """Return the SHA-256 of prompts and their seeds, in this order.

    Args:
        prompts: texts, or dicts of arguments; N in all.
        seeds: the noise seed of each prompt, N in all.
    """
    return hashlib.sha256(
        json.dumps([described_prompts(prompts), list(seeds)], sort_keys=True).encode()
    ).hexdigest()
