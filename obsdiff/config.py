"""PruningConfig: every setting that affects the result, written once.

The command line's flags, their help, the saved record and the Python API are all made from these fields.
"""

import dataclasses
import math
import re
import sys
from dataclasses import dataclass, field
from typing import Any

from .errors import UserError

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
NO_HESSIAN = {"magnitude", "l1", "random"}  # their choice does not depend on the calibration, which only measures the layer errors
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
MOST_ALLOCATED = {"unstructured": 0.9, "structured": 0.8}  # sparsity up to which something can be moved from layer to layer
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
BUDGETS = (*SIZES, "target_latency")  # settings that give a share of the dense denoiser instead of a sparsity
DTYPES = ("float32", "bfloat16", "float16")
DEFAULT_SPARSITY = 0.5
DEFAULT_PACKAGES = 4
LARGEST_SEED = 2**62  # torch takes 64 bits, and prompt i starts from seed + i
LARGEST_NUMBER = sys.float_info.max
LARGEST_SIDE = 2**16  # pixels
LARGEST_DAMPING = 1e6  # with which every layer keeps its weights as they are
WEIGHTS = (1e-6, 1e6)  # of denoising steps


def setting(default: Any, text: str, choices: tuple[str, ...] | None = None, metavar: str | None = None) -> Any:
    """A dataclass field with the help text, choices and metavar of its flag."""
    return field(default=default, metadata={"help": text, "choices": choices, "metavar": metavar})


