"""What is known of diffusers' blocks: which Linears share an input, and in which order their inputs become known.

Data only, and no torch: a model is described by the names and shapes of its linear layers, which a module gives as
well as the headers of a safetensors file. A block is recognised by the names of its linear layers (its structure), so
that one entry serves every class built alike and a renamed class changes nothing.

To add a model: one entry in ENTRIES, one tiny config in tests/conftest.py.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase

from .errors import UserError

Shape = tuple[int, int]  # (O, I) of a Linear's weight


@dataclass(frozen=True)
class Tap:
    """Linear layers that read one and the same tensor, hence share one Hessian. `stream` says whose tokens it holds."""

    layers: tuple[str, ...]
    part: str  # "attention" or "ffn"
    stream: str = "image"  # "image", "text" or "joint"


Unit = tuple[Tap, ...]  # a basic unit (paper, section 3.3): its inputs do not depend on each other's layers


@dataclass(frozen=True)
class Group:
    """What leaves together in structured pruning: producers lose rows, consumers lose columns.

    `owner` is the module that the group belongs to: the attention, whose `heads` shrinks, or the FFN ("" is the block). The
    columns of a consumer are those of the heads, then those of the neurons.
    """

    kind: str  # "heads" or "neurons"
    owner: str
    producers: tuple[str, ...]
    consumers: tuple[str, ...]


@dataclass(frozen=True)
class Entry:
    """One kind of block. Names are relative to the block; a layer that a block lacks is skipped, unless required."""

    name: str
    requires: tuple[str, ...]
    units: tuple[Unit, ...]
    groups: tuple[Group, ...]
    dense: tuple[str, ...] = ()  # wildcards of Linears in the block that stay dense: modulation
    keep_ends: bool = False  # the paper leaves the first and last block of these models whole in structured pruning


def attention(*layers: str, stream: str = "image") -> Tap:
    return Tap(layers, "attention", stream)


def ffn(*layers: str, stream: str = "image") -> Tap:
    return Tap(layers, "ffn", stream)


QKV = ("attn.to_q", "attn.to_k", "attn.to_v")

ENTRIES = (
    Entry(  # SD3, SD3.5 (with a second attention in SD3.5-medium) and FLUX's double blocks
        name="joint attention",
        requires=("attn.to_q", "attn.add_q_proj", "attn.to_out.0", "ff.net.0.proj", "ff.net.2"),
        units=(
            (
                attention("attn.to_q", "attn.to_k", "attn.to_v"),
                attention("attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj", stream="text"),
                attention("attn2.to_q", "attn2.to_k", "attn2.to_v"),
            ),
            (attention("attn.to_out.0"), attention("attn.to_add_out", stream="text"), attention("attn2.to_out.0")),
            (ffn("ff.net.0.proj"), ffn("ff_context.net.0.proj", stream="text")),
            (ffn("ff.net.2"), ffn("ff_context.net.2", stream="text")),
        ),
        groups=(
            Group("heads", "attn", (*QKV, "attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj"), ("attn.to_out.0", "attn.to_add_out")),
            Group("heads", "attn2", ("attn2.to_q", "attn2.to_k", "attn2.to_v"), ("attn2.to_out.0",)),
            Group("neurons", "ff", ("ff.net.0.proj",), ("ff.net.2",)),
            Group("neurons", "ff_context", ("ff_context.net.0.proj",), ("ff_context.net.2",)),
        ),
        dense=("norm*.linear",),
        keep_ends=True,
    ),
    Entry(  # FLUX's single blocks: attention and FFN in parallel, one output projection reads [heads | neurons]
        name="parallel attention and FFN",
        requires=("attn.to_q", "attn.to_k", "attn.to_v", "proj_mlp", "proj_out"),
        units=(
            (attention("attn.to_q", "attn.to_k", "attn.to_v", "proj_mlp", stream="joint"),),
            (attention("proj_out", stream="joint"),),
        ),
        groups=(Group("heads", "attn", QKV, ("proj_out",)), Group("neurons", "", ("proj_mlp",), ("proj_out",))),
        dense=("norm*.linear",),
        keep_ends=True,
    ),
    Entry(  # the UNets of SD 1.5, 2.1 and SDXL
        name="self and cross attention",
        requires=("attn1.to_q", "attn1.to_out.0", "attn2.to_q", "attn2.to_out.0", "ff.net.0.proj", "ff.net.2"),
        units=(
            (attention("attn1.to_q", "attn1.to_k", "attn1.to_v"),),
            (attention("attn1.to_out.0"),),
            (attention("attn2.to_q"), attention("attn2.to_k", "attn2.to_v", stream="text")),
            (attention("attn2.to_out.0"),),
            (ffn("ff.net.0.proj"),),
            (ffn("ff.net.2"),),
        ),
        groups=(
            Group("heads", "attn1", ("attn1.to_q", "attn1.to_k", "attn1.to_v"), ("attn1.to_out.0",)),
            Group("heads", "attn2", ("attn2.to_q", "attn2.to_k", "attn2.to_v"), ("attn2.to_out.0",)),
            Group("neurons", "ff", ("ff.net.0.proj",), ("ff.net.2",)),
        ),
        dense=("norm*.linear",),
    ),
)

# Top-level lists of blocks in the order they run in; inside a list blocks run in the order of their numbers.
FORWARD_RANK = {"transformer_blocks": 0, "single_transformer_blocks": 1, "down_blocks": 2, "mid_block": 3, "up_blocks": 4}


@dataclass(frozen=True)
class Block:
    """A block found in a model: full layer names, in forward order."""

    name: str
    entry: str
    units: tuple[Unit, ...]
    groups: tuple[Group, ...]
    keep_ends: bool

    @property
    def layers(self) -> tuple[str, ...]:
        return tuple(layer for unit in self.units for tap in unit for layer in tap.layers)


def find_blocks(linears: Mapping[str, Shape]) -> list[Block]:
    """Every block that an entry describes, in forward order. `linears` maps layer names to shapes, in any order."""
    blocks: dict[str, Block] = {}
    for name in linears:
        for entry in ENTRIES:
            first = entry.requires[0]
            prefix = name.removesuffix(first)
            if name.endswith("." + first) and all(prefix + r in linears for r in entry.requires):
                units, groups = resolve(entry, prefix, linears), resolve_groups(entry, prefix, linears)
                blocks.setdefault(prefix, Block(prefix.rstrip("."), entry.name, units, groups, entry.keep_ends))
                break
    return sorted(blocks.values(), key=forward_order)


def forward_order(block: Block) -> tuple:
    parts = block.name.split(".")
    return FORWARD_RANK.get(parts[0], len(FORWARD_RANK)), [(int(p), "") if p.isdigit() else (-1, p) for p in parts]


def resolve(entry: Entry, prefix: str, linears: Mapping[str, Shape]) -> tuple[Unit, ...]:
    """The entry's units with full names, without the layers that this block lacks."""
    units = []
    for unit in entry.units:
        taps = (Tap(tuple(prefix + x for x in tap.layers if prefix + x in linears), tap.part, tap.stream) for tap in unit)
        units.append(tuple(tap for tap in taps if tap.layers))
    return tuple(unit for unit in units if unit)


