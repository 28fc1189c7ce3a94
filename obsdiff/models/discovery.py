"""What is known of diffusers' blocks: which Linears share an input, and in which order their inputs become known.

No torch: a model is described by the names and shapes of its linear layers, which a module gives as well as the headers of a
safetensors file. Attentions and FFNs are recognised by the names of their layers (their structure), so that one entry of
the table serves every class built alike and a renamed class changes nothing. The table is models/block_table.py.

Convolutions are described in the same way, by the shape of their weight as a matrix; their table is models/block_table.py.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase

from ..errors import UserError
from .block_table import (
    CONVOLUTIONS,
    DENSE_PATTERNS,
    ENTRIES,
    FORWARD_RANK,
    RUN_LAST,
    STAY_DENSE,
    Entry,
)
from .structure import Block, Group, Shape, Tap, Unit


@dataclass(frozen=True)
class Part:
    """An attention or FFN found in a model, with full layer names."""

    owner: str
    entry: Entry
    units: tuple[Unit, ...]
    groups: tuple[Group, ...]

    @property
    def is_ffn(self) -> bool:
        return self.entry.name == "FFN"


def find_blocks(shapes: Mapping[str, Shape]) -> list[Block]:
    """Every block that the table describes, in forward order. `linears` maps layer names to shapes, in any order.

    A block is where attentions stand; the FFNs below it belong to it.
    """
    parts = find_parts(shapes)
    places = outermost(place(part) for part in parts if not part.is_ffn or part.entry.alone)
    inside: dict[str, list[Part]] = {}
    for part in parts:
        home = next((p for p in places if is_within(part.owner, p)), None)
        if home is not None:
            inside.setdefault(home, []).append(part)
    return sorted((assemble(name, some) for name, some in inside.items()), key=forward_order)


def segment_of(block: str) -> str:
    """The module below the denoiser that a block stands in, down to the first number: down_blocks.1 of
    down_blocks.1.attentions.0. What calibration replay runs by itself."""
    parts = block.split(".")
    numbered = next((i for i, part in enumerate(parts) if part.isdigit()), 0)
    return ".".join(parts[: numbered + 1])


def segments(blocks: Iterable[Block]) -> dict[str, str]:
    """Layer -> the segment that it stands in. A layer's own name may not say it: to_out.0 of a block without a number has one of its own."""
    return {layer: segment_of(block.name) for block in blocks for layer in block.layers}


def find_parts(shapes: Mapping[str, Shape]) -> list[Part]:
    """Every attention, FFN and residual block that an entry describes; each layer belongs to the first entry that has it."""
    parts: list[Part] = []
    taken: set[str] = set()
    for entry in (*ENTRIES, *CONVOLUTIONS):
        for prefix in prefixes(entry, shapes):
            if not any(prefix + name in taken for name in entry.requires):
                part = Part(
                    prefix.rstrip("."),
                    entry,
                    resolve_units(entry, prefix, shapes),
                    resolve_groups(entry, prefix, shapes),
                )
                taken.update(layer for unit in part.units for tap in unit for layer in tap.layers)
                parts.append(part)
    return parts


def prefixes(entry: Entry, shapes: Mapping[str, Shape]) -> list[str]:
    """What stands before the entry's layer names, wherever all those it requires are there and the end of the owner's name fits."""
    first = entry.requires[0]
    found = [name.removesuffix(first) for name in shapes if f".{name}".endswith(f".{first}")]
    fitting = [p for p in found if any(has_name(p.rstrip("."), wild) for wild in entry.owners)]
    return [
        p
        for p in fitting
        if all(p + name in shapes for name in entry.requires)
        and not any(p + name in shapes for name in entry.lacks)
    ]


def has_name(owner: str, wild: str) -> bool:
    """Whether the last parts of an owner's name fit a wildcard, part by part."""
    wilds = wild.split(".")
    parts = owner.split(".")[-len(wilds) :]
    return len(parts) == len(wilds) and all(
        fnmatchcase(part, w) for part, w in zip(parts, wilds, strict=True)
    )


def place(part: Part) -> str:
    """The module that an attention stands in: its parent, or itself if it is one of a list."""
    parent, _, own = part.owner.rpartition(".")
    return part.owner if part.entry.is_block or own.isdigit() else parent


def outermost(places: Iterable[str]) -> list[str]:
    """The places that lie in no other one."""
    found = sorted(set(places), key=len)
    return [p for i, p in enumerate(found) if not any(is_within(p, q) for q in found[:i] if q)]


def is_within(name: str, block: str) -> bool:
    return name == block or name.startswith(block + ".")


def assemble(name: str, parts: list[Part]) -> Block:
    """One block: its attentions one after the other, self before cross, then its FFNs side by side."""
    attentions = sorted(
        (p for p in parts if not p.is_ffn), key=lambda p: ("cross" in p.entry.name, p.owner)
    )
    ffns = sorted((p for p in parts if p.is_ffn), key=lambda p: natural(p.owner))
    depth = max((len(p.units) for p in ffns), default=0)
    together = [
        tuple(tap for p in ffns if i < len(p.units) for tap in p.units[i]) for i in range(depth)
    ]
    groups = tuple(group for part in (*attentions, *ffns) for group in part.groups)
    units = (*(unit for part in attentions for unit in part.units), *together)
    return Block(name, kind(attentions), units, groups, any(p.entry.keep_ends for p in attentions))


