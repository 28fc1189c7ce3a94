"""Names of what obsdiff adds to a model: in its config.json, and in its weight files. No torch."""

from collections.abc import Mapping
from typing import Any

CLASS_PREFIX = "Pruned"
LAYOUT_KEY, HEAD_MARKER_KEY = "pruned_layout", "head_marker"
LOW_RANK_KEY, FOLDED_KEY, BITMASK_KEY = "low_rank", "folded_modulation", "bitmask"
# in the config, beside those of the dense class
OWN_SETTINGS = (LAYOUT_KEY, HEAD_MARKER_KEY, LOW_RANK_KEY, BITMASK_KEY, FOLDED_KEY)

MODULE = "model"  # of the marker for other programs
HEADS = "heads_removed_open_with_obsdiff"  # the tensor's name for removed heads
LOW_RANK = "low_rank_beside_open_with_obsdiff"  # for corrections of low rank
BITMASK = "bitmask_open_with_obsdiff"  # for weights stored as values and bits
FOLDED = "modulation_folded_open_with_obsdiff"  # for folded modulation layers


def unpacked_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the config that a model with zeros as bitmasks has once its weights are dense.

    Args:
        config: the content of a config.json; one without bitmasks is returned as it is.
    """
    plain = {key: value for key, value in config.items() if key != BITMASK_KEY}
    if BITMASK_KEY in config and not any(plain.get(key) for key in OWN_SETTINGS):
        plain["_class_name"] = str(config.get("_class_name")).removeprefix(CLASS_PREFIX)
    return plain
