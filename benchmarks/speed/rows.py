"""The table: measurements, their targets, and the files of the figures.

Each row of benchmarks/results/speed.json: "value" (median of the runs), "target", "plain" (the same
figure for the plain algorithm; null if it was left out) and "runs", one figure a measurement. Rows
that were not measured this time are unchanged. "models" has the whole prunings of other models.
"""

import json
from pathlib import Path
from typing import Any, NamedTuple

RESULTS = Path(__file__).parents[1] / "results"
OF_THE_TABLE = "sd3-8x768"  # the model of "rows" and of the drawn table


class Row(NamedTuple):
    """What a row measures, its target, and whether less is better."""

    what: str
    target: float
    less: bool = False


WHOLE, SOLVE = (
    "whole pruning / plain inference of the calibration prompts",
    "times faster than plain",
)
ROWS = {
    "whole/default": Row(f"{WHOLE}, default calibration", 1.15, less=True),
    "whole/live-4": Row(f"{WHOLE}, live, 4 packages", 4.2, less=True),
    "whole/replay-12": Row(f"{WHOLE}, replay, 12 packages (plain: from its parts)", 3.0, less=True),
    "whole/structured": Row(f"{WHOLE}, structured 25 %", 1.15, less=True),
    "whole/best": Row(f"{WHOLE}, preset best", 1.6, less=True),
    "hessian/1536": Row(f"Hessian update, 2,048 tokens, 1,536 columns, {SOLVE}", 4.5),
    "hessian/6144": Row(f"Hessian update, 2,048 tokens, 6,144 columns, {SOLVE}", 3.0),
    "solve/qkv-1536": Row(f"q, k and v, unstructured, {SOLVE}", 8.0),
    "solve/6144x1536": Row(f"FFN up, unstructured, {SOLVE}", 8.0),
    "solve/1536x6144": Row(f"FFN down, unstructured, {SOLVE}", 2.5),
    "solve24/qkv-1536": Row(f"q, k and v, 2:4, {SOLVE}", 6.0),
    "solve24/6144x1536": Row(f"FFN up, 2:4, {SOLVE}", 6.0),
    "solve24/1536x6144": Row(f"FFN down, 2:4, {SOLVE}", 2.2),
    "structured/heads-24": Row(f"7 of 24 heads of 64, two streams, {SOLVE}", 8.0),
    "structured/neurons-6144": Row(f"1,536 of 6,144 neurons, {SOLVE}", 18.0),
    "memory/solve": Row(
        "peak memory of a solve, its Hessian included / Hessian; "
        "the worse of unstructured and structured",
        2.5,
        less=True,
    ),
}


def met(name: str, value: float) -> bool:
    return value <= ROWS[name].target if ROWS[name].less else value >= ROWS[name].target


def keep_rows(
    new: list[dict[str, Any]], folder: Path, model: str = OF_THE_TABLE
) -> list[dict[str, Any]]:
    """Merge new rows into speed.json by name, in the table's order.

    Args:
        new: the rows.
        folder: of the file.
        model: the one that was pruned; rows without one are the table's.

    Returns:
        All rows of the model.
    """
    file = folder / "speed.json"
    stored = json.loads(file.read_text()) if file.exists() else {"rows": []}
    others = stored.setdefault("models", {})
    kept = stored["rows"] if model == OF_THE_TABLE else others.get(model, [])
    found = {row["name"]: row for row in [*kept, *new]}
    rows = [found[name] | {"target": ROWS[name].target} for name in ROWS if name in found]
    if model == OF_THE_TABLE:
        stored["rows"] = rows
    else:
        others[model] = rows
    write(file, stored)
    return rows


def keep_details(new: dict[str, dict[str, Any]], folder: Path) -> dict[str, dict[str, Any]]:
    """Replace the calls of each model in speed-phases.json; returns all entries.

    They are shown as multiples of the inference beside them, so no calls of an earlier run stay.

    Args:
        new: model -> call -> figures, "inference" among the calls.
        folder: of the file.
    """
    file = folder / "speed-phases.json"
    found = json.loads(file.read_text()) if file.exists() else {}
    found |= new
    if new:
        write(file, found)
    return found


def write(file: Path, what: Any) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(what, indent=1) + "\n")


def table(rows: list[dict[str, Any]]) -> str:
    """The rows as text."""
    lines = [f"{'name':24} {'plain':>7} {'target':>9} {'measured':>9}  (lowest to highest)   what"]
    for row in rows:
        name, runs = row["name"], row["runs"]
        plain = "-" if row["plain"] is None else f"{row['plain']:.2f}"
        sign = "<=" if ROWS[name].less else ">="
        spread = f"({min(runs):.2f} to {max(runs):.2f})"
        verdict = "" if met(name, row["value"]) else "  MISSED"
        lines.append(
            f"{name:24} {plain:>7} {sign:>3} {row['target']:5.2f} {row['value']:9.2f}  "
            f"{spread:20}  {ROWS[name].what}{verdict}"
        )
    return "\n".join(lines)
