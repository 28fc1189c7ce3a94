"""The calibration prompts as a record holds them, and one number by which they are known again.

A prompt that is a dict holds arguments of a pipeline call: text and numbers stand in the record as they are, pictures, tensors
and arrays as their kind, shape and SHA-256.
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

JSON_SCALARS = (str, bool, int, float, type(None))


def described(value: Any, name: str = "prompt") -> Any:
    """A value as JSON; equal values give equal JSON, others do not. UserError, with its name, for one that can't be told from others of its kind."""
    if isinstance(value, JSON_SCALARS):
        return value
    if isinstance(value, Tensor) and value.layout == torch.strided and not value.is_meta:
        return {
            "tensor": str(value.dtype).removeprefix("torch."),
            "shape": list(value.shape),
            "sha256": tensors_hash([("", value.detach().resolve_conj().resolve_neg())]),
        }
    if isinstance(value, Image):
        colours = (
            repr((value.getpalette("RGBA"), value.info.get("transparency")))
            if value.palette
            else ""
        )
        return {
            "image": value.mode,
            "size": list(value.size),
            "sha256": hashlib.sha256(value.tobytes() + colours.encode()).hexdigest(),
        }
    if isinstance(value, np.generic):
        return described(
            value.item() if isinstance(value.item(), JSON_SCALARS) else np.asarray(value), name
        )
    if isinstance(value, np.ndarray) and not value.dtype.hasobject:
        return {
            "array": str(value.dtype),
            "shape": list(value.shape),
            "sha256": hashlib.sha256(np.ascontiguousarray(value).tobytes()).hexdigest(),
        }
    if isinstance(value, torch.dtype | torch.device):
        return str(value)
    if isinstance(value, Mapping) and all(isinstance(key, str) for key in value):
        return {key: described(part, f"{name}.{key}") for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [described(part, f"{name}[{i}]") for i, part in enumerate(value)]
    raise UserError(
        f"prompts: {name} is of type {type(value).__name__}; expected text, numbers, pictures, tensors, arrays, or lists and dicts of them"
    )


def described_prompts(prompts: Sequence[Any]) -> list[Any]:
    """Every prompt as JSON; UserError as above."""
    return [
        {key: described(value, key) for key, value in prompt.items()}
        if isinstance(prompt, dict)
        else described(prompt, f"prompt {i}")
        for i, prompt in enumerate(prompts)
    ]


def prompts_hash(prompts: Sequence[Any], seeds: Sequence[int]) -> str:
    """SHA-256 of prompts and seeds, whatever the prompts hold."""
    return hashlib.sha256(
        json.dumps([described_prompts(prompts), list(seeds)], sort_keys=True).encode()
    ).hexdigest()