@dataclass(frozen=True)
class PruningConfig:
    """How to prune. Checked when it is made: a wrong value raises UserError (a ValueError) with one clear line."""

    method: str | None = setting(None, "pruning method (default obs)", tuple(METHODS))
    pattern: str = setting(
        "unstructured",
        "unstructured, N:M for at most N non-zeros in every M consecutive inputs, or structured for whole heads, FFN neurons and (with target conv) channels",
        metavar="PATTERN",
    )
    sparsity: float | None = setting(None, "share of the targeted weights to remove, 0 to 1 (default 0.5; follows from an N:M pattern)")
    target_latency: float | None = setting(
        None, "structured: instead of a sparsity, the time of a denoising step as a share of the dense model's; the sparsity that meets it is measured"
    )
    target_parameters: float | None = setting(
        None,
        "structured: instead of a sparsity, the share of the denoiser's parameters that stays at most; allocated over groups of all kinds (by obs, if not given)",
    )
    target_macs: float | None = setting(None, "structured: the same of the multiply-accumulates of a denoising step")
    target_bytes: float | None = setting(None, "structured: the same of the bytes of the denoiser's weights")
    allocation: str | None = setting(
        None,
        "every layer gives up the same share, or less where it costs more: by layer error (obs), by what it does to the final latents (sensitivity), "
        "and for unstructured by outliers (owl) or by spectrum (alpha) (default uniform)",
        ALLOCATIONS,
    )
    allocation_prompts: int | None = setting(
        None, "calibration prompts drawn for every layer or group to measure its sensitivity (default 4)", metavar="PROMPTS"
    )
    num_prompts: int = setting(100, "calibration prompts, sampled with the seed if there are more")
    held_out: int | None = setting(
        None,
        "how many of the calibration prompts are kept apart: they judge every layer, and one that they find worse off repaired stays unrepaired (default 0)",
        metavar="PROMPTS",
    )
    num_inference_steps: int | None = setting(None, "denoising steps (default: the model's own)")
    guidance_scale: float | None = setting(None, "classifier-free guidance scale (default: the model's own)")
    height: int | None = setting(None, "picture height in pixels (default: the model's own)")
    width: int | None = setting(None, "picture width in pixels (default: the model's own)")
    batch_size: int = setting(4, "prompts in one pipeline call; changes speed and memory, not the result")
    seed: int = setting(0, "chooses the prompts and the noise: prompt i starts from seed + i")
    step_weighting: str = setting("log_decrease", "weight of each denoising step in the Hessian", STEP_WEIGHTINGS)
    step_weight_min: float = setting(0.8, "smallest step weight")
    step_weight_max: float = setting(1.2, "largest step weight")
    calibration: str | None = setting(
        None,
        "single takes all Hessians from one dense pass, replay records one and goes through the packages, live draws all prompts anew for every package as in "
        "the paper (default: single, or live if packages are given)",
        CALIBRATIONS,
    )
    packages: int | None = setting(
        None, "packages pruned one after the other (with live and replay default 4, or 1 for a method that needs no Hessian, unless a memory budget is given)"
    )
    memory_budget_gib: float | None = setting(
        None, "memory for Hessians, recordings and the work of solving in GiB; the packages follow from it, and what has no room waits on disk"
    )
    blocks: str | None = setting(None, "blocks to prune, as 3-25 or 7: 0-based, inclusive, in forward order (default: all)", metavar="FIRST-LAST")
    include: tuple[str, ...] = setting((), "only layers whose name matches a shell wildcard", metavar="WILDCARD")
    exclude: tuple[str, ...] = setting((), "no layers whose name matches a shell wildcard", metavar="WILDCARD")
    target: str = setting("linear", "which layers: linear means attention and ffn, conv these and a UNet's convolutions", tuple(TARGETS))
    damping: float = setting(0.01, "added to the Hessian's diagonal, in units of its mean")
    choose_damping: bool | None = setting(
        None, "try 0.1, 1, 10 and 100 times the damping for every layer, and take what is best on the held-out prompts (default: no)"
    )
    round_to: int = setting(8, "structured: FFN widths are rounded to a multiple of this")
    keep_first_last: bool | None = setting(None, "structured: leave the first and last block whole (default: yes for MMDiT models)")
    refine: str | None = setting(
        None,
        "lstsq re-solves the kept weights exactly, whichever method chose them (alps does it anyway); swaps also exchanges kept for removed weights of a row, or of "
        "an N:M group, as long as that makes the layer error smaller (default none)",
        REFINEMENTS,
    )
    permute: bool | None = setting(
        None,
        "N:M: put FFN neurons, and the value dimensions of each head, into an order in which the pattern keeps more; the dense model computes the same (default no)",
    )
    asymmetric: bool | None = setting(
        None,
        "replay: later packages aim at what the dense model's layers give for its own inputs, and so repair what earlier packages broke (default no)",
    )
    correct_bias: bool | None = setting(
        None, "put the mean of what pruning changes in a layer's outputs into its bias, if it has one; repair has mostly done so (default no)"
    )
    compensation: bool = setting(True, "leave the kept weights as they are: remove weights, repair nothing")
    component: str | None = setting(None, "pipeline component to prune, such as transformer_2 or prior (default: transformer or unet, else decoder or prior)")
    dtype: str | None = setting(None, "number format to load, compute and save in (default: as stored; a CPU computes it in float32)", DTYPES)
    device: str | None = setting(None, "torch device to run on (default: cuda if there is one, else cpu)", metavar="DEVICE")
    offload_device: str | None = setting(None, "torch device that holds the Hessians (default: where the model runs)", metavar="DEVICE")
    preset: str | None = setting(
        None,
        "what is not given otherwise: paper (OBS-Diff as published), best (the best found without training) or fast (nearly as good, for less time)",
        tuple(PRESETS),
    )

    def __post_init__(self) -> None:
        for name in ("include", "exclude"):
            object.__setattr__(self, name, wildcards(name, getattr(self, name)))
        if self.preset is not None:
            one_of("preset", self.preset, PRESETS)
        sized = any(getattr(self, name) is not None for name in SIZES)
        for name, value in (DEFAULTS | ({"allocation": "obs"} if sized else {}) | PRESETS.get(self.preset, {}).get(self.kind, {})).items():
            if getattr(self, name) is None:
                object.__setattr__(self, name, value)
        check(self)

    @property
    def group(self) -> tuple[int, int] | None:
        """(n, m) of an N:M pattern: at most n non-zeros in every m consecutive inputs. None for unstructured."""
        return parse_group(self.pattern)

    @property
    def kind(self) -> str:
        """unstructured, n:m or structured."""
        return "n:m" if self.group else self.pattern

    @property
    def removed(self) -> float:
        """Share of the targeted weights that is removed."""
        if self.group:
            return 1 - self.group[0] / self.group[1]
        return DEFAULT_SPARSITY if self.sparsity is None else float(self.sparsity)

    @property
    def budget(self) -> tuple[str, float] | None:
        """("parameters", "macs", "bytes" or "latency", share that stays) to be met by allocation; None if it is by uniform pruning, or nothing is asked for."""
        asked = next((name for name in BUDGETS if getattr(self, name) is not None), None)
        return (asked.removeprefix("target_"), float(getattr(self, asked))) if asked and self.allocation != "uniform" else None

    @property
    def calibrating(self) -> str:
        """live, replay or single: as configured, else live where packages are given, else single."""
        return self.calibration or ("live" if self.packages else "single")

    @property
    def default_packages(self) -> int:
        """How many packages where neither `packages` nor a memory budget says so."""
        return 1 if self.method in NO_HESSIAN and self.refine == "none" else DEFAULT_PACKAGES

    @property
    def repairs(self) -> bool:
        """Whether kept weights are changed."""
        return (self.method in REPAIRING and self.compensation) or self.refine != "none"

    def calibrating_of(self, found: int) -> int:
        """How many of `found` prompts calibrate: the first ones, all but those held out. UserError if none would."""
        if found <= self.held_out:
            raise UserError(
                f"held_out: {found} prompts are there and {self.held_out} kept apart, so none would calibrate; give more prompts, or hold fewer out"
            )
        return found - self.held_out

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self) | {"include": list(self.include), "exclude": list(self.exclude)}


