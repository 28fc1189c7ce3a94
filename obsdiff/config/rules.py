"""What settings have to be, by themselves and together: a UserError for the first that is wrong."""

import math

from ..errors import UserError
from .choices import (
    ALLOCATIONS,
    BUDGETS,
    CALIBRATIONS,
    DTYPES,
    LARGEST_DAMPING,
    LARGEST_SEED,
    LARGEST_SIDE,
    METHODS,
    MOST_ALLOCATED,
    PRESETS,
    REFINEMENTS,
    REPAIRING,
    SIZE_TARGETS,
    STEP_WEIGHT_RANGE,
    STEP_WEIGHTINGS,
    TARGETS,
    number,
    one_of,
    parse_blocks,
    whole,
    yes_or_no,
)
from .settings import Settings


def check_settings(c: Settings) -> None:
    """Raise UserError for the first field that is wrong."""
    one_of("method", c.method, METHODS)
    group, kind = c.group, c.kind
    if kind not in METHODS[c.method]:
        raise UserError(
            f"method {c.method} does not do pattern {c.pattern}; possible: {combinations()}"
        )
    if c.sparsity is not None:
        if group:
            raise UserError(
                f"sparsity: pattern {c.pattern} fixes it at {1 - group[0] / group[1]:g}, found {c.sparsity!r}; leave it out"
            )
        number("sparsity", c.sparsity, 0, 1, "0 <= sparsity < 1", above=False)
    check_budget(c)
    whole("num_prompts", c.num_prompts, 1)
    for name in ("num_inference_steps", "height", "width", "packages"):
        if getattr(c, name) is not None:
            whole(name, getattr(c, name), 1)
            if name in ("height", "width") and getattr(c, name) > LARGEST_SIDE:
                raise UserError(
                    f"{name}: expected at most {LARGEST_SIDE} pixels, found {getattr(c, name)}"
                )
    whole("batch_size", c.batch_size, 1)
    whole("allocation_prompts", c.allocation_prompts, 1)
    whole("round_to", c.round_to, 1)
    whole("seed", c.seed, 0)
    if c.seed > LARGEST_SEED:
        raise UserError(f"seed: expected at most {LARGEST_SEED}, found {c.seed}")
    if c.guidance_scale is not None:
        number("guidance_scale", c.guidance_scale, 0, math.inf, "0 or more", above=False)
    one_of("step_weighting", c.step_weighting, STEP_WEIGHTINGS)
    for name in (
        "step_weight_min",
        "step_weight_max",
    ):  # only their ratio counts, and float32 has to hold the sums
        number(
            name,
            getattr(c, name),
            *STEP_WEIGHT_RANGE,
            f"between {STEP_WEIGHT_RANGE[0]:g} and {STEP_WEIGHT_RANGE[1]:g}",
        )
    if c.step_weight_max < c.step_weight_min:
        raise UserError(
            f"step_weight_max: expected at least step_weight_min {c.step_weight_min:g}, found {c.step_weight_max:g}"
        )
    if c.memory_budget_gib is not None:
        number("memory_budget_gib", c.memory_budget_gib, 0, math.inf, "above 0")
        if c.packages is not None:
            raise UserError(
                f"packages {c.packages} and memory_budget_gib {c.memory_budget_gib:g} were both given: the budget fixes the packages; give one"
            )
    if c.calibration is not None:
        one_of("calibration", c.calibration, CALIBRATIONS)
    check_held_out(c)
    if c.calibration == "single" and c.packages not in (None, 1):
        raise UserError(
            f"packages: calibration single{by_preset(c, 'calibration')} takes all Hessians from one pass, so there is 1, found {c.packages}; leave it out, or choose live or replay"
        )
    parse_blocks(c.blocks)
    one_of("target", c.target, TARGETS)
    number(
        "damping",
        c.damping,
        0,
        LARGEST_DAMPING,
        f"0 or more, and below {LARGEST_DAMPING:g}",
        above=False,
    )
    one_of("refine", c.refine, REFINEMENTS)
    one_of("allocation", c.allocation, ALLOCATIONS)
    possible = (
        ALLOCATIONS
        if kind == "unstructured"
        else ("uniform", "obs", "sensitivity")
        if kind == "structured"
        else ("uniform",)
    )
    if c.allocation not in possible:
        raise UserError(
            f"allocation: pattern {c.pattern} does {', '.join(possible)}; found {c.allocation}"
        )
    if c.allocation != "uniform":
        check_allocation(c)
    yes_or_no("permute", c.permute)
    if c.permute and kind != "n:m":
        raise UserError(
            f"permute: only for an N:M pattern does the order of inputs count; found pattern {c.pattern}; leave it out"
        )
    if c.permute and c.calibrating != "single":
        raise UserError(
            f"permute{by_preset(c, 'permute')} needs all Hessians at once, so calibration single; found {c.calibrating}; or take no-permute"
        )
    check_asymmetric(c)
    yes_or_no("correct_bias", c.correct_bias)
    yes_or_no("compensation", c.compensation)
    if c.keep_first_last is not None:
        yes_or_no("keep_first_last", c.keep_first_last)
    if not isinstance(c.component, str | None):
        raise UserError(f"component: expected a name, such as transformer_2, found {c.component!r}")
    if c.refine != "none" and not c.compensation:
        raise UserError(
            f"refine {c.refine} repairs the kept weights, which no-compensation leaves as they are; give one of them"
        )
    if c.refine == "swaps" and kind == "structured":
        raise UserError(
            "refine swaps exchanges single weights, and pattern structured removes whole columns; expected none or lstsq, found swaps"
        )
    if c.dtype is not None:
        one_of("dtype", c.dtype, DTYPES)


