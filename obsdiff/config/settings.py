"""Settings: every setting that affects the result, written once.

The command line's flags and their help, the saved record and the Python API are made from these
fields.
"""

import dataclasses
from dataclasses import dataclass
from typing import Any

from ..errors import UserError
from .choices import (
    ALL_TOKENS,
    ALLOCATIONS,
    AUTO_SHARE,
    BITS,
    BUDGETS,
    CALIBRATIONS,
    DEFAULT_DEPTH,
    DEFAULT_MODULATION,
    DEFAULT_PACKAGES,
    DEFAULT_SPARSITY,
    DEFAULTS,
    DTYPES,
    FAST,
    GROUP_SIZES,
    METHODS,
    NO_HESSIAN,
    OFFLOADS,
    PRESETS,
    RANKINGS,
    REFINEMENTS,
    REPAIRING,
    ROUNDED_LAYERS,
    ROUNDINGS,
    STEP_WEIGHTINGS,
    STORES,
    TARGETS,
    UNFOLDABLE,
)
from .fields import AMOUNT, CALIBRATION, MODELS_OWN, RESOURCES, SOLVER, WHAT, setting
from .values import parse_group


@dataclass(frozen=True)
class Settings:
    """Every setting with its default, as given; PruningConfig fills in presets and checks them.

    If the default of a field is None although its type is not optional, PruningConfig fills it in:
    from the preset, else from DEFAULTS.
    """

    method: str = setting(
        SOLVER, None, "pruning method; that of depth is effect", choices=tuple(METHODS)
    )
    pattern: str = setting(
        AMOUNT,
        None,
        "unstructured: single weights; N:M: at most N non-zeros in every M consecutive inputs; "
        "structured: whole attention heads, FFN neurons and, with target conv, channels; "
        "depth: whole blocks",
        otherwise="unstructured; structured for presets portable and small",
        metavar="PATTERN",
    )
    sparsity: float | None = setting(
        AMOUNT,
        None,
        "share of the targeted weights to remove, at least 0 and below 1, as 0.5 or 50%; "
        "an N:M pattern fixes it; depth: of the blocks, rounded down, and at least one",
        otherwise=f"{DEFAULT_SPARSITY}; {DEFAULT_DEPTH} for depth; 0.2 for preset small",
        metavar="SHARE",
    )
    target_latency: float | None = setting(
        AMOUNT,
        None,
        "structured, instead of a sparsity: largest time of a denoising step, as a share of the "
        "dense model's; the sparsity that meets it is measured",
        metavar="SHARE",
    )
    target_parameters: float | None = setting(
        AMOUNT,
        None,
        "structured and depth, instead of a sparsity: largest share of the denoiser's parameters "
        "to keep; structured allocates it over groups of all kinds",
        metavar="SHARE",
    )
    target_macs: float | None = setting(
        AMOUNT,
        None,
        "the same for the multiply-accumulates of a denoising step",
        metavar="SHARE",
    )
    target_bytes: float | None = setting(
        AMOUNT,
        None,
        "the same for the bytes of the denoiser's weights",
        metavar="SHARE",
    )
    allocation: str = setting(
        AMOUNT,
        None,
        "sparsity of each layer: the same for all (uniform), by layer error (obs), by the effect "
        "on the final latents, from gradients of all layers at once (sensitivity) or from "
        "drawings with one layer pruned after the other (drawn); unstructured only: by outliers "
        "(owl), by the spectrum of the weights (alpha)",
        otherwise="uniform, or obs for a target of parameters, MACs or bytes",
        choices=ALLOCATIONS,
    )
    allocation_prompts: int = setting(
        AMOUNT,
        None,
        "calibration prompts with which allocation, or depth, measures the effects on the final "
        "latents",
        metavar="N",
    )
    num_prompts: int = setting(
        CALIBRATION,
        None,
        "number of calibration prompts; the seed chooses them if there are more",
        otherwise=f"{DEFAULTS['num_prompts']}; for a built-in model its own number; "
        f"{FAST['num_prompts']} for preset fast",
        metavar="N",
    )
    held_out: int = setting(
        CALIBRATION,
        None,
        "number of calibration prompts to hold out; a layer whose repair raises their error is "
        "not repaired",
        metavar="N",
    )
    num_inference_steps: int | None = setting(
        CALIBRATION, None, "number of denoising steps", otherwise=MODELS_OWN, metavar="N"
    )
    step_share: float = setting(
        CALIBRATION,
        None,
        "share of the denoising steps that calibration runs, above 0 to 1, spread over the same "
        "noise levels; at least one step",
        otherwise=f"1; {FAST['step_share']} for preset fast",
        metavar="SHARE",
    )
    guidance_scale: float | None = setting(
        CALIBRATION,
        None,
        "scale of classifier-free guidance",
        otherwise=MODELS_OWN,
        metavar="SCALE",
    )
    height: int | None = setting(
        CALIBRATION, None, "picture height in pixels", otherwise=MODELS_OWN, metavar="PIXELS"
    )
    width: int | None = setting(
        CALIBRATION, None, "picture width in pixels", otherwise=MODELS_OWN, metavar="PIXELS"
    )
    batch_size: int = setting(
        RESOURCES,
        4,
        "prompts per pipeline call; changes speed and memory, and the result only by rounding",
        metavar="N",
    )
    seed: int = setting(
        CALIBRATION,
        0,
        "seed for the choice of prompts and for the noise: prompt i starts from seed + i",
        metavar="SEED",
    )
    tokens_per_column: float | str = setting(
        CALIBRATION,
        None,
        "tokens that the Hessian of each input keeps per column, about, drawn evenly from every "
        "prompt, step, guidance half and stream, and weighted for those left out; "
        f"{ALL_TOKENS}: every token",
        metavar="N",
    )
    step_weighting: str = setting(
        CALIBRATION,
        "log_decrease",
        "weight of each denoising step in the Hessian",
        choices=STEP_WEIGHTINGS,
    )
    step_weight_min: float = setting(CALIBRATION, 0.8, "smallest step weight", metavar="WEIGHT")
    step_weight_max: float = setting(CALIBRATION, 1.2, "largest step weight", metavar="WEIGHT")
    calibration: str | None = setting(
        CALIBRATION,
        None,
        "single: one dense pass collects all Hessians; replay: one dense trajectory is recorded "
        "and continued package by package; live: all prompts are drawn again for every package, "
        "as in the paper",
        otherwise="single, or live if a number of packages is given",
        choices=CALIBRATIONS,
    )
    packages: int | None = setting(
        CALIBRATION,
        None,
        "replay, live: number of packages, pruned one after the other",
        otherwise=f"{DEFAULT_PACKAGES}, or 1 for a method that needs no Hessian; a memory budget "
        "sets it",
        metavar="N",
    )
    memory_budget_gib: float | None = setting(
        RESOURCES,
        None,
        "memory in GiB for Hessians, recordings and solving; sets the number of packages; "
        "tensors beyond it are stored on disk",
        otherwise="none; half of the free memory is used before tensors are stored on disk",
        metavar="GIB",
    )
    blocks: str | None = setting(
        WHAT,
        None,
        "blocks to prune, or for depth to choose from, such as 3-25 or 7: 0-based, inclusive, in "
        "forward order",
        otherwise="all",
        metavar="FIRST-LAST",
    )
    include: tuple[str, ...] = setting(
        WHAT,
        (),
        "prune, or fold, only the layers whose name matches a shell wildcard",
        metavar="WILDCARD",
    )
    exclude: tuple[str, ...] = setting(
        WHAT,
        (),
        "do not prune, fold or round the layers whose name matches a shell wildcard",
        metavar="WILDCARD",
    )
    target: str = setting(
        WHAT,
        None,
        "layers to prune: linear is attention and ffn; conv adds the convolutions of a UNet; "
        "ffn-alone (structured) leaves out the FFNs that share a layer with an attention, as in "
        "FLUX's single blocks; modulation folds the modulation layers and prunes nothing else",
        choices=tuple(TARGETS),
    )
    damping: float = setting(
        SOLVER,
        0.01,
        "value added to the diagonal of the Hessian, in units of its mean; 0 or more; depth tries "
        "10, 100 and 1000 times as much",
        metavar="DAMPING",
    )
    choose_damping: bool = setting(
        SOLVER,
        None,
        "try 0.1, 1, 10 and 100 times the damping for each layer and keep the best by the "
        "held-out prompts",
    )
    round_to: int = setting(
        AMOUNT,
        None,
        "structured: round FFN widths to a multiple of this number; with bits at least the "
        "group size",
        metavar="N",
    )
    keep_first_last: bool | None = setting(
        WHAT,
        None,
        "structured and depth: do not prune the first and the last block",
        otherwise="structured: yes for MMDiT models, else no",
    )
    refine: str = setting(
        SOLVER,
        None,
        "lstsq: re-solve the kept weights exactly, after any method (alps includes it); swaps: "
        "also exchange kept for removed weights of a row, or of an N:M group, while that lowers "
        "the layer error",
        choices=REFINEMENTS,
    )
    ranking: str = setting(
        SOLVER,
        None,
        "structured: rank, round and group heads and neurons as the paper's equations say, or as "
        "its authors' code does",
        choices=RANKINGS,
    )
    low_rank: float | None = setting(
        SOLVER,
        None,
        "unstructured, N:M: add to each layer a correction of low rank with this share of the "
        "layer's weights, as 0.1 or 10%, or of this rank, as 64, and less where it would have more "
        "weights than the layer; found in turn with the pruned weight",
        otherwise="none",
        metavar="SHARE or RANK",
    )
    bits: int | None = setting(
        AMOUNT,
        None,
        "round the weights of the targeted linear layers to 8 or 4 bits, after pruning; "
        "sparsity 0 rounds alone",
        otherwise="none",
        metavar=" or ".join(map(str, BITS)),
    )
    group_size: int = setting(
        AMOUNT,
        None,
        "bits: consecutive weights of a row that share a scale, "
        f"{', '.join(map(str, GROUP_SIZES[:-1]))} or {GROUP_SIZES[-1]}; layers whose inputs it "
        "does not divide are not rounded",
        metavar="N",
    )
    rounding: str = setting(
        SOLVER,
        None,
        "bits: gptq repairs the error of each weight by those that follow, then improves them in "
        "turn; nearest takes the nearest value",
        choices=ROUNDINGS,
    )
    round_layers: str = setting(
        AMOUNT,
        None,
        "bits: round the targeted layers, or all linear layers of the component; those that are "
        "not targeted have no Hessian and get the nearest values",
        choices=ROUNDED_LAYERS,
    )
    modulation: float | str | None = setting(
        SOLVER,
        None,
        "fold the layers that make shift, scale and gate of each block from the time step into "
        "two of low rank, with this share of their weights at most, as 0.1 or 10%, and less where "
        f"that is enough; {AUTO_SHARE}: 10%, or 70% where text enters, too; refused where "
        "held-out time steps and prompts show too large an error",
        otherwise=f"none; {DEFAULT_MODULATION} for target modulation",
        metavar="SHARE",
    )
    unfoldable: str = setting(
        SOLVER,
        None,
        "modulation: refuse a model with layers that cannot be folded, or keep those as they are, "
        "say so and go on",
        choices=UNFOLDABLE,
    )
    permute: bool = setting(
        SOLVER,
        None,
        "N:M: reorder FFN neurons, and the value dimensions of each head, so that the pattern "
        "keeps more; the dense model computes the same",
    )
    asymmetric: bool = setting(
        SOLVER,
        None,
        "replay: fit later packages to the outputs of the dense model's layers, which repairs "
        "errors of earlier packages",
    )
    correct_bias: bool = setting(
        SOLVER,
        None,
        "correct the bias of a layer, if it has one, by the mean change of its outputs; little "
        "effect after a repair",
    )
    compensation: bool = setting(
        SOLVER,
        True,
        "change the kept weights so that they compensate for the removed ones; for depth "
        "the layers before a gap, if a drawing gets better by it",
    )
    component: str | None = setting(
        WHAT,
        None,
        "pipeline component to prune, such as transformer_2 or prior",
        otherwise="transformer or unet, else decoder or prior",
        metavar="NAME",
    )
    dtype: str | None = setting(
        RESOURCES,
        None,
        "number format to load, compute and save in; fp32, bf16 and fp16 are accepted",
        otherwise="as stored; a CPU computes half precision in float32",
        choices=DTYPES,
    )
    store: str = setting(
        RESOURCES,
        "plain",
        "unstructured, N:M: how the result stores zeros; plain: as every program reads them; "
        "bitmask: as one bit for each entry, in layers that get smaller by it; diffusers opens "
        "that after import obsdiff",
        choices=STORES,
    )
    device: str | None = setting(
        RESOURCES,
        None,
        "torch device that runs the model",
        otherwise="cuda if there is one, else cpu",
        metavar="DEVICE",
    )
    offload_device: str | None = setting(
        RESOURCES,
        None,
        "torch device that stores the Hessians",
        otherwise="the device of the model",
        metavar="DEVICE",
    )
    offload: str | None = setting(
        RESOURCES,
        None,
        "weights that wait on the CPU until they run: none; model (text encoders, then the "
        "denoiser); group (one block of the denoiser at a time)",
        otherwise="prune takes what fits on the device; in Python none",
        choices=OFFLOADS,
    )
    preset: str | None = setting(
        SOLVER,
        None,
        "fills in settings that were not given: paper (OBS-Diff as published), best (the lowest "
        "error without training), fast (nearly as good, in less time), portable (structured: FFN "
        "neurons alone, in multiples of 256, which other programs open), small (structured, folded "
        "modulation where it can be folded, and 8 bits)",
        otherwise="none",
        choices=tuple(PRESETS),
    )

    @property
    def group(self) -> tuple[int, int] | None:
        """(n, m) of an N:M pattern: at most n non-zeros in every m inputs in a row; else None."""
        return parse_group(self.pattern)

    @property
    def kind(self) -> str:
        """The kind of pattern: unstructured, n:m, structured or depth."""
        return "n:m" if self.group else self.pattern

    @property
    def depth(self) -> bool:
        """Whether whole blocks leave."""
        return self.kind == "depth"

    @property
    def rounds_factors(self) -> bool:
        """Whether the factors of folded modulation are rounded: to 8 bits, since 4 would add up."""
        return self.bits == 8 and self.round_layers == "all"

    @property
    def only_rounds(self) -> bool:
        """Whether the targeted weights are rounded to few bits, and none leaves."""
        return self.bits is not None and not self.removed

    @property
    def layerwise(self) -> bool:
        """Whether layers are pruned one by one, with Hessians; not for depth, target modulation."""
        return not self.depth and self.target != "modulation"

    @property
    def removed(self) -> float:
        """Share of the targeted weights that is removed, 0 to 1; for depth of the blocks."""
        if self.group:
            return 1 - self.group[0] / self.group[1]
        if self.sparsity is None:
            return DEFAULT_DEPTH if self.depth else DEFAULT_SPARSITY * self.layerwise
        return float(self.sparsity)

    @property
    def budget(self) -> tuple[str, float] | None:
        """The target of an allocation: (unit, largest share of the dense denoiser's amount).

        The unit is parameters, macs, bytes or latency. None without a target, or if uniform
        pruning meets it.
        """
        if self.allocation == "uniform" and not self.depth:
            return None
        for name in BUDGETS:
            if (share := getattr(self, name)) is not None:
                return name.removeprefix("target_"), float(share)
        return None

    @property
    def kept_tokens(self) -> float | None:
        """Tokens that each Hessian keeps per column; None for every token."""
        value = self.tokens_per_column
        return None if isinstance(value, str) else float(value)

    @property
    def calibrating(self) -> str:
        """live, replay or single: as configured, else live if packages are given, else single."""
        return self.calibration or ("live" if self.packages else "single")

    @property
    def default_packages(self) -> int:
        """Number of packages if neither `packages` nor a memory budget sets it."""
        return 1 if self.method in NO_HESSIAN and self.refine == "none" else DEFAULT_PACKAGES

    @property
    def repairs(self) -> bool:
        """Whether kept weights are changed."""
        return (self.method in REPAIRING and self.compensation) or self.refine != "none"

    @property
    def from_preset(self) -> dict[str, Any]:
        """The fields that the preset sets for this kind of pattern, with its values."""
        return PRESETS[self.preset].get(self.kind, {}) if self.preset is not None else {}

    def steps_of(self, steps: int) -> int:
        """Return the denoising steps that calibration runs, of the steps of a drawing."""
        return max(1, round(self.step_share * steps))

    def calibrating_of(self, found: int) -> int:
        """Return the number of prompts that calibrate: all but those held out.

        Args:
            found: number of prompts; the first ones calibrate.

        Returns:
            A number of at least 1.

        Raises:
            UserError: no prompt would calibrate.
        """
        if found <= self.held_out:
            raise UserError(
                f"held_out: expected fewer than the {found} prompts, found {self.held_out}; "
                "pass more prompts, or hold out fewer"
            )
        return found - self.held_out

    def to_dict(self) -> dict[str, Any]:
        """Return the settings as JSON values, from which PruningConfig(**...) makes them again."""
        return dataclasses.asdict(self) | {
            "include": list(self.include),
            "exclude": list(self.exclude),
        }
