"""The layers and groups that the config selects for pruning."""

from collections.abc import Collection, Mapping
from fnmatch import fnmatchcase

from ..config import PruningConfig
from ..config.choices import TARGETS
from ..config.values import parse_blocks
from ..errors import UserError
from ..models.modulation_table import modulation_like
from ..models.structure import Block, Group, Shape, Tap, Unit


def kept_count(group: Group, total: int, config: PruningConfig) -> int:
    """Return the number of items that uniform pruning keeps.

    At least one head or norm group; neurons in multiples of round_to, at least round_to. Halves are
    rounded up, with ranking authors to the even number.

    Args:
        group: the group.
        total: its number of items.
        config: the settings.
    """
    if not config.removed:
        return total
    share = config.removed * total
    away = round(share) if config.ranking == "authors" else int(share + 0.5)
    if group.kind != "neurons":
        return max(1, total - away)
    unit = config.round_to
    return min(total, max(unit, int((total - away) / unit + 0.5) * unit))


def select(blocks: list[Block], config: PruningConfig, shapes: Mapping[str, Shape]) -> list[Unit]:
    """Return the basic units to prune, in forward order, after blocks, target, include and exclude.

    Args:
        blocks: the blocks of the model.
        config: the settings.
        shapes: (O, I) of every layer.

    Raises:
        UserError: no unit is left, or N:M does not divide a layer's columns.
    """
    check_wildcards(blocks, config, shapes)
    kept = chosen_blocks(blocks, config)
    if config.pattern == "structured":
        reading = {layer for group in select_groups(blocks, config) for layer in group.consumers}
        units = [reads for block in kept for unit in block.units if (reads := only(unit, reading))]
        if units and config.bits is not None:
            units = rounded_units(blocks, config, reading)
    else:
        units = [
            narrowed for block in kept for unit in block.units if (narrowed := narrow(unit, config))
        ]
    if not units:
        raise UserError(
            f"nothing is left to prune: blocks {config.blocks or 'all'}, target {config.target}, "
            f"include {list(config.include)}, exclude {list(config.exclude)}"
        )
    check_columns(units, config, shapes)
    return units


def check_wildcards(
    blocks: list[Block], config: PruningConfig, shapes: Mapping[str, Shape]
) -> None:
    """Raise UserError for a wildcard that no layer matches which the config could change."""
    names = [layer for block in blocks for layer in block.layers]
    if config.modulation is not None:
        names += modulation_like(shapes)
    if config.round_layers == "all":
        names += shapes
    for wild in config.include + config.exclude:
        if not any(fnmatchcase(name, wild) for name in names):
            raise UserError(
                f"include/exclude: no prunable layer matches {wild!r}; names look like {names[0]}"
            )


def named_by(layer: str, config: PruningConfig) -> bool:
    """Return whether include and exclude leave a layer in."""
    included = not config.include or any(fnmatchcase(layer, w) for w in config.include)
    return included and not any(fnmatchcase(layer, w) for w in config.exclude)


def chosen_blocks(blocks: list[Block], config: PruningConfig) -> list[Block]:
    """Return the blocks selected by config.blocks and, for structured, keep_first_last."""
    kept = blocks_in_range(blocks, config)
    if config.pattern == "structured" and config.keep_first_last is not False:
        whole = blocks if config.keep_first_last else [b for b in blocks if b.keep_ends]
        kept = [block for block in kept if block not in (whole[:1] + whole[-1:])]
    return kept


def blocks_in_range(blocks: list[Block], config: PruningConfig) -> list[Block]:
    """Return the blocks selected by config.blocks; UserError if the model has fewer."""
    chosen = parse_blocks(config.blocks)
    if chosen and chosen[1] >= len(blocks):
        raise UserError(
            f"blocks: this model has blocks 0-{len(blocks) - 1}, found {config.blocks!r}"
        )
    return blocks[chosen[0] : chosen[1] + 1] if chosen else blocks


def rounded_units(blocks: list[Block], config: PruningConfig, reading: set[str]) -> list[Unit]:
    """Return the units of layers that structured pruning with bits prunes or rounds.

    The first and the last block are rounded, whether they are pruned or not.

    Args:
        blocks: the blocks of the model.
        config: the settings.
        reading: the layers that lose columns.
    """
    units = (unit for block in blocks_in_range(blocks, config) for unit in block.units)
    return [taps for unit in units if (taps := narrow(unit, config, reading))]


def select_groups(blocks: list[Block], config: PruningConfig) -> list[Group]:
    """Return the groups that structured pruning shrinks, by target, include and exclude.

    Args:
        blocks: the blocks of the model.
        config: the settings.
    """
    parts = {"heads": "attention", "neurons": "ffn", "channels": "conv"}
    return [
        group
        for block in chosen_blocks(blocks, config)
        for group in block.groups
        if wanted_group(group, parts[group.kind], config)
    ]


def wanted_group(group: Group, part: str, config: PruningConfig) -> bool:
    """Return whether a group is selected.

    All its producers and consumers shrink together: excluding one of them excludes the group,
    including one consumer includes it.
    """
    included = not config.include or any(
        fnmatchcase(layer, w) for layer in group.consumers for w in config.include
    )
    excluded = any(
        fnmatchcase(layer, w)
        for layer in (*group.producers, *group.consumers)
        for w in config.exclude
    )
    shared = bool(group.beside or group.rows)  # layers of an attention and an FFN at once
    alone = config.target != "ffn-alone" or not shared
    return part in TARGETS[config.target] and included and not excluded and alone


def narrow_ffns(widths: Mapping[str, int], round_to: int) -> str:
    """Return a note on FFNs that `round_to` leaves no choice but one, or "".

    Args:
        widths: number of neurons of each FFN to prune.
        round_to: the number of which the remaining neurons are a multiple.
    """
    narrow = {owner: width for owner, width in widths.items() if width < 2 * round_to}
    if not narrow:
        return ""
    owner, width = next(iter(narrow.items()))
    return (
        f"round_to {round_to}: {len(narrow)} of {len(widths)} FFNs have fewer than "
        f"{2 * round_to} neurons ({owner}: {width}); each keeps {round_to}, or all that it has"
    )


def only(unit: Unit, layers: set[str]) -> Unit:
    """Return the taps of a unit, with these layers alone."""
    taps = (Tap(tuple(x for x in tap.layers if x in layers), tap.part, tap.stream) for tap in unit)
    return tuple(tap for tap in taps if tap.layers)


def narrow(unit: Unit, config: PruningConfig, also: Collection[str] = ()) -> Unit:
    """Return the taps of a unit, with the layers that target, include and exclude select.

    Args:
        unit: the unit.
        config: the settings.
        also: names of more layers to keep.
    """

    def wanted(layer: str, part: str) -> bool:
        return layer in also or (part in TARGETS[config.target] and named_by(layer, config))

    taps = (
        Tap(tuple(x for x in tap.layers if wanted(x, tap.part)), tap.part, tap.stream)
        for tap in unit
    )
    return tuple(tap for tap in taps if tap.layers)


def check_columns(units: list[Unit], config: PruningConfig, shapes: Mapping[str, Shape]) -> None:
    """Raise UserError if m of N:M does not divide the columns of a layer."""
    if config.group:
        m = config.group[1]
        for layer in (layer for unit in units for tap in unit for layer in tap.layers):
            if shapes[layer][1] % m:
                raise UserError(
                    f"pattern {config.pattern}: {layer} has {shapes[layer][1]} input columns, "
                    f"which {m} does not divide"
                )