def resolve_groups(entry: Entry, prefix: str, linears: Mapping[str, Shape]) -> tuple[Group, ...]:
    """The entry's groups with full names; a group that this block lacks is left out."""
    groups = []
    for group in entry.groups:
        producers, consumers = (tuple(prefix + x for x in names if prefix + x in linears) for names in (group.producers, group.consumers))
        if producers and consumers:
            groups.append(Group(group.kind, (prefix + group.owner).rstrip("."), producers, consumers))
    return tuple(groups)


def uncovered(linears: Mapping[str, Shape], blocks: list[Block]) -> list[str]:
    """Linears inside the found blocks that their entry neither prunes nor declares dense; all Linears if none was found."""
    if not blocks:
        return list(linears)
    known = {layer for block in blocks for layer in block.layers}
    dense = {entry.name: entry.dense for entry in ENTRIES}
    missing = []
    for block in blocks:
        inside = [n for n in linears if n.startswith(block.name + ".") and n not in known]
        kept = dense[block.entry]
        missing += [n for n in inside if not any(fnmatchcase(n, f"{block.name}.{wild}") for wild in kept)]
    return missing


def require_blocks(linears: Mapping[str, Shape], what: str) -> list[Block]:
    """find_blocks, or a UserError that names the Linears no entry covers."""
    blocks = find_blocks(linears)
    if not blocks:
        names = ", ".join(list(linears)[:8]) + (f" and {len(linears) - 8} more" if len(linears) > 8 else "")
        raise UserError(f"{what}: no block of it is known to obsdiff; linear layers that no table entry covers: {names or 'none at all'}")
    return blocks
