"""PruningConfig: every setting that affects the result, written once.

The command line's flags, their help, the saved record and the Python API are all made from these fields.
"""

import dataclasses
from dataclasses import dataclass, field
from typing import Any

from ..errors import UserError
from .choices import (
    ALLOCATIONS,
    BUDGETS,
    CALIBRATIONS,
    DEFAULT_PACKAGES,
    DEFAULT_SPARSITY,
    DTYPES,
    METHODS,
    NO_HESSIAN,
    PRESETS,
    REFINEMENTS,
    REPAIRING,
    STEP_WEIGHTINGS,
    TARGETS,
    parse_group,
)


def setting(
    default: Any, text: str, choices: tuple[str, ...] | None = None, metavar: str | None = None
) -> Any:
    """A dataclass field with the help text, choices and metavar of its flag."""
    return field(default=default, metadata={"help": text, "choices": choices, "metavar": metavar})


@dataclass(frozen=True)
class Settings:
    """Every setting with its default, as given: PruningConfig is what fills them in and checks them."""

    method: str | None = setting(None, "pruning method (default obs)", tuple(METHODS))
    pattern: str = setting(
        "unstructured",
        "unstructured, N:M for at most N non-zeros in every M consecutive inputs, or structured for whole heads, FFN neurons and (with target conv) channels",
        metavar="PATTERN",
    )
    sparsity: float | None = setting(
        None,
        "share of the targeted weights to remove, 0 to 1 (default 0.5; follows from an N:M pattern)",
    )
    target_latency: float | None = setting(
        None,
        "structured: instead of a sparsity, the time of a denoising step as a share of the dense model's; the sparsity that meets it is measured",
    )
    target_parameters: float | None = setting(
        None,
        "structured: instead of a sparsity, the share of the denoiser's parameters that stays at most; allocated over groups of all kinds (by obs, if not given)",
    )
    target_macs: float | None = setting(
        None, "structured: the same of the multiply-accumulates of a denoising step"
    )
    target_bytes: float | None = setting(
        None, "structured: the same of the bytes of the denoiser's weights"
    )
    allocation: str | None = setting(
        None,
        "every layer gives up the same share, or less where it costs more: by layer error (obs), by what it does to the final latents (sensitivity), "
        "and for unstructured by outliers (owl) or by spectrum (alpha) (default uniform)",
        ALLOCATIONS,
    )
    allocation_prompts: int | None = setting(
        None,
        "calibration prompts drawn for every layer or group to measure its sensitivity (default 4)",
        metavar="PROMPTS",
    )
    num_prompts: int = setting(100, "calibration prompts, sampled with the seed if there are more")
    held_out: int | None = setting(
        None,
        "how many of the calibration prompts are kept apart: they judge every layer, and one that they find worse off repaired stays unrepaired (default 0)",
        metavar="PROMPTS",
    )
    num_inference_steps: int | None = setting(None, "denoising steps (default: the model's own)")
    guidance_scale: float | None = setting(
        None, "classifier-free guidance scale (default: the model's own)"
    )
    height: int | None = setting(None, "picture height in pixels (default: the model's own)")
    width: int | None = setting(None, "picture width in pixels (default: the model's own)")
    batch_size: int = setting(
        4, "prompts in one pipeline call; changes speed and memory, not the result"
    )
    seed: int = setting(0, "chooses the prompts and the noise: prompt i starts from seed + i")
    step_weighting: str = setting(
        "log_decrease", "weight of each denoising step in the Hessian", STEP_WEIGHTINGS
    )
    step_weight_min: float = setting(0.8, "smallest step weight")
    step_weight_max: float = setting(1.2, "largest step weight")
    calibration: str | None = setting(
        None,
        "single takes all Hessians from one dense pass, replay records one and goes through the packages, live draws all prompts anew for every package as in "
        "the paper (default: single, or live if packages are given)",
        CALIBRATIONS,
    )
    packages: int | None = setting(
        None,
        "packages pruned one after the other (with live and replay default 4, or 1 for a method that needs no Hessian, unless a memory budget is given)",
    )
    memory_budget_gib: float | None = setting(
        None,
        "memory for Hessians, recordings and the work of solving in GiB; the packages follow from it, and what has no room waits on disk",
    )
    blocks: str | None = setting(
        None,
        "blocks to prune, as 3-25 or 7: 0-based, inclusive, in forward order (default: all)",
        metavar="FIRST-LAST",
    )
    include: tuple[str, ...] = setting(
        (), "only layers whose name matches a shell wildcard", metavar="WILDCARD"
    )
    exclude: tuple[str, ...] = setting(
        (), "no layers whose name matches a shell wildcard", metavar="WILDCARD"
    )
    target: str = setting(
        "linear",
        "which layers: linear means attention and ffn, conv these and a UNet's convolutions",
        tuple(TARGETS),
    )
    damping: float = setting(0.01, "added to the Hessian's diagonal, in units of its mean")
    choose_damping: bool | None = setting(
        None,
        "try 0.1, 1, 10 and 100 times the damping for every layer, and take what is best on the held-out prompts (default: no)",
    )
    round_to: int = setting(8, "structured: FFN widths are rounded to a multiple of this")
    keep_first_last: bool | None = setting(
        None, "structured: leave the first and last block whole (default: yes for MMDiT models)"
    )
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
        None,
        "put the mean of what pruning changes in a layer's outputs into its bias, if it has one; repair has mostly done so (default no)",
    )
    compensation: bool = setting(
        True, "leave the kept weights as they are: remove weights, repair nothing"
    )
    component: str | None = setting(
        None,
        "pipeline component to prune, such as transformer_2 or prior (default: transformer or unet, else decoder or prior)",
    )
    dtype: str | None = setting(
        None,
        "number format to load, compute and save in (default: as stored; a CPU computes it in float32)",
        DTYPES,
    )
    device: str | None = setting(
        None, "torch device to run on (default: cuda if there is one, else cpu)", metavar="DEVICE"
    )
    offload_device: str | None = setting(
        None,
        "torch device that holds the Hessians (default: where the model runs)",
        metavar="DEVICE",
    )
    preset: str | None = setting(
        None,
        "what is not given otherwise: paper (OBS-Diff as published), best (the best found without training) or fast (nearly as good, for less time)",
        tuple(PRESETS),
    )

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
        return (
            (asked.removeprefix("target_"), float(getattr(self, asked)))
            if asked and self.allocation != "uniform"
            else None
        )

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
        return dataclasses.asdict(self) | {
            "include": list(self.include),
            "exclude": list(self.exclude),
        }