def parse_group(pattern: str) -> tuple[int, int] | None:
    """(n, m) of "n:m", None for "unstructured" and "structured"; anything else is a UserError."""
    if pattern in ("unstructured", "structured"):
        return None
    found = re.fullmatch(r"(\d{1,4}):(\d{1,4})", pattern, re.ASCII) if isinstance(pattern, str) else None
    if not found:
        raise UserError(f"pattern: expected unstructured, structured or N:M (such as 2:4), found {pattern!r}")
    n, m = int(found[1]), int(found[2])
    if not 0 < n < m:
        raise UserError(f"pattern: N:M keeps at most N of every M weights, so 0 < N < M is needed; found {pattern!r}")
    return n, m


def parse_blocks(blocks: str | None) -> tuple[int, int] | None:
    """(first, last), both inclusive, of "3-25" or "7"; None for all."""
    if blocks is None:
        return None
    found = re.fullmatch(r"(\d{1,6})(?:-(\d{1,6}))?", str(blocks), re.ASCII)
    if not found or (found[2] and int(found[2]) < int(found[1])):
        raise UserError(f"blocks: expected FIRST-LAST (such as 3-25) or one number, found {blocks!r}")
    return int(found[1]), int(found[2] or found[1])


def check(c: PruningConfig) -> None:
    """Raise UserError for the first field that is wrong."""
    one_of("method", c.method, METHODS)
    group, kind = c.group, c.kind
    if kind not in METHODS[c.method]:
        raise UserError(f"method {c.method} does not do pattern {c.pattern}; possible: {combinations()}")
    if c.sparsity is not None:
        if group:
            raise UserError(f"sparsity: pattern {c.pattern} fixes it at {1 - group[0] / group[1]:g}, found {c.sparsity!r}; leave it out")
        number("sparsity", c.sparsity, 0, 1, "0 <= sparsity < 1", above=False)
    check_budget(c)
    whole("num_prompts", c.num_prompts, 1)
    for name in ("num_inference_steps", "height", "width", "packages"):
        if getattr(c, name) is not None:
            whole(name, getattr(c, name), 1)
            if name in ("height", "width") and getattr(c, name) > LARGEST_SIDE:
                raise UserError(f"{name}: expected at most {LARGEST_SIDE} pixels, found {getattr(c, name)}")
    whole("batch_size", c.batch_size, 1)
    whole("allocation_prompts", c.allocation_prompts, 1)
    whole("round_to", c.round_to, 1)
    whole("seed", c.seed, 0)
    if c.seed > LARGEST_SEED:
        raise UserError(f"seed: expected at most {LARGEST_SEED}, found {c.seed}")
    if c.guidance_scale is not None:
        number("guidance_scale", c.guidance_scale, 0, math.inf, "0 or more", above=False)
    one_of("step_weighting", c.step_weighting, STEP_WEIGHTINGS)
    for name in ("step_weight_min", "step_weight_max"):  # only their ratio counts, and float32 has to hold the sums
        number(name, getattr(c, name), *WEIGHTS, f"between {WEIGHTS[0]:g} and {WEIGHTS[1]:g}")
    if c.step_weight_max < c.step_weight_min:
        raise UserError(f"step_weight_max: expected at least step_weight_min {c.step_weight_min:g}, found {c.step_weight_max:g}")
    if c.memory_budget_gib is not None:
        number("memory_budget_gib", c.memory_budget_gib, 0, math.inf, "above 0")
        if c.packages is not None:
            raise UserError(f"packages {c.packages} and memory_budget_gib {c.memory_budget_gib:g} were both given: the budget fixes the packages; give one")
    if c.calibration is not None:
        one_of("calibration", c.calibration, CALIBRATIONS)
    check_held_out(c)
    if c.calibration == "single" and c.packages not in (None, 1):
        raise UserError(
            f"packages: calibration single{by_preset(c, 'calibration')} takes all Hessians from one pass, so there is 1, found {c.packages}; leave it out, or choose live or replay"
        )
    parse_blocks(c.blocks)
    one_of("target", c.target, TARGETS)
    number("damping", c.damping, 0, LARGEST_DAMPING, f"0 or more, and below {LARGEST_DAMPING:g}", above=False)
    one_of("refine", c.refine, REFINEMENTS)
    one_of("allocation", c.allocation, ALLOCATIONS)
    possible = ALLOCATIONS if kind == "unstructured" else ("uniform", "obs", "sensitivity") if kind == "structured" else ("uniform",)
    if c.allocation not in possible:
        raise UserError(f"allocation: pattern {c.pattern} does {', '.join(possible)}; found {c.allocation}")
    if c.allocation != "uniform":
        check_allocation(c)
    yes_or_no("permute", c.permute)
    if c.permute and kind != "n:m":
        raise UserError(f"permute: only for an N:M pattern does the order of inputs count; found pattern {c.pattern}; leave it out")
    if c.permute and c.calibrating != "single":
        raise UserError(f"permute{by_preset(c, 'permute')} needs all Hessians at once, so calibration single; found {c.calibrating}; or take no-permute")
    check_asymmetric(c)
    yes_or_no("correct_bias", c.correct_bias)
    yes_or_no("compensation", c.compensation)
    if c.keep_first_last is not None:
        yes_or_no("keep_first_last", c.keep_first_last)
    if not isinstance(c.component, str | None):
        raise UserError(f"component: expected a name, such as transformer_2, found {c.component!r}")
    if c.refine != "none" and not c.compensation:
        raise UserError(f"refine {c.refine} repairs the kept weights, which no-compensation leaves as they are; give one of them")
    if c.refine == "swaps" and kind == "structured":
        raise UserError("refine swaps exchanges single weights, and pattern structured removes whole columns; expected none or lstsq, found swaps")
    if c.dtype is not None:
        one_of("dtype", c.dtype, DTYPES)


