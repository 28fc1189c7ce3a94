"""The page's tables: quality, cost and configuration, one row a run. A cell has its text, and the raw value that the page sorts by."""

from collections.abc import Callable
from statistics import median
from typing import Any

from ...pipelines.record import KINDS, in_words
from .merge import EVALUATED, Comparison, configuration, shown
from .noise import DENSE_NAME, METRICS, figures_of, measured_metrics, near_best

Cell = dict[str, str]
OF_DENSE = {"infinite": "Infinity"}  # as the page's script reads it


def cell(text: str = "", value: Any = "", small: str = "") -> Cell:
    """What a cell says, the number it is sorted by (its text, where there is none), and what stands below in small."""
    return {"text": text, "value": "" if value == "" else str(value), "small": small}


def quality_table(comparison: Comparison) -> dict[str, Any]:
    """The measured metrics of dense and runs, layer errors (on held-out prompts, too, if a run has them), share of the pruned layers' weights,
    seconds of pruning."""
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
    """Name of a pipeline -> its figure with its interval, marked where it can't be told from the best of its column."""
    figures, about = figures_of(results, metric), METRICS[metric]
    near = near_best(figures, about.higher_is_better)
    cells = {
        DENSE_NAME: cell(about.of_dense, OF_DENSE.get(about.of_dense, about.of_dense)),
        **{run["name"]: cell() for run in results["runs"]},
    }
    for name, figure in figures.items():
        value, low, high = (f"{figure[key]:.{about.decimals}f}" for key in ("value", "low", "high"))
        cells[name] = cell(
            value + ("~" if name in near else ""), figure["value"], f"{low} to {high}"
        )
    return cells


def median_of(key: str) -> Callable[[dict], Cell]:
    """A column of the layers' median error, "error" or "held_out_error"."""

    def column(run: dict[str, Any]) -> Cell:
        errors = sorted(row[key] for row in run["layers"] if row.get(key) is not None)
        return cell(f"{median(errors):.4f}", median(errors)) if errors else cell()

    return column


def share_gone(run: dict[str, Any]) -> Cell:
    share = removed_share(run)
    return (
        cell()
        if share is None
        else cell(f"{100 * share:.2f} % of {len(run['layers'])} layers", share)
    )


def seconds_to_prune(run: dict[str, Any]) -> Cell:
    seconds = run["cost"].get("seconds", {})
    return cell(f"{sum(seconds.values()):.0f}", sum(seconds.values())) if seconds else cell()


HELD_OUT = "held-out layer error, median"
PRUNING_COLUMNS: dict[
    str, Callable[[dict], Cell]
] = {  # what pruning did to the layers, and how long it took
    "layer error, median": median_of("error"),
    HELD_OUT: median_of("held_out_error"),
    "zeros, or columns gone, in pruned layers": share_gone,
    "seconds to prune": seconds_to_prune,
}


def removed_share(run: dict[str, Any]) -> float | None:
    """Share of the targeted weights that is zero or gone; None for a run without a record of its layers."""
    sizes = [row["shape"][0] * row["shape"][1] for row in run["layers"]]
    if not sum(sizes):
        return None
    return sum(
        row["sparsity"] * size for row, size in zip(run["layers"], sizes, strict=True)
    ) / sum(sizes)


def removed_cell(cost: dict[str, Any]) -> Cell:
    counts = [cost[kind] for kind in KINDS if cost.get(kind, {}).get("total")]
    return (
        cell(in_words(cost), sum(row["removed"] / row["total"] for row in counts) / len(counts))
        if counts
        else cell()
    )


def amount_cell(key: str, unit: float, decimals: int, word: str) -> Callable[[dict], Cell]:
    """A column of one figure of the cost, "memory.peak_bytes" in MiB for example."""

    def column(cost: dict[str, Any]) -> Cell:
        value: Any = cost
        for part in key.split("."):
            value = (value or {}).get(part)
        return cell() if value is None else cell(f"{value / unit:.{decimals}f} {word}", value)

    return column


def zeros_cell(cost: dict[str, Any]) -> Cell:
    return (
        cell(
            f"{100 * cost['zeros'] / cost['parameters']:.1f} %", cost["zeros"] / cost["parameters"]
        )
        if cost.get("parameters")
        else cell()
    )


def speed_cell(what: str) -> Callable[[dict], Cell]:
    """A column of measured speeds, as a multiple of the dense pipeline's."""

    def column(cost: dict[str, Any]) -> Cell:
        row = cost.get(what)
        return (
            cell(f"{row['speedup']:.2f}x", row["speedup"], f"{row['low']:.2f} to {row['high']:.2f}")
            if row
            else cell()
        )

    return column


COST_COLUMNS: dict[str, Callable[[dict], Cell]] = {
    "gone from the pruned blocks": removed_cell,
    "parameters": amount_cell("parameters", 1e6, 2, "M"),
    "zeros in all": zeros_cell,
    "size on disk": amount_cell("bytes_on_disk", 1e6, 1, "MB"),
    "MACs of a step": amount_cell("macs.total", 1e9, 2, "G"),
    "speed of a step": speed_cell("step"),
    "speed of a picture": speed_cell("picture"),
    "peak memory": amount_cell("memory.peak_bytes", 2**20, 0, "MiB"),
}


def cost_table(comparison: Comparison) -> dict[str, Any]:
    """What dense and pruned cost; a column that nobody has is left out."""
    results = comparison.results
    costs = {
        DENSE_NAME: results.get("dense_cost", {}),
        **{run["name"]: run["cost"] for run in results["runs"]},
    }
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


def cost_reasons(comparison: Comparison) -> list[str]:
    """Why a cost was not measured, and for which pipelines."""
    results = comparison.results
    found: dict[str, list[str]] = {}
    for name, cost in {
        DENSE_NAME: results.get("dense_cost", {}),
        **{run["name"]: run["cost"] for run in results["runs"]},
    }.items():
        for key, title in (("macs", "MACs"), ("memory", "peak memory")):
            if why := cost.get(key, {}).get("why_not"):
                found.setdefault(f"{title}: not measured: {why}", []).append(name)
    return [f"{line} ({', '.join(names)})" for line, names in found.items()]


def config_table(comparison: Comparison) -> dict[str, Any]:
    """Only the settings in which the runs differ; `shared` and `evaluated` say the others in words."""
    differ, settings, shared = configuration(comparison)
    rows = [
        [cell(name), *(setting_cell(row, key) for key in differ)] for name, row in settings.items()
    ]
    return {"columns": ["run", *differ], "rows": rows if differ else [], **in_two(shared)}


def in_two(shared: dict[str, str]) -> dict[str, list[str]]:
    """What all runs share: how they were pruned, and with what they were evaluated."""
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
    if key not in row:
        return cell()
    number = isinstance(row[key], int | float) and not isinstance(row[key], bool)
    return cell(shown(row[key]), row[key] if number else "")
