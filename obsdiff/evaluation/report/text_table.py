"""results.json as two aligned tables in the terminal: quality and cost, one line a pipeline."""

from collections.abc import Callable
from typing import Any

from ...pipelines.removed import KINDS, compressed_in_words
from ...runtime.console import shown
from .noise import DENSE_NAME, LEGEND, METRICS, figures_of, measured_metrics, reasons
from .values import (
    Interval,
    amount,
    costs_of,
    drawing_notes,
    part_lines,
    quality_intervals,
    speed_interval,
    unmeasured_costs,
    zero_share,
)

ERROR_METRIC = "relative_latent_error"
LONGEST_PROMPT = 70  # characters shown
Row = list[str]
Cost = dict[str, Any]
CostText = Callable[[Cost, Cost], str]  # a cost, the dense pipeline's cost -> the text of the cell


def results_table(results: dict[str, Any]) -> str:
    """Return the tables of quality and cost, the dense pipeline first, with notes below.

    Args:
        results: the content of a results.json.
    """
    costs, metrics = costs_of(results), measured_metrics(results)
    quality = [quality_texts(results, metric) for metric in metrics]
    above = [
        ["run", *(METRICS[metric].title + " " for metric in metrics)],
        *([name, *(cells[name] for cells in quality)] for name in costs),
    ]
    dense = costs[DENSE_NAME]
    below = [
        ["run", *(title for title, _ in COLUMNS)],
        *([name, *(text(cost, dense) for _, text in COLUMNS)] for name, cost in costs.items()),
    ]
    worst = worst_prompts(results)
    lines = [*aligned(above), *worst, "", *aligned(below), "", *notes(results)]
    return "\n".join(map(shown, lines))


def aligned(rows: list[Row]) -> list[str]:
    """Return the lines of a table, without the columns that are empty below their title."""
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
    """Return value and interval of a metric by pipeline, marked where near the best."""
    texts = {
        DENSE_NAME: METRICS[metric].of_dense + " ",
        **{run["name"]: "" for run in results["runs"]},
    }
    for name, interval in quality_intervals(results, metric).items():
        texts[name] = interval_text(interval) + ("~" if interval.near_best else " ")
    return texts


def interval_text(interval: Interval, unit: str = "") -> str:
    """Return "value (low to high)"."""
    return f"{interval.value}{unit} ({interval.low} to {interval.high})"


def worst_prompts(results: dict[str, Any]) -> list[str]:
    """Return a line for each pruned pipeline: its largest relative latent error, and the prompt."""
    lines = []
    for name, figure in figures_of(results, ERROR_METRIC).items():
        errors = figure.get("per_prompt") or []
        if name != DENSE_NAME and len(errors) == len(results["prompts"]):
            at = max(range(len(errors)), key=errors.__getitem__)
            prompt = " ".join(results["prompts"][at].split())
            short = prompt if len(prompt) <= LONGEST_PROMPT else prompt[:LONGEST_PROMPT] + "..."
            decimals = METRICS[ERROR_METRIC].decimals
            lines.append(f"worst prompt of {name}: {errors[at]:.{decimals}f}, {short}")
    return lines


def removed_text(kind: str) -> CostText:
    """Return the column of the removed heads, neurons or channels."""

    def text(cost: Cost, dense: Cost) -> str:
        row = cost.get(kind)
        return f"{row['removed']} of {row['total']}" if row else ""

    return text


def parameters_text(cost: Cost, dense: Cost) -> str:
    """Return the parameters in millions, and in percent of dense."""
    share = f" ({cost['parameters'] / dense['parameters']:.1%})" if cost is not dense else ""
    return f"{cost['parameters'] / 1e6:.2f} M" + share


def zeros_text(cost: Cost, dense: Cost) -> str:
    """Return the share of zeros in percent of all parameters."""
    share = zero_share(cost)
    return "" if share is None else f"{share:.1%}"


def size_text(cost: Cost, dense: Cost) -> str:
    """Return the size on disk in MB."""
    return f"{cost['bytes_on_disk'] / 1e6:.1f} MB"


def macs_text(cost: Cost, dense: Cost) -> str:
    """Return the MACs of a step in billions, and in percent of dense."""
    own, whole = amount(cost, "macs.total"), amount(dense, "macs.total")
    if not own:
        return ""
    return f"{own / 1e9:.2f} G" + (f" ({own / whole:.1%})" if whole and cost is not dense else "")


def speed_text(timed: str) -> CostText:
    """Return the column of measured speeds of a "step" or "picture", as a multiple of dense's."""

    def text(cost: Cost, dense: Cost) -> str:
        interval = speed_interval(cost, timed)
        return interval_text(interval, "x") if interval else ""

    return text


def memory_text(cost: Cost, dense: Cost) -> str:
    """Return the peak memory in MiB."""
    peak = amount(cost, "memory.peak_bytes")
    return f"{peak / 2**20:.0f} MiB" if peak else ""


COLUMNS: list[tuple[str, CostText]] = [
    *((f"{kind} removed", removed_text(kind)) for kind in KINDS),
    ("rounded, folded", lambda cost, dense: compressed_in_words(cost)),
    ("parameters", parameters_text),
    ("zeros", zeros_text),
    ("on disk", size_text),
    ("MACs of a step", macs_text),
    ("speed of a step", speed_text("step")),
    ("of a picture", speed_text("picture")),
    ("peak memory", memory_text),
]


def notes(results: dict[str, Any]) -> list[str]:
    """Return the lines below the tables: intervals, marks, and what was not measured and why."""
    prompts = len(results["prompts"])
    timed = any("step" in run["cost"] for run in results["runs"])
    quartiles = ", and the quartiles of the speed over rounds" if timed else ""
    lines = [f"{prompts} prompts; in brackets the 95 % interval over prompts{quartiles}"]
    if prompts == 1:
        lines.append(
            "one prompt has no spread: its intervals have no width, and do not cover other prompts"
        )
    lines += [LEGEND, *drawing_notes(results)]
    return [*lines, *part_lines(results), *reasons(results), *unmeasured_costs(results)]
