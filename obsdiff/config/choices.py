"""What settings can be: methods and their patterns, presets, limits."""

import re
import sys
from typing import Any

from ..errors import UserError

METHODS = {
    "obs": ("unstructured", "n:m", "structured"),
    "alps": ("unstructured", "n:m"),
    "magnitude": ("unstructured", "n:m"),
    "wanda": ("unstructured", "n:m"),
    "dsnot": ("unstructured", "n:m"),
    "l1": ("structured",),
    "random": ("structured",),
}
REPAIRING = {"obs", "alps"}  # methods that change the weights that they keep
NO_HESSIAN = {
    "magnitude",
    "l1",
    "random",
}  # their choice does not depend on the calibration, which only measures the layer errors
STEP_WEIGHTINGS = ("log_decrease", "log_increase", "linear_decrease", "linear_increase", "uniform")
CALIBRATIONS = ("live", "replay", "single")
REFINEMENTS = ("none", "lstsq", "swaps")
ALLOCATIONS = ("uniform", "obs", "sensitivity", "owl", "alpha")
TARGETS = {  # what each prunes: see Tap.part
    "linear": ("attention", "ffn"),
    "attention": ("attention",),
    "ffn": ("ffn",),
    "conv": ("attention", "ffn", "conv"),
}
MOST_ALLOCATED = {
    "unstructured": 0.9,
    "structured": 0.8,
}  # sparsity up to which something can be moved from layer to layer
DEFAULTS = {  # of fields that a preset may set
    "method": "obs",
    "refine": "none",
    "allocation": "uniform",
    "allocation_prompts": 4,
    "permute": False,
    "asymmetric": False,
    "correct_bias": False,
    "held_out": 0,
    "choose_damping": False,
}
BEST = {  # kind of pattern -> fields
    "unstructured": {"method": "alps", "calibration": "single", "allocation": "sensitivity"},
    "n:m": {"method": "alps", "calibration": "single"},
    "structured": {"method": "obs", "calibration": "single", "allocation": "sensitivity"},
}
PRESETS: dict[str, dict[str, dict[str, Any]]] = {
    "paper": {kind: {"method": "obs", "calibration": "live"} for kind in BEST},
    "best": BEST,
    "fast": {kind: fields | {"allocation_prompts": 1} for kind, fields in BEST.items()},
}
SIZE_TARGETS = ("target_parameters", "target_macs", "target_bytes")
BUDGETS = (
    *SIZE_TARGETS,
    "target_latency",
)  # settings that give a share of the dense denoiser instead of a sparsity
DTYPES = ("float32", "bfloat16", "float16")
DEFAULT_SPARSITY = 0.5
DEFAULT_PACKAGES = 4
LARGEST_SEED = 2**62  # torch takes 64 bits, and prompt i starts from seed + i
LARGEST_NUMBER = sys.float_info.max
LARGEST_SIDE = 2**16  # pixels
LARGEST_DAMPING = 1e6  # with which every layer keeps its weights as they are
STEP_WEIGHT_RANGE = (1e-6, 1e6)  # of denoising steps


def parse_group(pattern: str) -> tuple[int, int] | None:
    """(n, m) of "n:m", None for "unstructured" and "structured"; anything else is a UserError."""
    if pattern in ("unstructured", "structured"):
        return None
    found = (
        re.fullmatch(r"(\d{1,4}):(\d{1,4})", pattern, re.ASCII)
        if isinstance(pattern, str)
        else None
    )
    if not found:
        raise UserError(
            f"pattern: expected unstructured, structured or N:M (such as 2:4), found {pattern!r}"
        )
    n, m = int(found[1]), int(found[2])
    if not 0 < n < m:
        raise UserError(
            f"pattern: N:M keeps at most N of every M weights, so 0 < N < M is needed; found {pattern!r}"
        )
    return n, m


def parse_blocks(blocks: str | None) -> tuple[int, int] | None:
    """(first, last), both inclusive, of "3-25" or "7"; None for all."""
    if blocks is None:
        return None
    found = re.fullmatch(r"(\d{1,6})(?:-(\d{1,6}))?", str(blocks), re.ASCII)
    if not found or (found[2] and int(found[2]) < int(found[1])):
        raise UserError(
            f"blocks: expected FIRST-LAST (such as 3-25) or one number, found {blocks!r}"
        )
    return int(found[1]), int(found[2] or found[1])


def one_of(name: str, value: Any, choices: Any) -> None:
    if value not in tuple(choices):
        raise UserError(f"{name}: expected one of {', '.join(choices)}; found {value!r}")


def yes_or_no(name: str, value: Any) -> None:
    if not isinstance(value, bool):
        raise UserError(f"{name}: expected True or False, found {value!r}")


def wildcards(name: str, value: Any) -> tuple[str, ...]:
    """One or several shell wildcards as a tuple."""
    found = (
        (value,)
        if isinstance(value, str)
        else tuple(value)
        if isinstance(value, list | tuple | set | frozenset)
        else (None,)
    )
    if not all(isinstance(wild, str) for wild in found):
        raise UserError(f"{name}: expected a shell wildcard or several, found {value!r}")
    return found


def whole(name: str, value: Any, least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise UserError(f"{name}: expected a whole number of at least {least}, found {value!r}")


def number(name: str, value: Any, low: float, high: float, wanted: str, above: bool = True) -> None:
    """A finite number in (low, high), or [low, high) if not `above`."""
    ok = (
        isinstance(value, (int, float))
        and not isinstance(value, bool)
        and abs(value) <= LARGEST_NUMBER
    )
    if not ok or value >= high or value < low or (above and value == low):
        raise UserError(f"{name}: expected {wanted}, found {value!r}")
