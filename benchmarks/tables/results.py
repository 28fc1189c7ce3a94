"""README, results: the relative latent error of baselines and presets on both built-in models."""

import statistics
from collections.abc import Iterator
from pathlib import Path

from obsdiff.pipelines.builtin import BUILTINS

from .markdown import caption, grid
from .stored import Kept, NotMeasured, agreed, prompts_of, read, row_of, version_of

TABLES = ("unstructured", "semistructured", "structured")
PRESETS = "presets"  # shown once it has all rows
COMMAND = f"python -m benchmarks.paper {' '.join(TABLES)}"
SETS_OF = {"paper": (0,), "best": (0, 1, 2)}  # seeds of the calibration sets of the presets
COLUMNS = {  # of TARGETS in benchmarks/paper/tables.py -> table and label of one method alone
    "2:4": ("semistructured", "2:4"),
    "50%": ("unstructured", "50%"),
    "60%": ("unstructured", "60%"),
    "structured 20%": ("structured", "20%"),
    "structured 30%": ("structured", "30%"),
}
SINGLE = ("magnitude", "wanda")  # methods of the columns of single weights and N:M
GROUPS = ("l1", "random")  # methods of the structured columns
OURS = "obs"  # in every column, with equal shares
Errors = dict[str, float]  # by column


def results(folder: Path) -> str:
    """The block of the README; `folder`: benchmarks/results."""
    paper = newest(folder / "paper")
    stored = {model: tables_of(paper, model) for model in BUILTINS}
    files = [kept for tables in stored.values() for kept in tables.values()]
    version = agreed(map(version_of, files), "model_version", COMMAND)
    prompts = agreed(map(prompts_of, files), "prompts", COMMAND)
    lines = [line for model, tables in stored.items() for line in lines_of(model, tables)]
    with_presets = [f"`{model}`" for model, tables in stored.items() if PRESETS in tables]
    command = f"{COMMAND} {PRESETS}" if with_presets else COMMAND
    text = (
        "Relative latent error against the dense pipeline (0 is the same picture, about 2 an "
        f"unrelated one), {prompts}, version {version} of the models (`{command}`). `off` switches "
        "whole attentions and FFNs of that size off, without calibration. `obs` is the default, "
        "the same share in every layer"
    )
    if with_presets:
        only = "" if len(with_presets) == len(stored) else f"; presets: {with_presets[0]} alone"
        text += f"{only}; `best` is the mean over three calibration sets, `paper` of one of them"
        text += "; 100 calibration prompts, for the presets of `emoji-sd3` 32"
    return caption(text + ".") + "\n\n" + grid(["", *(spaced(name) for name in COLUMNS)], lines)


def newest(folder: Path) -> Path:
    """The folder of the newest version of the models whose tables here have all their rows.

    Raises:
        NotMeasured: no version has them.
    """
    found = sorted(folder.glob("version-*"), key=lambda f: int(f.name.removeprefix("version-")))
    for version in reversed(found):
        files = [version / f"{model}-{table}.json" for model in BUILTINS for table in TABLES]
        if all(map(finished, files)):
            return version
    raise NotMeasured(COMMAND)


def finished(file: Path) -> bool:
    """Whether a stored table has all its rows."""
    return file.exists() and bool(read(file, COMMAND).get("finished"))


def tables_of(folder: Path, model: str) -> dict[str, Kept]:
    """The stored tables of a model that the block shows."""
    names = [*TABLES, *([PRESETS] if finished(folder / f"{model}-{PRESETS}.json") else [])]
    return {
        name: read(
            folder / f"{model}-{name}.json", f"python -m benchmarks.paper {name} --model {model}"
        )
        for name in names
    }


def lines_of(model: str, tables: dict[str, Kept]) -> Iterator[list[str]]:
    """The lines of a model: a name and the errors, the best of a column in bold."""
    rows = {label: found for label, found in rows_of(model, tables).items() if found}
    best = {
        column: min(found[column] for found in rows.values() if column in found)
        for column in COLUMNS
    }
    for i, (label, found) in enumerate(rows.items()):
        cells = [shown(found, column, best[column]) for column in COLUMNS]
        yield [label if i else f"`{model}`, {label}", *cells]


def rows_of(model: str, tables: dict[str, Kept]) -> dict[str, Errors]:
    """The errors of each line."""
    single = {column for column, (table, _) in COLUMNS.items() if table != "structured"}
    columns = dict.fromkeys(SINGLE, single) | dict.fromkeys(GROUPS, set(COLUMNS) - single)
    found = {"`off`": off(tables)}
    for name, some in (columns | {OURS: set(COLUMNS)}).items():
        found[f"`{name}`"] = one_method(model, tables, name, some)
    if PRESETS in tables:
        for name in ("paper", "best"):
            found[f"`--preset {name}`"] = preset(model, tables[PRESETS], name)
    return found


def off(tables: dict[str, Kept]) -> Errors:
    """The errors after whole attentions and FFNs are switched off, where such a row is stored."""
    return {
        column: error_of(tables[table]["rows"][f"off {label}"])
        for column, (table, label) in COLUMNS.items()
        if f"off {label}" in tables[table]["rows"]
    }


def one_method(model: str, tables: dict[str, Kept], method: str, columns: set[str]) -> Errors:
    """The errors of a method in some columns, with one calibration set."""
    return {
        column: error_of(
            row_of(
                tables[table],
                f"{method} {label}",
                f"python -m benchmarks.paper {table} --model {model}",
            )
        )
        for column, (table, label) in COLUMNS.items()
        if column in columns
    }


def preset(model: str, kept: Kept, name: str) -> Errors:
    """The mean errors of a preset over the calibration sets."""
    command = f"python -m benchmarks.paper {PRESETS} --model {model}"
    return {
        column: statistics.fmean(
            error_of(row_of(kept, f"{name}: {column}, seed {seed}", command))
            for seed in SETS_OF[name]
        )
        for column in COLUMNS
    }


def error_of(row: Kept) -> float:
    return row["metrics"]["relative_latent_error"]["value"]


def shown(found: Errors, column: str, best: float) -> str:
    """A cell; empty if nothing was measured."""
    if column not in found:
        return ""
    text = f"{found[column]:.4f}"
    return f"**{text}**" if found[column] == best else text


def spaced(name: str) -> str:
    """The head of a column: "50 %" of "50%"."""
    return name.replace("%", " %")