def check_held_out(c: PruningConfig) -> None:
    """UserError for held-out prompts that leave none or have no Hessian of their own, and for a damping that can't be chosen by them."""
    whole("held_out", c.held_out, 0)
    if c.held_out >= c.num_prompts:
        raise UserError(f"held_out: expected fewer than num_prompts {c.num_prompts}, of which they are taken, found {c.held_out}")
    if c.held_out and c.calibrating != "single":
        raise UserError(f"held_out {c.held_out}: the second Hessians come from the dense pass of calibration single, found {c.calibrating}; take single")
    yes_or_no("choose_damping", c.choose_damping)
    if c.choose_damping and not c.held_out:
        raise UserError("choose_damping goes by prompts that are kept apart: give held_out, a quarter of num_prompts for example")
    if c.choose_damping and c.method not in REPAIRING and c.refine == "none":
        raise UserError(f"choose_damping: method {c.method} has no damping; take {' or '.join(sorted(REPAIRING))}, or refine lstsq")
    if c.choose_damping and not c.damping:
        raise UserError("choose_damping tries multiples of damping: expected above 0, found 0")


def by_preset(c: PruningConfig, name: str) -> str:
    """ " (by preset best)" if the config's preset has the value of this field, else nothing."""
    fields = PRESETS.get(c.preset, {}).get(c.kind, {})
    return f" (by preset {c.preset})" if name in fields and fields[name] == getattr(c, name) else ""


