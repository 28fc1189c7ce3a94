"""The rules of settings together: each raises UserError with the two settings and what to do."""

from dataclasses import fields

from ..errors import UserError
from .choices import (
    ALLOCATIONS_OF,
    BUDGETS,
    DEFAULTS,
    METHODS,
    MOST_ALLOCATED,
    NOT_FOR_DEPTH,
    NOT_FOR_MODULATION,
    PRESETS,
    REPAIRING,
    SIZE_TARGETS,
)
from .settings import Settings


def by_preset(c: Settings, name: str) -> str:
    """Return " (by preset best)" if the value of a field is the preset's, else nothing."""
    fields = c.from_preset
    from_it = name in fields and fields[name] == getattr(c, name)
    return f" (by preset {c.preset})" if from_it else ""


def check_method(c: Settings) -> None:
    """Check that the method prunes to the pattern."""
    if c.kind not in METHODS[c.method]:
        possible = "; ".join(f"{method}: {', '.join(kinds)}" for method, kinds in METHODS.items())
        raise UserError(f"method {c.method} does not do pattern {c.pattern}; possible: {possible}")


def check_preset(c: Settings) -> None:
    """Check that the preset has fields for the pattern."""
    if c.preset is not None and c.kind not in PRESETS[c.preset]:
        raise UserError(
            f"preset {c.preset}: expected pattern {' or '.join(PRESETS[c.preset])}, "
            f"found {c.pattern}; leave the pattern out, or choose another preset"
        )


def check_target(c: Settings) -> None:
    """Check that a target of whole FFNs is that of structured pruning."""
    if c.target == "ffn-alone" and c.kind != "structured":
        raise UserError(
            f"target ffn-alone: expected pattern structured, found {c.pattern}; choose target ffn"
        )


def check_sparsity(c: Settings) -> None:
    """Check that an N:M pattern has no sparsity of its own."""
    if c.group and c.sparsity is not None:
        raise UserError(
            f"sparsity: pattern {c.pattern} fixes it at {c.removed:g}, "
            f"found {c.sparsity!r}; leave it out"
        )


def check_budget(c: Settings) -> None:
    """Check that there is one target at most; it replaces the sparsity of structured pruning."""
    given = [name for name in BUDGETS if getattr(c, name) is not None]
    if not given:
        return
    if len(given) > 1:
        raise UserError(f"{given[0]} and {given[1]} were both given: set one")
    kinds = ("structured",) if given[0] == "target_latency" else ("structured", "depth")
    wrong = {
        "pattern": c.kind not in kinds,
        "sparsity": c.sparsity is not None,
        "memory_budget_gib": c.memory_budget_gib is not None,
    }
    if found := [f"{name} {getattr(c, name)}" for name, is_wrong in wrong.items() if is_wrong]:
        raise UserError(
            f"{given[0]} needs pattern {' or '.join(kinds)}, no sparsity and no memory budget; "
            f"found {', '.join(found)}"
        )
    if c.allocation == "uniform" and given[0] != "target_latency" and not c.depth:
        raise UserError(
            f"{given[0]} needs an allocation over groups of all kinds, obs or sensitivity; "
            "found allocation uniform; leave it out for obs"
        )


def check_packages(c: Settings) -> None:
    """Check that packages are given once, and one dense pass has one."""
    if c.memory_budget_gib is not None and c.packages is not None:
        raise UserError(
            f"packages {c.packages} and memory_budget_gib {c.memory_budget_gib:g} were both "
            "given: the budget sets the packages; set one of them"
        )
    if c.calibration == "single" and c.packages not in (None, 1):
        raise UserError(
            f"packages: calibration single{by_preset(c, 'calibration')} sums all Hessians in "
            f"one pass, so expected 1, found {c.packages}; leave it out, or choose live or replay"
        )


def check_held_out(c: Settings) -> None:
    """Check that some prompts calibrate, and calibration single has the Hessians of the others."""
    if c.held_out >= c.num_prompts:
        raise UserError(
            f"held_out: expected fewer than num_prompts {c.num_prompts}, which include them, "
            f"found {c.held_out}"
        )
    if c.held_out and c.calibrating != "single":
        raise UserError(
            f"held_out {c.held_out}: the second Hessians come from the dense pass of calibration "
            f"single, found {c.calibrating}; choose single"
        )


