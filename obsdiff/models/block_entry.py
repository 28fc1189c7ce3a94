"""One entry of the block table, and constructors for the usual ones. Imports no torch.

An attention's entry lists the taps that it reads by stream: `image`, `text` or `joint` tokens.
"""

from dataclasses import dataclass
from typing import NamedTuple

from .structure import Group, Tap, Unit

HEADS, NEURONS = "heads", "neurons"
# Owners whose q, k and v read one tensor. For other owners this is unknown: k and v get a Hessian
# of their own.
SELF_ATTENTION_OWNERS = (
    "attn",
    "attn1",
    "*_attn1",
    "self_attn",
    "self_attention",
    "mha",
    "layers.*.attention",
    "*refiner.*.attention",
    "attentions.*",
)
TEXT_OUTPUTS = ("to_add_out", "to_out_t", "txt_attn_proj")  # output projections of text tokens
ANY_OWNER = ("*",)


@dataclass(frozen=True)
class Entry:
    """One kind of attention, FFN or residual block.

    Layer names are relative to its module, the owner, or to the block if the entry `is_block`. A
    layer that a model lacks is skipped, unless it is required.

    Attributes:
        name: the kind; "FFN" for FFNs.
        requires: layers that must exist.
        units: the units in forward order.
        groups: the groups of structured pruning.
        owners: wildcards for the owner's own name, or for the last parts of it.
        lacks: layers that must not exist.
        keep_ends: structured pruning keeps the first and last block of these models (paper).
        is_block: the owner is the block itself.
        alone: an FFN that may form a block without an attention.
    """

    name: str
    requires: tuple[str, ...]
    units: tuple[Unit, ...]
    groups: tuple[Group, ...]
    owners: tuple[str, ...] = ANY_OWNER
    lacks: tuple[str, ...] = ()
    keep_ends: bool = False
    is_block: bool = False
    alone: bool = False


class FixedHeads(NamedTuple):
    """Why the heads of an attention processor are fixed.

    Attributes:
        outputs: the reason holds for attentions with at most that many output projections.
        reason: the reason.
    """

    outputs: int
    reason: str


def image(*layers: str) -> Tap:
    """Return the layers of an attention that read the same image tokens."""
    return Tap(layers, "attention", "image")


def text(*layers: str) -> Tap:
    """Return the layers of an attention that read the same text tokens."""
    return Tap(layers, "attention", "text")


def joint(*layers: str) -> Tap:
    """Return the layers of an attention that read the same sequence of text and image tokens."""
    return Tap(layers, "attention", "joint")


def attention(
    name: str,
    *reads: Tap,
    out: str | tuple[str, ...],
    requires: tuple[str, ...] = (),
    owners: tuple[str, ...] = ANY_OWNER,
    refused: str = "",
    keep_ends: bool = False,
) -> Entry:
    """Describe an attention all of whose input projections write heads.

    Args:
        name: the kind of attention.
        reads: the input projections, one tap for each tensor that they read.
        out: the output projection, or one for each stream: they read different tokens.
        requires: layers that must exist; all if empty.
        owners: wildcards for the owner's name.
        refused: the reason why its heads are never pruned, or "".
        keep_ends: structured pruning keeps the first and last block.
    """
    outs = (out,) if isinstance(out, str) else out
    inputs = tuple(layer for tap in reads for layer in tap.layers)
    last = tuple(text(layer) if layer in TEXT_OUTPUTS else image(layer) for layer in outs)
    group = Group(HEADS, "", inputs, outs, refused=refused)
    return Entry(
        name,
        requires or (*inputs, *outs),
        (reads, last),
        (group,),
        owners=owners,
        keep_ends=keep_ends,
    )


def self_and_cross(
    qkv: tuple[str, ...], out: str, owners: tuple[str, ...] = ANY_OWNER
) -> tuple[Entry, Entry]:
    """Describe self attention, and cross attention of the same layer names.

    In self attention q, k, v (and a gate) read one tensor; in cross attention k and v read another.

    Args:
        qkv: the layers of q, k and v, and of a gate if there is one.
        out: the output projection.
        owners: wildcards for the owner's name; the usual owners of self attention by default.
    """
    selves = SELF_ATTENTION_OWNERS if owners == ANY_OWNER else owners
    alike = attention(
        "self attention", image(*qkv), out=out, requires=(*qkv[:3], out), owners=selves
    )
    return alike, cross(qkv, out, owners)


def cross(qkv: tuple[str, ...], out: str, owners: tuple[str, ...] = ANY_OWNER) -> Entry:
    """Describe cross attention: q (and a gate) read the image tokens, k and v the text tokens."""
    q, k, v, *gates = qkv
    return Entry(
        "cross attention",
        (q, k, v, out),
        ((image(q, *gates), text(k, v)), (image(out),)),
        (Group(HEADS, "", qkv, (out,)),),
        owners=owners,
    )


def parallel(*requires: str, refused: str = "") -> Entry:
    """Describe a block of attention and FFN in parallel: one output reads [heads | neurons].

    Args:
        requires: layers that must exist besides the usual ones.
        refused: the reason why its heads are never pruned, or "".
    """
    qkv, up, out = ("attn.to_q", "attn.to_k", "attn.to_v"), "proj_mlp", "proj_out"
    return Entry(
        "parallel attention and FFN",
        (*qkv, up, out, *requires),
        ((joint(*qkv, up),), (joint(out),)),
        (
            Group(HEADS, "attn", qkv, (out,), refused=refused),
            Group(NEURONS, "", (up,), (out,), beside=("attn.to_q",)),
        ),
        keep_ends=True,
        is_block=True,
    )


def ffn(*ups: str, down: str, owners: tuple[str, ...] = ANY_OWNER, alone: bool = False) -> Entry:
    """Describe an FFN.

    Args:
        ups: up projections: one, one with two rows for each neuron, or a gate and an up.
        down: the down projection, which reads the neurons.
        owners: wildcards for the owner's name.
        alone: the FFN may form a block without an attention.
    """
    units = ((Tap(ups, "ffn"),), (Tap((down,), "ffn"),))
    group = Group(NEURONS, "", ups, (down,))
    return Entry("FFN", (*ups, down), units, (group,), owners=owners, alone=alone)