def check_allocation(c: PruningConfig) -> None:
    """UserError for an allocation without what it goes by."""
    size = next((name for name in SIZES if getattr(c, name) is not None), None)  # which can't do without
    name, instead = f"allocation {c.allocation}{f' (for {size})' if size else by_preset(c, 'allocation')}", "" if size else "; or take allocation uniform"
    if c.calibrating != "single":
        raise UserError(f"{name} needs all Hessians at once, so calibration single; found {c.calibrating}{by_preset(c, 'calibration')}{instead}")
    if c.removed > MOST_ALLOCATED[c.kind]:
        raise UserError(f"{name} does {c.pattern} up to sparsity {MOST_ALLOCATED[c.kind]:g}, found {c.removed:g}{instead}")
    if c.kind == "structured" and c.method != "obs":
        raise UserError(f"{name}: structured goes by the losses of method obs, found {c.method}{instead}")


def check_asymmetric(c: PruningConfig) -> None:
    """UserError for asymmetric calibration without the two models' inputs, or of weights that are only removed."""
    yes_or_no("asymmetric", c.asymmetric)
    if c.asymmetric and c.calibrating != "replay":
        raise UserError(
            f"asymmetric compares the dense model's inputs with the pruned one's, so it needs calibration replay; found {c.calibrating}{by_preset(c, 'calibration')}"
        )
    if c.asymmetric and not c.compensation:
        raise UserError("asymmetric gives the repair another aim, and no-compensation repairs nothing; leave one of them out")
    if c.asymmetric and not c.repairs:
        raise UserError(
            f"asymmetric gives the repair another aim, and method {c.method} repairs nothing here; take {' or '.join(sorted(REPAIRING))}, or refine lstsq"
        )


def check_budget(c: PruningConfig) -> None:
    """A target in place of a sparsity goes alone, and with structured pruning. UserError for any other."""
    given = [name for name in BUDGETS if getattr(c, name) is not None]
    if not given:
        return
    for name in given:
        number(name, getattr(c, name), 0, 1, "between 0 and 1")
    if len(given) > 1:
        raise UserError(f"{given[0]} and {given[1]} were both given: give one")
    wrong = {"pattern": c.kind != "structured", "sparsity": c.sparsity is not None, "memory_budget_gib": c.memory_budget_gib is not None}
    if found := [f"{name} {getattr(c, name)}" for name, is_wrong in wrong.items() if is_wrong]:
        raise UserError(f"{given[0]} needs pattern structured, no sparsity and no memory budget; found {', '.join(found)}")
    if c.allocation == "uniform" and given[0] != "target_latency":
        raise UserError(f"{given[0]} needs an allocation over groups of all kinds, obs or sensitivity; found allocation uniform; leave it out for obs")


def combinations() -> str:
    return "; ".join(f"{method}: {', '.join(patterns)}" for method, patterns in METHODS.items())


def one_of(name: str, value: Any, choices: Any) -> None:
    if value not in tuple(choices):
        raise UserError(f"{name}: expected one of {', '.join(choices)}; found {value!r}")


def yes_or_no(name: str, value: Any) -> None:
    if not isinstance(value, bool):
        raise UserError(f"{name}: expected True or False, found {value!r}")


def wildcards(name: str, value: Any) -> tuple[str, ...]:
    """One or several shell wildcards as a tuple."""
    found = (value,) if isinstance(value, str) else tuple(value) if isinstance(value, list | tuple | set | frozenset) else (None,)
    if not all(isinstance(wild, str) for wild in found):
        raise UserError(f"{name}: expected a shell wildcard or several, found {value!r}")
    return found


def whole(name: str, value: Any, least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise UserError(f"{name}: expected a whole number of at least {least}, found {value!r}")


def number(name: str, value: Any, low: float, high: float, wanted: str, above: bool = True) -> None:
    """A finite number in (low, high), or [low, high) if not `above`."""
    ok = isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) <= LARGEST_NUMBER
    if not ok or value >= high or value < low or (above and value == low):
        raise UserError(f"{name}: expected {wanted}, found {value!r}")