def check_choose_damping(c: Settings) -> None:
    """Check that the damping is chosen by held-out prompts, for a solver that has one."""
    if not c.choose_damping:
        return
    if not c.held_out:
        raise UserError(
            "choose_damping needs held-out prompts to choose by; set held_out, "
            "a quarter of num_prompts for example"
        )
    if c.method not in REPAIRING and c.refine == "none":
        raise UserError(
            f"choose_damping: method {c.method} has no damping; "
            f"choose {' or '.join(sorted(REPAIRING))}, or refine lstsq"
        )
    if not c.damping:
        raise UserError("choose_damping tries multiples of damping: expected above 0, found 0")


def check_allocation(c: Settings) -> None:
    """Check that the pattern has the allocation, and the allocation has the Hessians it reads."""
    possible = ALLOCATIONS_OF[c.kind]
    if c.allocation not in possible:
        raise UserError(
            f"allocation: pattern {c.pattern} does {', '.join(possible)}; found {c.allocation}"
        )
    if c.allocation == "uniform":
        return
    # the target of a size can't do without an allocation
    size = next((name for name in SIZE_TARGETS if getattr(c, name) is not None), None)
    reason = f" (for {size})" if size else by_preset(c, "allocation")
    name = f"allocation {c.allocation}{reason}"
    instead = "" if size else "; or choose allocation uniform"
    if c.calibrating != "single":
        raise UserError(
            f"{name} needs all Hessians at once, so calibration single; found "
            f"{c.calibrating}{by_preset(c, 'calibration')}{instead}"
        )
    if c.removed > MOST_ALLOCATED[c.kind]:
        raise UserError(
            f"{name} does {c.pattern} up to sparsity {MOST_ALLOCATED[c.kind]:g}, "
            f"found {c.removed:g}{instead}"
        )
    if c.kind == "structured" and c.method != "obs":
        raise UserError(
            f"{name}: structured needs the losses of method obs, found {c.method}{instead}"
        )


def check_ranking(c: Settings) -> None:
    """Check that the authors' ranking has heads and neurons to rank, the same share everywhere."""
    if c.ranking == "equations":
        return
    name = f"ranking {c.ranking}{by_preset(c, 'ranking')}"
    needed = {"pattern": "structured", "method": "obs", "allocation": "uniform"}
    for field, value in needed.items():
        if (found := getattr(c, field)) != value:
            raise UserError(
                f"{name}: expected {field} {value}, found {found}; choose ranking equations"
            )


def check_permute(c: Settings) -> None:
    """Check that the order of inputs counts for N:M alone, and is chosen by all Hessians."""
    if c.permute and c.kind != "n:m":
        raise UserError(
            "permute: expected an N:M pattern, the only kind for which the order of inputs "
            f"counts; found pattern {c.pattern}; leave it out"
        )
    if c.permute and c.calibrating != "single":
        raise UserError(
            f"permute{by_preset(c, 'permute')} needs all Hessians at once, so calibration single; "
            f"found {c.calibrating}; or set no-permute"
        )


def check_asymmetric(c: Settings) -> None:
    """Check that asymmetric calibration has the inputs of both models, and a repair to change."""
    if not c.asymmetric:
        return
    if c.calibrating != "replay":
        raise UserError(
            "asymmetric compares the dense model's inputs with the pruned one's, so it needs "
            f"calibration replay; found {c.calibrating}{by_preset(c, 'calibration')}"
        )
    if not c.compensation:
        raise UserError(
            "asymmetric changes the target of the repair, and no-compensation repairs nothing; "
            "leave one of them out"
        )
    if not c.repairs:
        raise UserError(
            f"asymmetric changes the target of the repair, and method {c.method} repairs nothing; "
            f"choose {' or '.join(sorted(REPAIRING))}, or refine lstsq"
        )