def check_held_out(c: Settings) -> None:
    """UserError for held-out prompts that leave none or have no Hessian of their own, and for a damping that can't be chosen by them."""
    whole("held_out", c.held_out, 0)
    if c.held_out >= c.num_prompts:
        raise UserError(
            f"held_out: expected fewer than num_prompts {c.num_prompts}, of which they are taken, found {c.held_out}"
        )
    if c.held_out and c.calibrating != "single":
        raise UserError(
            f"held_out {c.held_out}: the second Hessians come from the dense pass of calibration single, found {c.calibrating}; take single"
        )
    yes_or_no("choose_damping", c.choose_damping)
    if c.choose_damping and not c.held_out:
        raise UserError(
            "choose_damping goes by prompts that are kept apart: give held_out, a quarter of num_prompts for example"
        )
    if c.choose_damping and c.method not in REPAIRING and c.refine == "none":
        raise UserError(
            f"choose_damping: method {c.method} has no damping; take {' or '.join(sorted(REPAIRING))}, or refine lstsq"
        )
    if c.choose_damping and not c.damping:
        raise UserError("choose_damping tries multiples of damping: expected above 0, found 0")


def by_preset(c: Settings, name: str) -> str:
    """ " (by preset best)" if the config's preset has the value of this field, else nothing."""
    fields = PRESETS.get(c.preset, {}).get(c.kind, {})
    return f" (by preset {c.preset})" if name in fields and fields[name] == getattr(c, name) else ""


def check_allocation(c: Settings) -> None:
    """UserError for an allocation without what it goes by."""
    size = next(
        (name for name in SIZE_TARGETS if getattr(c, name) is not None), None
    )  # which can't do without
    name, instead = (
        f"allocation {c.allocation}{f' (for {size})' if size else by_preset(c, 'allocation')}",
        "" if size else "; or take allocation uniform",
    )
    if c.calibrating != "single":
        raise UserError(
            f"{name} needs all Hessians at once, so calibration single; found {c.calibrating}{by_preset(c, 'calibration')}{instead}"
        )
    if c.removed > MOST_ALLOCATED[c.kind]:
        raise UserError(
            f"{name} does {c.pattern} up to sparsity {MOST_ALLOCATED[c.kind]:g}, found {c.removed:g}{instead}"
        )
    if c.kind == "structured" and c.method != "obs":
        raise UserError(
            f"{name}: structured goes by the losses of method obs, found {c.method}{instead}"
        )


def check_asymmetric(c: Settings) -> None:
    """UserError for asymmetric calibration without the two models' inputs, or of weights that are only removed."""
    yes_or_no("asymmetric", c.asymmetric)
    if c.asymmetric and c.calibrating != "replay":
        raise UserError(
            f"asymmetric compares the dense model's inputs with the pruned one's, so it needs calibration replay; found {c.calibrating}{by_preset(c, 'calibration')}"
        )
    if c.asymmetric and not c.compensation:
        raise UserError(
            "asymmetric gives the repair another aim, and no-compensation repairs nothing; leave one of them out"
        )
    if c.asymmetric and not c.repairs:
        raise UserError(
            f"asymmetric gives the repair another aim, and method {c.method} repairs nothing here; take {' or '.join(sorted(REPAIRING))}, or refine lstsq"
        )


def check_budget(c: Settings) -> None:
    """A target in place of a sparsity goes alone, and with structured pruning. UserError for any other."""
    given = [name for name in BUDGETS if getattr(c, name) is not None]
    if not given:
        return
    for name in given:
        number(name, getattr(c, name), 0, 1, "between 0 and 1")
    if len(given) > 1:
        raise UserError(f"{given[0]} and {given[1]} were both given: give one")
    wrong = {
        "pattern": c.kind != "structured",
        "sparsity": c.sparsity is not None,
        "memory_budget_gib": c.memory_budget_gib is not None,
    }
    if found := [f"{name} {getattr(c, name)}" for name, is_wrong in wrong.items() if is_wrong]:
        raise UserError(
            f"{given[0]} needs pattern structured, no sparsity and no memory budget; found {', '.join(found)}"
        )
    if c.allocation == "uniform" and given[0] != "target_latency":
        raise UserError(
            f"{given[0]} needs an allocation over groups of all kinds, obs or sensitivity; found allocation uniform; leave it out for obs"
        )


def combinations() -> str:
    return "; ".join(f"{method}: {', '.join(patterns)}" for method, patterns in METHODS.items())