def kind(attentions: list[Part]) -> str:
    """A block's kind in words: "self and cross attention"."""
    names = dict.fromkeys(part.entry.name for part in attentions)
    shared = " attention"
    if len(names) > 1 and all(n.endswith(shared) for n in names):
        return " and ".join(n.removesuffix(shared) for n in names) + shared
    return " and ".join(names) or "FFN"


def natural(name: str) -> list[tuple[int, str]]:
    return [(int(p), "") if p.isdigit() else (-1, p) for p in name.split(".")]


def forward_order(block: Block) -> tuple:
    """By the list of blocks, then by the numbers in the name, then by the name: what interleaves has the same numbers. In a level
    of a UNet a residual block comes before the attention of the same number, and the sampler comes last."""
    first, *_ = parts = block.name.split(".")
    star = next(i for i, wilds in enumerate(FORWARD_RANK) if "*" in wilds)
    rank = next(
        (
            i
            for i, wilds in enumerate(FORWARD_RANK)
            if any(w != "*" and fnmatchcase(first, w) for w in wilds)
        ),
        star,
    )
    level, *inside = [int(p) for p in parts if p.isdigit()] or [-1]
    last = any(fnmatchcase(part, wild) for part in parts for wild in RUN_LAST)
    return (
        rank,
        level,
        any("samplers" in p for p in parts),
        inside,
        last,
        "resnets" not in parts,
        parts,
    )


def resolve_units(entry: Entry, prefix: str, shapes: Mapping[str, Shape]) -> tuple[Unit, ...]:
    """The entry's units with full names, without the layers that are missing here. Layers of other widths read something else."""
    units = []
    for unit in entry.units:
        taps = []
        for tap in unit:
            names = [prefix + x for x in tap.layers if prefix + x in shapes]
            stream = "text" if tap.part == "ffn" and is_text(prefix) else tap.stream
            for width in dict.fromkeys(shapes[name][1] for name in names):
                taps.append(Tap(tuple(n for n in names if shapes[n][1] == width), tap.part, stream))
        units.append(tuple(taps))
    return tuple(unit for unit in units if unit)


def is_text(prefix: str) -> bool:
    return any(word in prefix.rstrip(".").rpartition(".")[2] for word in ("context", "text", "txt"))


def resolve_groups(entry: Entry, prefix: str, shapes: Mapping[str, Shape]) -> tuple[Group, ...]:
    """The entry's groups with full names; a group that is missing here is left out."""
    groups = []
    for group in entry.groups:
        here = [i for i, name in enumerate(group.producers) if prefix + name in shapes]
        producers, consumers = (
            tuple(prefix + group.producers[i] for i in here),
            tuple(prefix + n for n in group.consumers if prefix + n in shapes),
        )
        if producers and consumers:
            rows = tuple(group.rows[i] for i in here) if group.rows else ()
            owner, beside = (
                (prefix + group.owner).rstrip("."),
                tuple(prefix + n for n in group.beside),
            )
            norm = group.norm and prefix + group.norm
            groups.append(
                replace(
                    group,
                    owner=owner,
                    producers=producers,
                    consumers=consumers,
                    rows=rows,
                    beside=beside,
                    norm=norm,
                )
            )
    return tuple(groups)


def uncovered(
    shapes: Mapping[str, Shape], blocks: list[Block], target: str = "linear"
) -> list[str]:
    """Linears inside the found blocks that no entry prunes and that are not known to stay dense, and for target conv convolutions
    anywhere; all layers if no block was found."""
    if not blocks:
        return list(shapes)
    known = {layer for block in blocks for layer in block.layers}
    inside = {
        n: block.name
        for n in shapes
        if n not in known
        for block in blocks
        if n.startswith(block.name + ".")
    }
    loose = [
        n
        for n in shapes
        if target == "conv"
        and n not in known
        and n not in inside
        and "conv" in n.rpartition(".")[2]
        and n not in STAY_DENSE
    ]
    return [
        n
        for n, block in inside.items()
        if not any(fnmatchcase(n.removeprefix(block + "."), wild) for wild in DENSE_PATTERNS)
    ] + loose


def require_blocks(shapes: Mapping[str, Shape], what: str, target: str = "linear") -> list[Block]:
    """find_blocks, or a UserError that names the Linears no entry covers, or that there is no convolution for target conv."""
    blocks = find_blocks(shapes)
    if (
        blocks
        and target == "conv"
        and not any(tap.part == "conv" for block in blocks for unit in block.units for tap in unit)
    ):
        raise UserError(
            f"target conv: expected a UNet with residual blocks, found none in {what}; give --target linear"
        )
    if not blocks:
        names = ", ".join(list(shapes)[:8]) + (
            f" and {len(shapes) - 8} more" if len(shapes) > 8 else ""
        )
        raise UserError(
            f"{what}: no block of it is known to obsdiff; linear layers that no table entry covers: {names or 'none at all'}"
        )
    return blocks
