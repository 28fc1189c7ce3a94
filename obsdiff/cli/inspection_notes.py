"""The remarks of a plan: choices of files, narrow FFNs, added weights, folds, zeros as bits."""

from collections.abc import Mapping

from ..calibration.modulation_selection import share_of, why_none
from ..calibration.selection import narrow_ffns, select_groups
from ..config import PruningConfig
from ..models.structure import Block, Shape
from ..pipelines.denoisers import chosen_denoiser, other_denoisers
from ..pipelines.folder import Folder
from ..pipelines.low_bits import SCALE_BYTES
from ..solvers.low_rank import rank_of

BITS = {"float64": 64, "float32": 32, "bfloat16": 16, "float16": 16}  # of a weight


def inspection_notes(folder: Folder, component: str, config: PruningConfig) -> list[str]:
    """Return the choices between files and, if none was named, between denoisers, in words."""
    others = other_denoisers(folder.components, component)
    if config.component or not others:
        return folder.notes()
    return [*folder.notes(), chosen_denoiser(folder.pipeline, component, others)]


def rounding_notes(
    blocks: list[Block], shapes: Mapping[str, Shape], config: PruningConfig
) -> list[str]:
    """Return the note on FFNs that are too narrow for `round_to`, if there are any."""
    if config.pattern != "structured":
        return []
    ffns = [group for group in select_groups(blocks, config) if group.kind == "neurons"]
    widths = {g.owner: shapes[g.consumers[0]][1] for g in ffns if not (g.beside or g.rows)}
    note = narrow_ffns(widths, config.round_to)
    return [note] if note else []


def low_rank_notes(shapes: list[Shape], config: PruningConfig) -> list[str]:
    """Return the note on the weights that corrections of low rank add, if there are any."""
    if config.low_rank is None:
        return []
    ranks = [rank_of(shape, config.low_rank) for shape in shapes]
    more = sum(rank * sum(shape) for rank, shape in zip(ranks, shapes, strict=True))
    return [
        f"low_rank {config.low_rank:g}: corrections of rank {min(ranks)} to {max(ranks)} add "
        f"{more / 1e6:.2f} M weights ({2 * more / 1e6:.1f} MB in half precision)"
    ]


def bits_notes(shapes: list[Shape], config: PruningConfig) -> list[str]:
    """Return the note on the bytes of rounded weights, if there are any, before any removal."""
    if config.bits is None:
        return []
    rounded = [shape for shape in shapes if shape[1] % config.group_size == 0]
    weights = sum(outputs * inputs for outputs, inputs in rounded)
    groups = weights // config.group_size
    after = weights + groups * SCALE_BYTES[config.bits]
    left = len(shapes) - len(rounded)
    others = (
        f"; {left} layers, whose inputs {config.group_size} does not divide, stay as they are"
        if left
        else ""
    )
    if config.round_layers == "all":
        others += "; all other linear layers get the nearest values of 8 bits"
    return [
        f"bits {config.bits}: {len(rounded)} layers of {weights / 1e6:.2f} M weights take "
        f"{after / 1e6:.1f} MB instead of {2 * weights / 1e6:.1f} MB in half precision, before "
        f"anything is removed (a code is a byte, also of 4 bits){others}"
    ]


def modulation_notes(
    cls: str, shapes: Mapping[str, Shape], ranks: Mapping[str, int], config: PruningConfig
) -> list[str]:
    """Return the note on the weights that folded modulation saves, or why nothing is folded.

    Args:
        cls: the name of the denoiser's class.
        shapes: (O, I) of every layer.
        ranks: the largest rank of each modulation layer.
        config: the settings.
    """
    if config.modulation is None:
        return []
    if not ranks:
        return [f"modulation: nothing is folded: {why_none(cls, ranks, config)}"]
    where_large = {"refuse": "refuses where it is large", "keep": "keeps layers where it is large"}
    before = sum(shapes[name][0] * shapes[name][1] for name in ranks)
    after = sum(rank * sum(shapes[name]) for name, rank in ranks.items())
    low, high = min(ranks.values()), max(ranks.values())
    span = f"{low}" if low == high else f"{low} to {high}"
    share = share_of(cls, config)
    return [
        f"modulation {share:g}: {len(ranks)} layers become two of rank {span} at most: "
        f"{before / 1e6:.2f} M weights of modulation -> {after / 1e6:.2f} M; a run measures the "
        f"error on held-out time steps and prompts, and {where_large[config.unfoldable]}"
    ]


def store_notes(shapes: list[Shape], dtype: str | None, config: PruningConfig) -> list[str]:
    """Return the note on the bytes of zeros that are stored as bits, if they are.

    Args:
        shapes: (O, I) of the layers to prune.
        dtype: torch name of the format of the result; None if it is not known.
        config: the settings.
    """
    if config.store == "plain" or dtype not in BITS:
        return []
    share = 1 - config.removed + 1 / BITS[dtype]
    if share >= 1:
        return [f"store bitmask: {config.removed:.0%} zeros in {dtype} would not become smaller"]
    size = sum(rows * columns for rows, columns in shapes) * BITS[dtype] / 8
    return [
        f"store bitmask: pruned layers of {size / 1e6:.1f} MB take {share:.3f} of it on disk; "
        "opened, the model is as large and as fast as before"
    ]
