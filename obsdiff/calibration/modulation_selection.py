"""Which layers of a model make its modulation, and the largest rank to which each is folded."""

from collections.abc import Mapping
from fnmatch import fnmatchcase

from ..config import PruningConfig
from ..config.choices import AUTO_SHARE
from ..errors import UserError
from ..models.modulation_table import MODULATION, modulation_layers, modulation_share
from ..models.structure import Shape
from .selection import named_by


def select_modulation(
    cls: str, shapes: Mapping[str, Shape], config: PruningConfig
) -> dict[str, int]:
    """Return the largest rank of each modulation layer; nothing without the setting.

    Args:
        cls: the name of the denoiser's class.
        shapes: (O, I) of its layers.
        config: the settings.

    Raises:
        UserError: the table has no entry for the class, or the model has no such layer, or include
            and exclude leave none, and the config says that such a model is refused; or a wildcard
            matches no layer that the config could change.
    """
    if config.modulation is None:
        return {}
    if cls.removeprefix("Pruned") not in MODULATION and config.unfoldable == "refuse":
        raise UserError(
            f"modulation: expected one of {', '.join(MODULATION)}, found {cls}: its blocks have no "
            "modulation layers of their own, or none that are known here; leave modulation out"
        )
    found = modulation_layers(cls, shapes)
    if not found and config.unfoldable == "refuse":
        raise UserError(
            f"modulation: {cls} has no plain modulation layer left, as after an earlier run with "
            "it; fold the dense model"
        )
    check_names(found, config)
    found = [name for name in found if named_by(name, config)]
    share = share_of(cls, config)
    return {name: largest_rank(shapes[name], share, config) for name in found}


def largest_rank(shape: Shape, share: float, config: PruningConfig) -> int:
    """Return the largest rank of a layer; where factors are rounded, a multiple of the group size.

    Args:
        shape: (O, I).
        share: of its weights, at most; with auto the nearest multiple may have a few more, but
            never more than the layer.
        config: the settings.
    """
    from ..solvers.low_rank import rank_of  # loads torch, which other settings need not

    unit = factor_unit(config)
    rank, whole = rank_of(shape, share), rank_of(shape, 1.0)
    nearest = rank + unit // 2 if config.modulation == AUTO_SHARE else rank
    return min(nearest, whole) // unit * unit or rank


def share_of(cls: str, config: PruningConfig) -> float:
    """Return the largest share of its weights that a folded layer of a class keeps.

    Args:
        cls: the name of the denoiser's class.
        config: the settings, with modulation.
    """
    if isinstance(config.modulation, int | float):
        return float(config.modulation)
    return modulation_share(cls)


def factor_unit(config: PruningConfig) -> int:
    """Return of what the ranks should be multiples: the group size where factors are rounded."""
    return config.group_size if config.rounds_factors else 1


def check_names(found: list[str], config: PruningConfig) -> None:
    """Check include and exclude against the modulation layers of a model.

    Args:
        found: the names of these layers.
        config: the settings.

    Raises:
        UserError: nothing else is pruned and a wildcard matches none of them, or none is left.
    """
    if not found:
        return
    wilds = () if config.layerwise else config.include + config.exclude
    wrong = [wild for wild in wilds if not any(fnmatchcase(name, wild) for name in found)]
    if wrong:
        raise UserError(
            f"include/exclude: no modulation layer matches {wrong[0]!r}; names look like {found[0]}"
        )
    if config.unfoldable == "refuse" and not any(named_by(name, config) for name in found):
        raise UserError(
            f"modulation: include {list(config.include)} and exclude {list(config.exclude)} leave "
            f"none of {len(found)} layers; name some, such as {found[0]}, or leave modulation out"
        )


def why_none(cls: str, found: Mapping[str, int], config: PruningConfig) -> str:
    """Return why no modulation layer of a model is folded although the config asks; else "".

    Args:
        cls: the name of the denoiser's class.
        found: what `select_modulation` found.
        config: the settings.
    """
    if config.modulation is None or found:
        return ""
    if cls.removeprefix("Pruned") not in MODULATION:
        return f"{cls} has no modulation layers in its blocks, or none that are known here"
    if config.include or config.exclude:
        return "include and exclude leave no modulation layer"
    return f"{cls} has no plain modulation layer left, as after an earlier run with it"
