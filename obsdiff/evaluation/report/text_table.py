"""results.json as one table for people."""

from typing import Any

from ...pipelines.record import KINDS
from .noise import DENSE_NAME, LEGEND, METRICS, figures_of, measured_metrics, near_best, reasons

Row = list[str]


def results_table(results: dict[str, Any]) -> str:
    """Quality, and below it cost: one line a run, the dense pipeline first; what was not measured is said last."""
    dense = results["dense_cost"]
    costs = {DENSE_NAME: dense, **{run["name"]: run["cost"] for run in results["runs"]}}
    quality = [quality_texts(results, metric) for metric in measured_metrics(results)]
    rows = [["run", *(METRICS[metric].title + " " for metric in measured_metrics(results))]]
    rows += [[name, *(cells[name] for cells in quality)] for name in costs]
    below = [
        ["run", *(title for title, _ in COLUMNS)],
        *([name, *(cell(cost, dense) for _, cell in COLUMNS)] for name, cost in costs.items()),
    ]
    return "\n".join([*aligned(rows), "", *aligned(below), *notes(results, costs)])


def aligned(rows: list[Row]) -> list[str]:
    """Lines of a table; a column that is empty below its title is left out."""
    used = [j for j in range(len(rows[0])) if j == 0 or any(row[j] for row in rows[1:])]
    widths = [max(len(row[j]) for row in rows) for j in used]
    return [
        "  ".join(
            row[j].ljust(w) if j == 0 else row[j].rjust(w)
            for j, w in zip(used, widths, strict=True)
        ).rstrip()
        for row in rows
    ]


def quality_texts(results: dict[str, Any], metric: str) -> dict[str, str]:
    """Name of a pipeline -> value, interval, and a mark where it can't be told from the best."""
    figures, d = figures_of(results, metric), METRICS[metric].decimals
    near = near_best(figures, METRICS[metric].higher_is_better)
    cells = {
        DENSE_NAME: METRICS[metric].of_dense + " ",
        **{run["name"]: "" for run in results["runs"]},
    }
    return cells | {
        name: f"{m['value']:.{d}f} ({m['low']:.{d}f} to {m['high']:.{d}f}){'~' if name in near else ' '}"
        for name, m in figures.items()
    }


def removed_text(kind: str) -> Any:
    """How many heads, neurons or channels are gone, where some are."""

    def cell(cost: dict, dense: dict) -> str:
        row = cost.get(kind)
        return f"{row['removed']} of {row['total']}" if row else ""

    return cell


def parameters_text(cost: dict, dense: dict) -> str:
    return f"{cost['parameters'] / 1e6:.2f} M" + (
        f" ({cost['parameters'] / dense['parameters']:.1%})" if cost is not dense else ""
    )


def zeros_text(cost: dict, dense: dict) -> str:
    return f"{cost['zeros'] / cost['parameters']:.1%}"


def size_text(cost: dict, dense: dict) -> str:
    return f"{cost['bytes_on_disk'] / 1e6:.1f} MB"


def macs_text(cost: dict, dense: dict) -> str:
    own, whole = (c.get("macs", {}).get("total") for c in (cost, dense))
    return (
        f"{own / 1e9:.2f} G" + (f" ({own / whole:.1%})" if whole and cost is not dense else "")
        if own
        else ""
    )


def speed_text(what: str) -> Any:
    """How many times faster than the dense pipeline, measured."""

    def cell(cost: dict, dense: dict) -> str:
        row = cost.get(what)
        return f"{row['speedup']:.2f}x ({row['low']:.2f} to {row['high']:.2f})" if row else ""

    return cell


def memory_text(cost: dict, dense: dict) -> str:
    peak = cost.get("memory", {}).get("peak_bytes")
    return f"{peak / 2**20:.0f} MiB" if peak else ""


COLUMNS = [
    *((f"{kind} gone", removed_text(kind)) for kind in KINDS),
    ("parameters", parameters_text),
    ("zeros", zeros_text),
    ("on disk", size_text),
    ("MACs of a step", macs_text),
    ("speed of a step", speed_text("step")),
    ("of a picture", speed_text("picture")),
    ("peak memory", memory_text),
]


def notes(results: dict[str, Any], costs: dict[str, dict]) -> list[str]:
    """What the figures are, and what was not measured, and why."""
    timed = (
        ", and the quartiles of the speed over rounds"
        if any("step" in run["cost"] for run in results["runs"])
        else ""
    )
    lines = [
        "",
        f"{len(results['prompts'])} prompts; in brackets the 95 % interval over prompts{timed}",
    ]
    if len(results["prompts"]) == 1:
        lines.append(
            "one prompt has no spread: its intervals have no width, and say nothing of other prompts"
        )
    lines += [LEGEND, *reasons(results)]
    for name, cost in costs.items():
        for what in ("macs", "memory"):
            why = cost.get(what, {}).get("why_not")
            lines += [f"{name}: {what} not measured: {why}"] if why else []
    return lines
