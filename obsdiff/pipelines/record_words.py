"""The content of a record in a few lines, as text and as HTML for notebooks."""

from collections.abc import Sequence
from html import escape
from statistics import median
from typing import Any

from .removed import compressed, in_words, leaving

LARGEST = 10  # layers whose errors a notebook lists


def lines_of(record: dict[str, Any]) -> list[tuple[str, str]]:
    """Return at most five lines: what was pruned, what is gone, errors, calibration, warnings.

    Args:
        record: the content of obsdiff.json.

    Returns:
        The name and the text of each line.
    """
    config, parameters, warnings = record["config"], record["parameters"], record["warnings"]
    how = [record["component"] or "nothing yet"]
    how += [str(config[key]) for key in ("preset", "method", "pattern") if config.get(key)]
    lines = [("pruned", ", ".join(how))]
    if record.get("depth"):
        lines += [("gone", gone_in_words(record)), ("effect", effect_in_words(record["depth"]))]
    elif record["layers"]:
        lines += [("gone", gone_in_words(record)), ("layer error", errors_in_words(record))]
    elif record.get("modulation"):
        lines.append(("gone", folded_in_words(record["modulation"])))
    steps = record["settings"].get("num_inference_steps")
    lines.append(
        (
            "calibration",
            f"{len(record['prompts'])} prompts{f', {steps} steps' if steps else ''}, "
            f"{sum(record['seconds'].values()):.0f} s in all",
        )
    )
    if "after" in parameters and parameters["after"] != parameters["before"]:
        before, after = parameters["before"], parameters["after"]
        lines[1] = (
            "gone",
            f"{lines[1][1]}; {after / 1e6:.2f} M of {before / 1e6:.2f} M parameters are left",
        )
    if warnings:
        others = f" (and {len(warnings) - 1} more in .warnings)" if len(warnings) > 1 else ""
        lines.append(("warning", warnings[0] + others))
    return lines


def gone_in_words(record: dict[str, Any]) -> str:
    """Return what was removed, or the share of zeros."""
    if record["groups"]:
        found = in_words(leaving(record["groups"]))
    else:
        layers = len(record["layers"])
        found = f"{record['sparsity']:.2%} of the weights of {layers} layers are zero"
    ranks = [layer["rank"] for layer in record["layers"] if layer.get("rank")]
    if ranks:
        found += f"; {len(ranks)} have a correction of rank {min(ranks)} to {max(ranks)}"
    if rounded := compressed(record).get("rounded"):
        found += f"; {rounded['layers']} layers are rounded to {rounded['bits']} bits"
    if record.get("modulation"):
        found += f"; {folded_in_words(record['modulation'])}"
    return found


def folded_in_words(modulation: dict[str, Any]) -> str:
    """Return how many modulation layers were folded, to which ranks, with which error."""
    ranks = [layer["rank"] for layer in modulation["layers"]]
    if not ranks:
        return "no modulation layer is folded"
    worst = max(layer["held_out_error"] for layer in modulation["layers"])
    return (
        f"{len(ranks)} modulation layers are folded to rank {min(ranks)} to {max(ranks)}, largest "
        f"held-out error {worst:.2g}"
    )


def effect_in_words(depth: dict[str, Any]) -> str:
    """Return the measured effect of the blocks that left, and their names."""
    names = ", ".join(row["name"] for row in depth["removed"])
    repair = depth["repair"]
    repaired = f", {repair['error']:.4f} repaired" if repair.get("layers") else ""
    none = "" if repaired else ", nothing repaired"
    return (
        f"relative latent error {depth['together']:.4f} without {names}{repaired}{none}, on "
        "calibration prompts"
    )


def errors_in_words(record: dict[str, Any]) -> str:
    """Return the median and the largest error of the layers."""
    worst = max(record["layers"], key=lambda layer: layer["error"])
    middle = median(layer["error"] for layer in record["layers"])
    return f"median {middle:.4f}, largest {worst['error']:.4f} ({worst['name']})"


def html_of(record: dict[str, Any]) -> str:
    """Return the lines as a table, and the layers with the largest errors in a folded one.

    Args:
        record: the content of obsdiff.json.
    """
    largest = sorted(record["layers"], key=lambda layer: -layer["error"])[:LARGEST]
    layers = [
        (layer["name"], f"{layer['error']:.4f}", f"{layer['sparsity']:.0%}") for layer in largest
    ]
    found = table(lines_of(record))
    if not layers:
        return found
    inner = table([("layer", "error", "gone"), *layers])
    return f"{found}<details><summary>largest layer errors</summary>{inner}</details>"


def table(rows: Sequence[tuple[str, ...]]) -> str:
    """Return rows as an HTML table; all text is escaped."""
    cells = (
        "".join(f'<td style="text-align: left">{escape(text)}</td>' for text in row) for row in rows
    )
    return f"<table>{''.join(f'<tr>{row}</tr>' for row in cells)}</table>"
