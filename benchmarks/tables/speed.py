"""What a pruning costs (docs/measurements.md): whole prunings of all models, and their parts."""

from pathlib import Path
from typing import Any

from benchmarks.speed.models import MODELS
from benchmarks.speed.rows import OF_THE_TABLE, ROWS

from .markdown import grid
from .stored import NotMeasured, read

COMMAND = "python -m benchmarks.speed"
WHOLE = "whole/"
Rows = dict[str, dict[str, Any]]  # name -> row


def pruning_cost(folder: Path) -> str:
    """The block pruning-cost; `folder`: benchmarks/results.

    Raises:
        NotMeasured: no whole pruning was measured.
    """
    kept = read(folder / "speed.json", COMMAND)
    by_model = {OF_THE_TABLE: named(kept["rows"])}
    by_model |= {model: named(rows) for model, rows in kept.get("models", {}).items()}
    models = [model for model in MODELS if model in by_model]
    whole = [name for name in ROWS if name.startswith(WHOLE)]
    if not any(name in rows for rows in by_model.values() for name in whole):
        raise NotMeasured(COMMAND, "no whole pruning")
    lines = [
        [what(name), aim(name), *(cell(by_model[model].get(name)) for model in models)]
        for name in whole
    ]
    parts = [
        [what(name), *factors(row)]
        for name, row in by_model[OF_THE_TABLE].items()
        if not name.startswith(WHOLE)
    ]
    first = grid(["over plain inference of the prompts", "aim", *(f"`{m}`" for m in models)], lines)
    second = grid(["part", "aim", "plain algorithm", "measured"], parts)
    return f"{first}\n\n{second}"


def named(rows: list[dict[str, Any]]) -> Rows:
    """Rows by their names."""
    return {row["name"]: row for row in rows}


def what(name: str) -> str:
    """A row's name, and what it measures."""
    text = ROWS[name].what.rpartition(" prompts, ")[2].partition(" (plain")[0]
    return f"`{name}`: {text}"


def aim(name: str) -> str:
    """The target of a row."""
    return f"at {'most' if ROWS[name].less else 'least'} {ROWS[name].target:g}"


def cell(row: dict[str, Any] | None) -> str:
    """The measured ratio with the lowest and the highest round."""
    if row is None:
        return ""
    runs = row["runs"]
    spread = f" ({min(runs):.2f} to {max(runs):.2f})" if len(runs) > 1 else " (one round)"
    return f"{row['value']:.2f}{spread}"


def factors(row: dict[str, Any]) -> list[str]:
    """The aim, the plain algorithm's figure and the measured one."""
    plain = "" if row["plain"] is None else f"{row['plain']:.2f}"
    return [aim(row["name"]), plain, cell(row)]
