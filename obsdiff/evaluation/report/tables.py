"""The page's tables: quality, cost and configuration, one row a run.

A table is {"columns", "rows"}. A cell has its text, and the raw value by which the page sorts.
"""

from collections.abc import Callable
from statistics import median
from typing import Any

from ...pipelines.removed import KINDS, compressed_in_words, in_words
from .configuration import configuration, setting_text
from .merge import EVALUATED, Comparison
from .noise import DENSE_NAME, METRICS, figures_of, measured_metrics
from .values import amount, costs_of, quality_intervals, speed_interval, zero_share

Cell = dict[str, str]
Column = Callable[[dict[str, Any]], Cell]  # a run, or a cost -> its cell
SORTED_AS = {"infinite": "Infinity"}  # text -> number that the page's script can read


def cell(text: str = "", value: Any = "", small: str = "") -> Cell:
    """Return a cell.

    Args:
        text: of the cell.
        value: the number by which the page sorts; "" to sort by the text.
        small: a second line in small type.
    """
    return {"text": text, "value": "" if value == "" else str(value), "small": small}


def quality_table(comparison: Comparison) -> dict[str, Any]:
    """Return the measured metrics of dense and runs, and the columns of PRUNING_COLUMNS.

    The held-out layer error has a column only if a run has it.
    """
    results = comparison.results
    metrics = measured_metrics(results)
    about = {
        title: column
        for title, column in PRUNING_COLUMNS.items()
        if title != HELD_OUT or any(column(run)["text"] for run in results["runs"])
    }
    figures = {metric: quality_cells(results, metric) for metric in metrics}
    rows = [
        [
            cell(DENSE_NAME),
            *(figures[metric][DENSE_NAME] for metric in metrics),
            *(cell() for _ in about),
        ]
    ]
    rows += [
        [
            cell(run["name"]),
            *(figures[metric][run["name"]] for metric in metrics),
            *(column(run) for column in about.values()),
        ]
        for run in results["runs"]
    ]
    return {
        "columns": ["run", *(METRICS[metric].title for metric in metrics), *about],
        "rows": rows,
    }


def quality_cells(results: dict[str, Any], metric: str) -> dict[str, Cell]:
    """Return the cells of a metric by pipeline, marked where inside the noise of the best."""
    of_dense = METRICS[metric].of_dense
    cells = {
        DENSE_NAME: cell(of_dense, SORTED_AS.get(of_dense, of_dense)),
        **{run["name"]: cell() for run in results["runs"]},
    }
    figures = figures_of(results, metric)
    for name, shown in quality_intervals(results, metric).items():
        mark = "~" if shown.near_best else ""
        cells[name] = cell(
            shown.value + mark, figures[name]["value"], f"{shown.low} to {shown.high}"
        )
    return cells


def median_of(key: str) -> Column:
    """Return the column of the layers' median "error" or "held_out_error"."""

    def column(run: dict[str, Any]) -> Cell:
        errors = sorted(row[key] for row in run["layers"] if row.get(key) is not None)
        return cell(f"{median(errors):.4f}", median(errors)) if errors else cell()

    return column


def removed_share_cell(run: dict[str, Any]) -> Cell:
    """Return the share of the pruned layers' weights that was removed, in percent."""
    share = removed_share(run)
    if share is None:
        return cell()
    return cell(f"{100 * share:.2f} % of {len(run['layers'])} layers", share)


def seconds_cell(run: dict[str, Any]) -> Cell:
    """Return the seconds of pruning, all phases."""
    seconds = run["cost"].get("seconds", {})
    return cell(f"{sum(seconds.values()):.0f}", sum(seconds.values())) if seconds else cell()


HELD_OUT = "held-out layer error, median"
PRUNING_COLUMNS: dict[str, Column] = {  # of a run
    "layer error, median": median_of("error"),
    HELD_OUT: median_of("held_out_error"),
    "zeros or removed columns in pruned layers": removed_share_cell,
    "seconds to prune": seconds_cell,
}


