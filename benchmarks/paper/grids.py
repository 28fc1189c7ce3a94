"""Grids of docs/results.md: cells with intervals, comparisons within a line or a column."""

from collections.abc import Callable
from typing import Any

from obsdiff.evaluation.report.noise import METRICS, near_best
from obsdiff.pipelines.removed import in_words

from ..tables.markdown import grid
from .prompt_errors import WORST, Kept, worst_and_worse, worst_prompt

SHOWN = ("relative_latent_error", "clip_score", "fid")
PLACES = {"metrics": "", "held_out": ", held-out names"}
BASELINE = "obs"  # the paper's method, with which the small tables compare the others


def cell(figure: Kept, metric: str, mark: str = "", bold: bool = False) -> str:
    d = METRICS[metric].decimals
    value = f"{figure['value']:.{d}f}"
    interval = f"<sub>{figure['low']:.{d}f} to {figure['high']:.{d}f}</sub>"
    return f"{f'**{value}**' if bold else value}{mark} {interval}"


def compared(
    rows: dict[str, Kept], names: list[str], metric: str, where: str = "metrics"
) -> list[str]:
    """Cells of one line: the best in bold, ~ where the difference to it is inside the noise.
    where: "metrics", of the evaluation prompts, or "held_out"."""
    figures = {name: rows[name][where][metric] for name in names if name in rows}
    if not figures:
        return [""] * len(names)
    near = near_best(figures, METRICS[metric].higher_is_better)
    best = (max if METRICS[metric].higher_is_better else min)(
        figures, key=lambda name: figures[name]["value"]
    )
    return [
        cell(figures[name], metric, "~" if name in near else "", name == best)
        if name in figures
        else ""
        for name in names
    ]


def by_share(
    rows: dict[str, Kept],
    shares: tuple[Any, ...],
    methods: tuple[str, ...],
    label: Callable[[Any], str],
    more: Callable | None = None,
) -> str:
    """One grid a metric: a line a sparsity or pattern, a column a method; the error also on
    held-out names. Under each grid of errors a small one of single prompts."""
    grids = []
    every = {label(share): [f"{method} {label(share)}" for method in methods] for share in shares}
    names_of = {first: names for first, names in every.items() if not rows.keys().isdisjoint(names)}
    for where, metric in (*(("metrics", metric) for metric in SHOWN), ("held_out", SHOWN[0])):
        lines = [
            [
                first,
                *(more(rows, names) if more else []),
                *compared(rows, names, metric, where),
            ]
            for first, names in names_of.items()
        ]
        dense = (
            ""
            if metric not in rows.get("dense", {}).get(where, {})
            else f"; dense {cell(rows['dense'][where][metric], metric)}"
        )
        head = [
            f"{METRICS[metric].title}{PLACES[where]}{dense}",
            *(["gone", "parameters", "MACs"] if more else []),
            *methods,
        ]
        grids.append(grid(head, lines))
        if metric == SHOWN[0]:
            grids.append(prompts_grid(rows, names_of, methods, BASELINE, where))
    return "\n\n".join(grids)


def prompts_grid(
    rows: dict[str, Kept],
    lines: dict[str, list[str]],
    columns: tuple[str, ...],
    base: str,
    where: str = "metrics",
) -> str:
    """A small grid of single prompts: the worst, and the share drawn worse than by a base line.
    lines: names of the rows of a line, one a column; base: the column to compare with."""
    at = columns.index(base)
    return grid(
        [f"{WORST}, share drawn worse than by {base}{PLACES[where]}", *columns],
        [
            [first, *(worst_and_worse(rows, name, names[at], where) for name in names)]
            for first, names in lines.items()
        ],
    )


def gone(rows: dict[str, Kept], names: list[str]) -> list[str]:
    """Removed heads and neurons, parameters and MACs; the same for all methods of a line, but for
    `off` and those of EcoDiff, which remove no fewer parameters."""
    row = next(rows[name] for name in names if "gone" in rows.get(name, {}))
    dense = rows["dense"]["cost"]
    return [
        in_words(row["gone"]),
        *(f"-{1 - row['cost'][key] / dense[key]:.1%}" for key in ("parameters", "macs")),
    ]


def lines_of(
    rows: dict[str, Kept],
    first: str,
    metrics: tuple[str, ...] = SHOWN,
    more: dict[str, Callable[[Kept], str]] | None = None,
) -> str:
    """A line a row, a column a metric, the worst prompt after the error; marks compare within a
    column."""
    names = [name for name in rows if name != "dense"]
    columns: dict[str, list[str]] = {}
    for metric in metrics:
        columns[METRICS[metric].title] = compared(rows, names, metric)
        if metric == SHOWN[0]:
            columns[WORST] = [worst_prompt([rows[name]]) for name in names]
    for title, show in (more or {}).items():
        columns[title] = [show(rows[name]) for name in names]
    lines = [[name, *(column[i] for column in columns.values())] for i, name in enumerate(names)]
    return grid([first, *columns], lines)
