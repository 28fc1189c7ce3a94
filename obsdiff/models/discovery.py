"""Find a denoiser's blocks: which layers share an input, and the order in which inputs are known.

A model is described by the names and weight shapes of its linear layers, which come from a module
as well as from the headers of a safetensors file. Attentions and FFNs are recognised by the names
of their layers, so one entry of models/block_table.py covers every class built alike, and a renamed
class changes nothing. Convolutions are described in the same way, by the shape of their weight as a
matrix. Imports no torch.
"""

from collections.abc import Container, Iterable, Mapping
from fnmatch import fnmatchcase

from ..errors import UserError
from .block_table import DENSE_PATTERNS, FORWARD_RANK, RUN_LAST, STAY_DENSE
from .parts import Part, find_parts
from .structure import Block, Shape

NAMES_SHOWN = 8  # layers that an error lists


def find_blocks(shapes: Mapping[str, Shape]) -> list[Block]:
    """Find every block that the table describes.

    A block is the module that contains attentions; the FFNs below it belong to it.

    Args:
        shapes: layer names and weight shapes (O, I), in any order.

    Returns:
        The blocks in forward order.
    """
    parts = find_parts(shapes)
    containers = outermost(container(part) for part in parts if not part.is_ffn or part.entry.alone)
    inside: dict[str, list[Part]] = {}
    for part in parts:
        block = enclosing(part.owner, containers)
        if block is not None:
            inside.setdefault(block, []).append(part)
    return sorted((assemble(name, some) for name, some in inside.items()), key=forward_order)


def segment_of(block: str) -> str:
    """Return the module that contains a block: its name down to the first number.

    For example down_blocks.1 of down_blocks.1.attentions.0. Calibration replay runs a segment by
    itself.
    """
    parts = block.split(".")
    numbered = next((i for i, part in enumerate(parts) if part.isdecimal()), 0)
    return ".".join(parts[: numbered + 1])


def segments(blocks: Iterable[Block]) -> dict[str, str]:
    """Return the segment of each layer.

    A layer's own name does not always determine it: to_out.0 of a block without a number has
    another first number.

    Args:
        blocks: blocks of one denoiser.

    Returns:
        Layer name -> name of its block's segment.
    """
    return {layer: segment_of(block.name) for block in blocks for layer in block.layers}


def container(part: Part) -> str:
    """Return the module that contains an attention: its parent, or itself if one of a list."""
    parent, _, own = part.owner.rpartition(".")
    return part.owner if part.entry.is_block or own.isdecimal() else parent


def outermost(modules: Iterable[str]) -> set[str]:
    """Return the modules that no other of them contains."""
    found = set(modules)
    return {name for name in found if enclosing(name, found) == name}


def enclosing(name: str, modules: Container[str]) -> str | None:
    """Return the outermost of some modules that is `name` or contains it; None if there is none."""
    end = name.find(".")
    while end >= 0:
        if end and name[:end] in modules:
            return name[:end]
        end = name.find(".", end + 1)
    return name if name in modules else None


def assemble(name: str, parts: list[Part]) -> Block:
    """Assemble a block: attentions in sequence, self before cross, then FFNs side by side."""
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
    """Return a block's kind in words, such as "self and cross attention"."""
    names = dict.fromkeys(part.entry.name for part in attentions)
    shared = " attention"
    if len(names) > 1 and all(n.endswith(shared) for n in names):
        return " and ".join(n.removesuffix(shared) for n in names) + shared
    return " and ".join(names) or "FFN"


def natural(name: str) -> list[tuple[int, str]]:
    """Return a sort key that compares the numbers in a name as numbers."""
    return [(int(p), "") if p.isdecimal() else (-1, p) for p in name.split(".")]


def forward_order(block: Block) -> tuple:
    """Return a sort key: rank of the list of blocks, then the numbers in the name, then the name.

    Lists that interleave have the same numbers. In a level of a UNet a residual block precedes the
    attention of the same number, and the sampler is last.
    """
    parts = block.name.split(".")
    level, *inside = [int(p) for p in parts if p.isdecimal()] or [-1]
    return (
        list_rank(parts[0]),
        level,
        any("samplers" in p for p in parts),
        inside,
        any(fnmatchcase(part, wild) for part in parts for wild in RUN_LAST),
        "resnets" not in parts,
        parts,
    )


def list_rank(name: str) -> int:
    """Return the place of a list of blocks in FORWARD_RANK; the star's for an unlisted name."""
    ranks = {wild: i for i, wilds in enumerate(FORWARD_RANK) for wild in wilds}
    star = ranks.pop("*")
    return next((rank for wild, rank in ranks.items() if fnmatchcase(name, wild)), star)


def uncovered(
    shapes: Mapping[str, Shape], blocks: list[Block], target: str = "linear"
) -> list[str]:
    """List the layers that no entry covers.

    Args:
        shapes: layer names and weight shapes (O, I).
        blocks: the blocks found in them.
        target: with "conv" convolutions outside the blocks are listed, too.

    Returns:
        Layers inside the blocks that no entry prunes and no pattern keeps dense, then convolutions
        outside; all layers if there are no blocks.
    """
    if not blocks:
        return list(shapes)
    known = {layer for block in blocks for layer in block.layers}
    containers = {block.name for block in blocks}
    inside = {
        name: block
        for name in shapes
        if name not in known and (block := enclosing(name, containers)) is not None
    }
    outside = [
        name
        for name in shapes
        if name not in known
        and name not in inside
        and "conv" in name.rpartition(".")[2]
        and name not in STAY_DENSE
    ]
    return [name for name, block in inside.items() if not stays_dense(name, block)] + (
        outside if target == "conv" else []
    )


def stays_dense(name: str, block: str) -> bool:
    """Return whether a pattern keeps this layer of a block dense."""
    inner = name.removeprefix(block + ".")
    return any(fnmatchcase(inner, wild) for wild in DENSE_PATTERNS)


def require_blocks(shapes: Mapping[str, Shape], what: str, target: str = "linear") -> list[Block]:
    """Find the blocks, and refuse a model without any.

    Args:
        shapes: layer names and weight shapes (O, I).
        what: the model's name in errors.
        target: "linear" or "conv"; "conv" requires residual blocks.

    Returns:
        The blocks in forward order.

    Raises:
        UserError: no entry covers the linear layers, or target conv finds no residual block.
    """
    blocks = find_blocks(shapes)
    if not blocks:
        more = f" and {len(shapes) - NAMES_SHOWN} more" if len(shapes) > NAMES_SHOWN else ""
        names = ", ".join(list(shapes)[:NAMES_SHOWN]) + more
        raise UserError(
            f"{what}: expected blocks that obsdiff can prune, found none; linear layers that no "
            f"table entry covers: {names or 'none at all'}; to add the model, see "
            "obsdiff/models/block_table.py"
        )
    parts = {tap.part for block in blocks for unit in block.units for tap in unit}
    if target == "conv" and "conv" not in parts:
        raise UserError(
            f"target conv: expected a UNet with residual blocks, found none in {what}; "
            "pass --target linear"
        )
    return blocks
