"""Match the block table against the layer names of a model. Imports no torch."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase

from .block_entry import Entry
from .block_table import CONVOLUTIONS, ENTRIES, TEXT_WORDS
from .structure import Group, Shape, Tap, Unit


@dataclass(frozen=True)
class Part:
    """An attention, FFN or residual block found in a model, with full layer names.

    Attributes:
        owner: its module.
        entry: the table's entry.
        units: the entry's units that exist here.
        groups: the entry's groups that exist here.
    """

    owner: str
    entry: Entry
    units: tuple[Unit, ...]
    groups: tuple[Group, ...]

    @property
    def is_ffn(self) -> bool:
        """Whether the part is an FFN."""
        return self.entry.name == "FFN"


def find_parts(shapes: Mapping[str, Shape]) -> list[Part]:
    """Return all parts that entries describe; a layer belongs to the first entry that matches."""
    parts: list[Part] = []
    taken: set[str] = set()
    for entry in (*ENTRIES, *CONVOLUTIONS):
        for prefix in prefixes(entry, shapes):
            if not any(prefix + name in taken for name in entry.requires):
                units = resolve_units(entry, prefix, shapes)
                groups = resolve_groups(entry, prefix, shapes)
                taken.update(layer for unit in units for tap in unit for layer in tap.layers)
                parts.append(Part(prefix.rstrip("."), entry, units, groups))
    return parts


def prefixes(entry: Entry, shapes: Mapping[str, Shape]) -> list[str]:
    """Return the prefixes of layer names at which an entry matches: layers exist, owner fits."""
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
    """Return whether the last parts of an owner's name match a wildcard, part by part."""
    wilds = wild.split(".")
    parts = owner.split(".")[-len(wilds) :]
    return len(parts) == len(wilds) and all(
        fnmatchcase(part, w) for part, w in zip(parts, wilds, strict=True)
    )


def resolve_units(entry: Entry, prefix: str, shapes: Mapping[str, Shape]) -> tuple[Unit, ...]:
    """Return the entry's units with full names, without missing layers.

    Layers of one tap that have other numbers of inputs read another tensor: the tap is split.
    """
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
    """Return whether an FFN's own name refers to text tokens."""
    return any(word in prefix.rstrip(".").rpartition(".")[2] for word in TEXT_WORDS)


def resolve_groups(entry: Entry, prefix: str, shapes: Mapping[str, Shape]) -> tuple[Group, ...]:
    """Return the entry's groups with full names, without missing layers and groups."""
    found = (resolve_group(group, prefix, shapes) for group in entry.groups)
    return tuple(group for group in found if group.producers and group.consumers)


def resolve_group(group: Group, prefix: str, shapes: Mapping[str, Shape]) -> Group:
    """Return the group with full names, without missing layers."""
    here = [i for i, name in enumerate(group.producers) if prefix + name in shapes]
    return replace(
        group,
        owner=(prefix + group.owner).rstrip("."),
        producers=tuple(prefix + group.producers[i] for i in here),
        consumers=tuple(prefix + name for name in group.consumers if prefix + name in shapes),
        rows=tuple(group.rows[i] for i in here) if group.rows else (),
        beside=tuple(prefix + name for name in group.beside),
        norm=group.norm and prefix + group.norm,
    )
