"""The possible values of settings: methods and their patterns, presets, defaults, limits."""

from typing import Any

METHODS = {  # method -> the patterns it prunes to
    "obs": ("unstructured", "n:m", "structured"),
    "alps": ("unstructured", "n:m"),
    "magnitude": ("unstructured", "n:m"),
    "wanda": ("unstructured", "n:m"),
    "dsnot": ("unstructured", "n:m"),
    "l1": ("structured",),
    "random": ("structured",),
    "effect": ("depth",),
}
METHOD_OF = {"depth": "effect"}  # kind of pattern -> its default method, if it has its own
REPAIRING = {"obs", "alps"}  # methods that change the weights that they keep
# methods whose choice is independent of the calibration, which only measures the layer errors
NO_HESSIAN = {"magnitude", "l1", "random"}
STEP_WEIGHTINGS = ("log_decrease", "log_increase", "linear_decrease", "linear_increase", "uniform")
AUTO_SHARE = "auto"  # the value of modulation that leaves the share to the model's class
ALL_TOKENS = "all"  # the value of tokens_per_column that keeps every token
OFFLOADS = ("none", "model", "group")  # from the most memory on the device to the least
STORES = ("plain", "bitmask")  # of zeros in a saved result
CALIBRATIONS = ("live", "replay", "single")
REFINEMENTS = ("none", "lstsq", "swaps")
BITS = (8, 4)  # of a rounded weight
GROUP_SIZES = (32, 64, 128, 256)  # weights of a row that share a scale, as torchao has them
ROUNDINGS = ("gptq", "nearest")
ROUNDED_LAYERS = ("targeted", "all")  # which linear layers are rounded
UNFOLDABLE = ("refuse", "keep")  # what becomes of modulation layers that can't be folded
RANKINGS = ("equations", "authors")  # of heads and neurons, and their rounding
ALLOCATIONS = ("uniform", "obs", "sensitivity", "drawn", "owl", "alpha")
ALLOCATIONS_OF = {  # kind of pattern -> its allocations
    "unstructured": ALLOCATIONS,
    "structured": ("uniform", "obs", "sensitivity", "drawn"),
    "n:m": ("uniform",),
    "depth": ("uniform",),
}
TARGETS = {  # target -> the parts of a block that it prunes, as in Tap.part
    "linear": ("attention", "ffn"),
    "attention": ("attention",),
    "ffn": ("ffn",),
    "ffn-alone": ("ffn",),  # without those that share a layer with an attention (structured)
    "conv": ("attention", "ffn", "conv"),
    "modulation": (),  # nothing but the fold of modulation
}
# largest sparsity at which an allocation can still move zeros from layer to layer
MOST_ALLOCATED = {"unstructured": 0.9, "structured": 0.8}
DEFAULTS: dict[str, Any] = {  # of fields that a preset may fill in
    "pattern": "unstructured",
    "target": "linear",
    "round_to": 8,
    "method": "obs",
    "refine": "none",
    "ranking": "equations",
    "group_size": 64,
    "rounding": "gptq",
    "round_layers": "targeted",
    "unfoldable": "refuse",
    "allocation": "uniform",
    "allocation_prompts": 4,
    "num_prompts": 100,
    "step_share": 1.0,
    "tokens_per_column": 256.0,  # measured, see docs/calibration.md
    "permute": False,
    "asymmetric": False,
    "correct_bias": False,
    "held_out": 0,
    "choose_damping": False,
}
# settings that pattern depth leaves at their defaults: they state something about single layers
NOT_FOR_DEPTH = (
    *("low_rank", "modulation", "ranking", "store", "bits"),
    *("target", "include", "exclude", "round_to", "allocation", "calibration", "packages"),
    *("memory_budget_gib", "held_out", "refine", "permute", "asymmetric", "correct_bias"),
    *("choose_damping", "target_latency"),
)
# settings that target modulation leaves at their defaults: they state something about other layers
NOT_FOR_MODULATION = (
    *("preset", "method", "pattern", "sparsity", "target_latency", "target_parameters"),
    *("target_macs", "target_bytes", "allocation", "blocks", "low_rank"),
    *("keep_first_last", "round_to", "calibration", "packages", "memory_budget_gib", "held_out"),
    *("refine", "permute", "asymmetric", "correct_bias", "choose_damping", "ranking", "store"),
    *("bits", "unfoldable"),
)
BEST: dict[str, dict[str, Any]] = {  # kind of pattern -> fields
    "unstructured": {"method": "alps", "calibration": "single", "allocation": "sensitivity"},
    "n:m": {"method": "alps", "calibration": "single"},
    "structured": {"method": "obs", "calibration": "single", "allocation": "sensitivity"},
}
# a quarter of the prompts, each with half of its steps: measured, see docs/choose-a-method.md
FAST = {"num_prompts": 24, "step_share": 0.5, "allocation_prompts": 2}
PAPER = {"method": "obs", "calibration": "live", "tokens_per_column": ALL_TOKENS}
# preset -> the kinds of pattern that it has, its default first -> fields
PRESETS: dict[str, dict[str, dict[str, Any]]] = {
    "paper": {
        "unstructured": PAPER,
        "n:m": PAPER,
        "structured": PAPER | {"ranking": "authors", "round_to": 1},
    },
    "best": BEST,
    "fast": {kind: fields | FAST for kind, fields in BEST.items()},
    # heads whole and widths that other programs and quantised formats accept
    "portable": {
        "structured": BEST["structured"] | {"target": "ffn-alone", "round_to": 256},
    },
    # every compression that composes: fewer heads and neurons, folded modulation, 8 bits
    "small": {
        "structured": BEST["structured"]
        | {"sparsity": 0.2, "modulation": AUTO_SHARE, "unfoldable": "keep"}
        | {"bits": 8, "round_layers": "all"},
    },
}
SIZE_TARGETS = ("target_parameters", "target_macs", "target_bytes")
# settings that state a share of the dense denoiser instead of a sparsity
BUDGETS = (*SIZE_TARGETS, "target_latency")
SHARES = (
    "sparsity",
    "low_rank",
    "modulation",
    "step_share",
    *BUDGETS,
)  # settings that are a share, as 0.5 or "50%"
CALL_SETTINGS = ("num_inference_steps", "guidance_scale", "height", "width")  # of the pipeline call
DTYPES = ("float32", "bfloat16", "float16")
DTYPE_ALIASES = {
    "fp32": "float32",
    "float": "float32",
    "bf16": "bfloat16",
    "fp16": "float16",
    "half": "float16",
}
DEFAULT_SPARSITY = 0.5
DEFAULT_DEPTH = 0.1  # sparsity of pattern depth
DEFAULT_MODULATION = AUTO_SHARE  # of target modulation
DEFAULT_PACKAGES = 4
LARGEST_SEED = 2**62  # torch accepts 64 bits, and prompt i starts from seed + i
LARGEST_SIDE = 2**16  # pixels
LARGEST_DAMPING = 1e6  # with which every layer keeps its weights as they are
STEP_WEIGHT_RANGE = (1e-6, 1e6)  # of denoising steps
