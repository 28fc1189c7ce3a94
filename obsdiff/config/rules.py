"""The rules of each setting by itself, by topic, and the order of all checks.

The rules of settings together are in combinations.py. They run last, so they read valid values.
"""

import math

from ..errors import UserError
from .choices import (
    ALL_TOKENS,
    ALLOCATIONS,
    AUTO_SHARE,
    BITS,
    BUDGETS,
    CALIBRATIONS,
    DTYPE_ALIASES,
    DTYPES,
    GROUP_SIZES,
    LARGEST_DAMPING,
    LARGEST_SEED,
    LARGEST_SIDE,
    METHODS,
    RANKINGS,
    REFINEMENTS,
    ROUNDED_LAYERS,
    ROUNDINGS,
    STEP_WEIGHT_RANGE,
    STEP_WEIGHTINGS,
    STORES,
    TARGETS,
    UNFOLDABLE,
)
from .combinations import COMBINATIONS
from .settings import Settings
from .values import (
    number,
    one_number_of,
    one_of,
    parse_blocks,
    parse_group,
    share_or_rank,
    whole,
    yes_or_no,
)


def check_settings(c: Settings) -> None:
    """Raise UserError for the first wrong setting, in the order of VALUES and COMBINATIONS."""
    for rule in (*VALUES, *COMBINATIONS):
        rule(c)


def check_amount(c: Settings) -> None:
    """Check pattern, sparsity, targets, allocation."""
    parse_group(c.pattern)
    if c.sparsity is not None:
        wanted = "0 <= sparsity < 1, as 0.5 or 50%"
        number("sparsity", c.sparsity, 0, 1, wanted, above=False)
    for name in BUDGETS:
        if (share := getattr(c, name)) is not None:
            number(name, share, 0, 1, "between 0 and 1")
    if c.low_rank is not None:
        share_or_rank("low_rank", c.low_rank)
    if c.modulation not in (None, AUTO_SHARE):
        wanted = f"between 0 and 1, as 0.1 or 10%, or {AUTO_SHARE}"
        number("modulation", c.modulation, 0, 1, wanted)
    if c.bits is not None:
        one_number_of("bits", c.bits, BITS)
    one_number_of("group_size", c.group_size, GROUP_SIZES)
    one_of("allocation", c.allocation, ALLOCATIONS)
    whole("allocation_prompts", c.allocation_prompts, 1)
    whole("round_to", c.round_to, 1)


def check_calls(c: Settings) -> None:
    """Check prompts, seed, and the settings of the pipeline call."""
    whole("num_prompts", c.num_prompts, 1)
    whole("held_out", c.held_out, 0)
    for name in ("num_inference_steps", "height", "width"):
        if (value := getattr(c, name)) is not None:
            whole(name, value, 1)
            if name != "num_inference_steps" and value > LARGEST_SIDE:
                raise UserError(f"{name}: expected at most {LARGEST_SIDE} pixels, found {value}")
    number("step_share", c.step_share, 0, math.nextafter(1, 2), "above 0, at most 1")
    if c.guidance_scale is not None:
        number("guidance_scale", c.guidance_scale, 0, math.inf, "0 or more", above=False)
    whole("seed", c.seed, 0)
    if c.seed > LARGEST_SEED:
        raise UserError(f"seed: expected at most {LARGEST_SEED}, found {c.seed}")


def check_calibration(c: Settings) -> None:
    """Check calibration, packages, weights of the denoising steps."""
    if c.calibration is not None:
        one_of("calibration", c.calibration, CALIBRATIONS)
    if c.packages is not None:
        whole("packages", c.packages, 1)
    one_of("step_weighting", c.step_weighting, STEP_WEIGHTINGS)
    low, high = STEP_WEIGHT_RANGE
    # only their ratio counts, and the sums have to fit float32
    for name in ("step_weight_min", "step_weight_max"):
        number(name, getattr(c, name), low, high, f"between {low:g} and {high:g}")
    if c.step_weight_max < c.step_weight_min:
        raise UserError(
            f"step_weight_max: expected at least step_weight_min {c.step_weight_min:g}, "
            f"found {c.step_weight_max:g}"
        )


def check_tokens(c: Settings) -> None:
    """Check the tokens that each Hessian keeps."""
    if c.tokens_per_column != ALL_TOKENS:
        wanted = f"a number above 0, or {ALL_TOKENS}"
        number("tokens_per_column", c.tokens_per_column, 0, math.inf, wanted)


def check_selection(c: Settings) -> None:
    """Check component, target, blocks; PruningConfig has read the wildcards already."""
    parse_blocks(c.blocks)
    one_of("target", c.target, TARGETS)
    if not isinstance(c.component, str | None):
        raise UserError(f"component: expected a name, such as transformer_2, found {c.component!r}")
    if c.keep_first_last is not None:
        yes_or_no("keep_first_last", c.keep_first_last)


def check_solver(c: Settings) -> None:
    """Check method, damping, repair."""
    one_of("method", c.method, METHODS)
    wanted = f"0 or more, and below {LARGEST_DAMPING:g}"
    number("damping", c.damping, 0, LARGEST_DAMPING, wanted, above=False)
    one_of("refine", c.refine, REFINEMENTS)
    one_of("ranking", c.ranking, RANKINGS)
    one_of("rounding", c.rounding, ROUNDINGS)
    one_of("round_layers", c.round_layers, ROUNDED_LAYERS)
    one_of("unfoldable", c.unfoldable, UNFOLDABLE)
    for name in ("choose_damping", "permute", "asymmetric", "correct_bias", "compensation"):
        yes_or_no(name, getattr(c, name))


def check_resources(c: Settings) -> None:
    """Check batch size, memory, number format; devices are checked when torch is loaded."""
    whole("batch_size", c.batch_size, 1)
    if c.memory_budget_gib is not None:
        number("memory_budget_gib", c.memory_budget_gib, 0, math.inf, "above 0")
    one_of("store", c.store, STORES)
    if c.dtype is not None:
        one_of("dtype", c.dtype, (*DTYPES, *DTYPE_ALIASES))


VALUES = (
    check_amount,
    check_calls,
    check_calibration,
    check_tokens,
    check_selection,
    check_solver,
    check_resources,
)
