"""Which heads, neurons and channels cannot be removed exactly, and why."""

import math

import torch
from torch import nn

from ..errors import UserError
from .geometry import items, sections
from .linear_view import unfolding_refusal as not_unfolded
from .structure import Group

# attention processors for which all heads must be there: with at most so many output projections, and why
FIXED = {
    "EasyAnimateAttnProcessor2_0": (
        1,
        "the text gets the heads themselves, past the output projection",
    ),
    "MochiAttnProcessor2_0": (
        2,
        "every head has rotary frequencies of its own, which all blocks share",
    ),
    "OmniGenAttnProcessor2_0": (1, "its processor wants as many channels of heads as of outputs"),
}


def require_prunable(denoiser: nn.Module, groups: list[Group]) -> None:
    """UserError for a group that can't be taken out exactly, by name."""
    for group in groups:
        reason = removal_refusal(denoiser, group)
        if reason:
            why = "" if group.kind == "channels" else ": what stays would change with what leaves"
            ffn = ", or leave all heads with --target ffn" if group.kind == "heads" else ""
            raise UserError(
                f"structured: {reason}{why}; leave it out with --exclude '{group.consumers[0]}'{ffn}"
            )


def removal_refusal(denoiser: nn.Module, group: Group) -> str | None:
    """Why this group can't be pruned exactly, or None: a norm over all heads, or all neurons, sees those that left."""
    if group.kind == "channels":
        return refusal_of_channels(denoiser, group)
    owner = denoiser.get_submodule(group.owner)
    if group.refused:
        return f"{group.owner}: {group.refused}"
    processor = type(getattr(owner, "processor", None)).__name__
    if group.kind == "heads" and processor in FIXED and len(group.consumers) <= FIXED[processor][0]:
        return f"{group.owner}: {FIXED[processor][1]}"
    count = items(denoiser, group)
    widths = {
        size
        for name in group.producers
        for kind, size in sections(denoiser, group, name)
        if kind == group.kind
    }
    for name, norm in owner.named_modules():
        if (
            "norm" in type(norm).__name__.lower()
            and count > 1
            and normalised(norm) in widths
            and (group.kind == "neurons" or is_of_heads(name))
        ):
            return f"{group.owner}.{name} normalises all {count} {group.kind} together"
    return None


def refusal_of_channels(denoiser: nn.Module, group: Group) -> str | None:
    """The same for a residual block: what is between its convolutions must be a plain GroupNorm."""
    norm = getattr(denoiser.get_submodule(group.owner), group.norm.rpartition(".")[2], None)
    if not isinstance(norm, nn.GroupNorm):
        return f"{group.norm} is a {type(norm).__name__}, not a GroupNorm"
    reasons = {
        name: not_unfolded(denoiser.get_submodule(name))
        for name in (*group.producers, *group.consumers)
    }
    return next((f"{name}: {reason}" for name, reason in reasons.items() if reason), None)


def normalised(norm: nn.Module) -> int | None:
    """How many channels a norm takes together."""
    weight = getattr(norm, "weight", getattr(norm, "gamma", None))
    shape = getattr(norm, "normalized_shape", None) or getattr(norm, "dim", None)
    if weight is not None:
        return weight.numel()
    return math.prod(shape) if isinstance(shape, tuple | list | torch.Size) else shape


def is_of_heads(name: str) -> bool:
    """Whether a norm's name says that it is of queries, keys or values, not of what they are made from."""
    words = set(name.rpartition(".")[2].split("_"))
    return bool({"q", "k", "v", "query", "key", "value"} & words) and "pre" not in words
