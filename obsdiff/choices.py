"""What settings can be: methods and their patterns, presets, limits."""

import sys
from typing import Any

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
SIZES = ("target_parameters", "target_macs", "target_bytes")
BUDGETS = (
    *SIZES,
    "target_latency",
)  # settings that give a share of the dense denoiser instead of a sparsity
DTYPES = ("float32", "bfloat16", "float16")
DEFAULT_SPARSITY = 0.5
DEFAULT_PACKAGES = 4
LARGEST_SEED = 2**62  # torch takes 64 bits, and prompt i starts from seed + i
LARGEST_NUMBER = sys.float_info.max
LARGEST_SIDE = 2**16  # pixels
LARGEST_DAMPING = 1e6  # with which every layer keeps its weights as they are
WEIGHTS = (1e-6, 1e6)  # of denoising steps