def check_refine(c: Settings) -> None:
    """Check that a refinement may change the kept weights, and swaps needs single weights."""
    if c.refine != "none" and not c.compensation:
        raise UserError(
            f"refine {c.refine} repairs the kept weights, which no-compensation does not change; "
            "leave one of them out"
        )
    if c.refine == "swaps" and c.kind == "structured":
        raise UserError(
            "refine swaps exchanges single weights, and pattern structured removes whole columns; "
            "expected none or lstsq, found swaps"
        )


def check_depth(c: Settings) -> None:
    """Check that nothing is said about the layers of blocks that leave whole."""
    if not c.depth:
        return
    if c.sparsity is not None and not c.sparsity:
        raise UserError("sparsity: pattern depth removes at least one block, found 0")
    require_unused(c, NOT_FOR_DEPTH, "pattern depth removes whole blocks")


def check_modulation(c: Settings) -> None:
    """Check that something is folded, and nothing is said about other layers if it is alone."""
    if c.modulation is None:
        require_unused(c, ("unfoldable",), "without modulation nothing is folded")
    if c.target == "modulation" and not c.depth:
        require_unused(c, NOT_FOR_MODULATION, "target modulation prunes no other layer")


def require_unused(c: Settings, names: tuple[str, ...], why: str) -> None:
    """Raise UserError for the first of some settings that is not at its default."""
    plain = {field.name: field.default for field in fields(Settings)} | DEFAULTS
    for name in names:
        if (value := getattr(c, name)) != plain[name]:
            raise UserError(f"{name}: {why} and has no use for it; found {value!r}; leave it out")


def check_low_rank(c: Settings) -> None:
    """Check that a correction stands beside single weights of linear layers."""
    if c.low_rank is None:
        return
    if c.kind == "structured":
        raise UserError(
            "low_rank corrects removed single weights, and pattern structured leaves dense ones; "
            "choose unstructured or N:M, or leave low_rank out"
        )
    if c.target == "conv":
        raise UserError(
            "low_rank: expected linear layers, found target conv; choose linear, attention or ffn"
        )
    if not c.compensation:
        raise UserError(
            "low_rank repairs what was removed, and no-compensation repairs nothing; "
            "leave one of them out"
        )


def check_store(c: Settings) -> None:
    """Check that there are zeros to store as bits."""
    if c.store == "bitmask" and c.kind == "structured":
        raise UserError(
            "store bitmask: expected zeros, of pattern unstructured or N:M; found structured, "
            "which removes what others set to zero; leave it out"
        )
    if c.store == "bitmask" and c.bits is not None:
        raise UserError(
            f"store bitmask: expected weights that are not rounded, found bits {c.bits}; "
            "leave one of them out"
        )


def check_bits(c: Settings) -> None:
    """Check that rounding has linear layers, their Hessians at once, and what it may change."""
    if c.bits is None:
        require_unused(
            c, ("group_size", "rounding", "round_layers"), "without bits nothing is rounded"
        )
        return
    if c.target == "conv":
        raise UserError(
            "bits: expected linear layers, found target conv; choose linear, attention or ffn"
        )
    if c.target_bytes is not None:
        raise UserError(
            "target_bytes counts weights that are not rounded; with bits choose target_parameters"
        )
    if c.kind == "structured" and c.calibrating != "single":
        raise UserError(
            "bits: pattern structured needs all Hessians at once, so calibration single; found "
            f"{c.calibrating}{by_preset(c, 'calibration')}"
        )
    if c.rounding == "gptq" and not c.compensation:
        raise UserError(
            "rounding gptq changes the kept weights, which no-compensation forbids; choose "
            "rounding nearest"
        )
    if not c.removed and c.allocation != "uniform":
        raise UserError(
            f"allocation {c.allocation}{by_preset(c, 'allocation')} has nothing to spread at "
            "sparsity 0; leave it out"
        )


COMBINATIONS = (
    check_modulation,
    check_preset,
    check_target,
    check_method,
    check_sparsity,
    check_budget,
    check_depth,
    check_packages,
    check_held_out,
    check_choose_damping,
    check_allocation,
    check_permute,
    check_ranking,
    check_asymmetric,
    check_refine,
    check_low_rank,
    check_store,
    check_bits,
)
