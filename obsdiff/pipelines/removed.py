"""Heads, neurons, channels and blocks that were removed: counted, and in words."""

from typing import Any

KINDS = ("heads", "neurons", "channels", "blocks")


def leaving(groups: list[dict[str, Any]]) -> dict[str, dict[str, int]]:
    """Count the removed heads, neurons and channels.

    Args:
        groups: group records as dicts.

    Returns:
        {kind: {"removed", "total"}}, for the kinds that occur.
    """
    found: dict[str, dict[str, int]] = {}
    for group in groups:
        row = found.setdefault(group["kind"], {"removed": 0, "total": 0})
        row["removed"] += group["total"] - group["kept"]
        row["total"] += group["total"]
    return found


def in_words(counts: dict[str, dict[str, int]]) -> str:
    """Return the counts of `leaving` as "8 of 20 heads and 3072 of 10240 neurons"."""
    return " and ".join(
        f"{row['removed']} of {row['total']} {kind}"
        for kind in KINDS
        if (row := counts.get(kind)) and row["total"]
    )
