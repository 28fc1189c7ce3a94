"""Grids of docs/results.md: cells with intervals, comparisons within a line or a column."""

from collections.abc import Callable
from typing import Any

from obsdiff.evaluation.report.noise import METRICS, near_best
from obsdiff.pipelines.removed import in_words

from ..tables.markdown import grid

SHOWN = ("relative_latent_error", "clip_score", "fid")
PLACES = {"metrics": "", "held_out": ", held-out names"}
Kept = dict[str, Any]  # one row, or one table of one model, as stored


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
    held-out names."""
    grids = []
    for where, metric in (*(("metrics", metric) for metric in SHOWN), ("held_out", SHOWN[0])):
        lines = []
        for share in shares:
            names = [f"{method} {label(share)}" for method in methods]
            if any(name in rows for name in names):
                lines.append(
                    [
                        label(share),
                        *(more(rows, names) if more else []),
                        *compared(rows, names, metric, where),
                    ]
                )
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
    return "\n\n".join(grids)


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
    """A line a row, a column a metric; marks compare within a column."""
    names = [name for name in rows if name != "dense"]
    columns = [compared(rows, names, metric) for metric in metrics]
    extra = more or {}
    lines = [
        [name, *(column[i] for column in columns), *(show(rows[name]) for show in extra.values())]
        for i, name in enumerate(names)
    ]
    return grid([first, *(METRICS[metric].title for metric in metrics), *extra], lines)