def removed_share(run: dict[str, Any]) -> float | None:
    """Return the share of the targeted weights that is zero or removed, 0 to 1.

    None for a run without a record of its layers.
    """
    sizes = [row["shape"][0] * row["shape"][1] for row in run["layers"]]
    if not sum(sizes):
        return None
    removed = (row["sparsity"] * size for row, size in zip(run["layers"], sizes, strict=True))
    return sum(removed) / sum(sizes)


def removed_cell(cost: dict[str, Any]) -> Cell:
    """Return the removed heads, neurons and channels in words, sorted by their mean share."""
    counts = [cost[kind] for kind in KINDS if cost.get(kind, {}).get("total")]
    if not counts:
        return cell()
    return cell(in_words(cost), sum(row["removed"] / row["total"] for row in counts) / len(counts))


def compressed_cell(cost: dict[str, Any]) -> Cell:
    """Return how many layers were rounded or folded, in words."""
    return cell(compressed_in_words(cost))


def amount_cell(path: str, unit: float, decimals: int, word: str) -> Column:
    """Return the column of one number of the cost, in a unit: "memory.peak_bytes" in MiB."""

    def column(cost: dict[str, Any]) -> Cell:
        value = amount(cost, path)
        return cell() if value is None else cell(f"{value / unit:.{decimals}f} {word}", value)

    return column


def zeros_cell(cost: dict[str, Any]) -> Cell:
    """Return the share of zeros in percent of all parameters."""
    share = zero_share(cost)
    return cell() if share is None else cell(f"{100 * share:.1f} %", share)


def speed_cell(timed: str) -> Column:
    """Return the column of measured speeds of a "step" or "picture", as a multiple of dense's."""

    def column(cost: dict[str, Any]) -> Cell:
        shown = speed_interval(cost, timed)
        if shown is None:
            return cell()
        return cell(f"{shown.value}x", cost[timed]["speedup"], f"{shown.low} to {shown.high}")

    return column


COST_COLUMNS: dict[str, Column] = {  # of a cost
    "removed": removed_cell,
    "rounded, folded": compressed_cell,
    "parameters": amount_cell("parameters", 1e6, 2, "M"),
    "zeros of all parameters": zeros_cell,
    "size on disk": amount_cell("bytes_on_disk", 1e6, 1, "MB"),
    "MACs of a step": amount_cell("macs.total", 1e9, 2, "G"),
    "speed of a step": speed_cell("step"),
    "speed of a picture": speed_cell("picture"),
    "peak memory": amount_cell("memory.peak_bytes", 2**20, 0, "MiB"),
}


def cost_table(comparison: Comparison) -> dict[str, Any]:
    """Return the costs of dense and runs, without the columns that are empty for all."""
    costs = costs_of(comparison.results)
    columns = {
        title: [column(cost) for cost in costs.values()] for title, column in COST_COLUMNS.items()
    }
    used = {title: cells for title, cells in columns.items() if any(each["text"] for each in cells)}
    return {
        "columns": ["run", *used],
        "rows": [
            [cell(name), *(cells[i] for cells in used.values())] for i, name in enumerate(costs)
        ],
    }


def config_table(comparison: Comparison) -> dict[str, Any]:
    """Return the table of the settings in which the runs differ, and the others as texts.

    Returns:
        {"columns", "rows", "shared", "evaluated"}; no rows if the runs do not differ.
    """
    differ, settings, shared = configuration(comparison)
    rows = [
        [cell(name), *(setting_cell(row, key) for key in differ)] for name, row in settings.items()
    ]
    return {"columns": ["run", *differ], "rows": rows if differ else [], **shared_texts(shared)}


def shared_texts(shared: dict[str, str]) -> dict[str, list[str]]:
    """Return the settings that all runs share: of the pruning, and of the evaluation."""
    return {
        "shared": [
            f"{key} {value}" for key, value in shared.items() if not key.startswith(EVALUATED)
        ],
        "evaluated": [
            f"{key.removeprefix(EVALUATED)} {value}"
            for key, value in shared.items()
            if key.startswith(EVALUATED)
        ],
    }


def setting_cell(row: dict[str, Any], key: str) -> Cell:
    """Return the cell of a setting; empty for a run that has no such setting."""
    if key not in row:
        return cell()
    number = isinstance(row[key], int | float) and not isinstance(row[key], bool)
    return cell(setting_text(row[key]), row[key] if number else "")
