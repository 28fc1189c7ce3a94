"""Heads, neurons, channels and blocks that were removed, layers that were rounded or folded."""

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


def compressed(record: dict[str, Any]) -> dict[str, dict[str, int]]:
    """Count the layers that were rounded to few bits, and the modulation layers that were folded.

    Args:
        record: the content of obsdiff.json; {} for a folder without one.

    Returns:
        {"rounded": {"layers", "bits"}, "folded": {"layers", "total"}}, those that occur.
    """
    rows = [*record.get("layers", []), *record.get("rounded_too", [])]
    bits = [row["bits"] for row in rows if row.get("bits")]
    modulation = record.get("modulation") or {}
    folded, kept = modulation.get("layers", []), modulation.get("kept", [])
    return ({"rounded": {"layers": len(bits), "bits": bits[0]}} if bits else {}) | (
        {"folded": {"layers": len(folded), "total": len(folded) + len(kept)}} if folded else {}
    )


def compressed_in_words(cost: dict[str, Any]) -> str:
    """Return the counts of `compressed` as "45 layers in 8 bits, 12 modulation layers folded"."""
    rounded, folded = cost.get("rounded"), cost.get("folded")
    words = [f"{rounded['layers']} layers in {rounded['bits']} bits"] if rounded else []
    if folded:
        some = "" if folded["layers"] == folded["total"] else f" of {folded['total']}"
        words.append(f"{folded['layers']}{some} modulation layers folded")
    return ", ".join(words)
