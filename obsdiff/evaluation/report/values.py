"""Values of results.json that the page's tables and the text table both show."""

from collections import Counter
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from .noise import DENSE_NAME, METRICS, figures_of, near_best

COST_TITLES = {"macs": "MACs", "memory": "peak memory"}  # costs that may not be measured


@dataclass(frozen=True)
class Interval:
    """A value with its interval, as texts."""

    value: str
    low: str
    high: str
    near_best: bool = False  # inside the noise of the best one of its column


def costs_of(results: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the cost of each pipeline by name, the dense one first."""
    runs = {run["name"]: run["cost"] for run in results["runs"]}
    return {DENSE_NAME: results.get("dense_cost", {}), **runs}


def quality_intervals(results: dict[str, Any], metric: str) -> dict[str, Interval]:
    """Return the measured values of a metric by pipeline, with the mark of those near the best."""
    figures, about = figures_of(results, metric), METRICS[metric]
    near = near_best(figures, about.higher_is_better)
    return {
        name: interval_of(figure, "value", about.decimals, name in near)
        for name, figure in figures.items()
    }


def interval_of(row: dict[str, Any], key: str, decimals: int, near: bool = False) -> Interval:
    """Return the value at `key` with the interval from "low" to "high", rounded."""
    value, low, high = (f"{row[name]:.{decimals}f}" for name in (key, "low", "high"))
    return Interval(value, low, high, near)


def speed_interval(cost: dict[str, Any], timed: str) -> Interval | None:
    """Return the speed-up over dense of a "step" or "picture"; None if it was not timed."""
    return interval_of(cost[timed], "speedup", 2) if cost.get(timed) else None


def zero_share(cost: dict[str, Any]) -> float | None:
    """Return zeros over parameters, 0 to 1; None for a cost without parameters."""
    return cost["zeros"] / cost["parameters"] if cost.get("parameters") else None


def amount(cost: dict[str, Any], path: str) -> Any:
    """Return the number at a path such as "memory.peak_bytes"; None if there is none."""
    value: Any = cost
    for key in path.split("."):
        value = (value or {}).get(key)
    return value


def without_text(names: list[str]) -> str:
    """Return what the pictures were drawn without, in words."""
    return f"drawn and measured without {', '.join(names)}"


def drawing_notes(results: dict[str, Any]) -> list[str]:
    """Return the lines about pictures that are not as a user of the pipeline would get them.

    What was left out of the calls, and for each pipeline how many of its pictures are flawed.
    """
    lines = [without_text(results["without"])] if results.get("without") else []
    flawed = {
        DENSE_NAME: results.get("dense_flawed", []),
        **{run["name"]: run.get("flawed", []) for run in results["runs"]},
    }
    for name, pictures in flawed.items():
        counts = Counter(picture["why"] for picture in pictures)
        lines += [
            f"{name}: {count} of {len(results['prompts'])} pictures {why}; they are crossed out"
            for why, count in counts.items()
        ]
    return lines


def part_lines(results: dict[str, Any]) -> list[str]:
    """Return one line for each pipeline and figure that is made of parts: each part's value."""
    lines = []
    for metric, about in METRICS.items():
        for name, figure in figures_of(results, metric).items():
            if parts := figure.get("parts"):
                words = ", ".join(
                    f"{part.replace('_', ' ')} {each['value']:.{about.decimals}f} ({each['count']})"
                    for part, each in parts.items()
                )
                mean = fmean(each["value"] for each in parts.values())
                end = f"; {about.mean_of_parts} {mean:.{about.decimals}f}"
                lines.append(f"{about.title} of {name}: {words}{end * bool(about.mean_of_parts)}")
    return lines


def unmeasured_costs(results: dict[str, Any]) -> list[str]:
    """Return one line for each cost that was not measured and reason, with its pipelines."""
    found: dict[str, list[str]] = {}
    for name, cost in costs_of(results).items():
        for key, title in COST_TITLES.items():
            if why := cost.get(key, {}).get("why_not"):
                found.setdefault(f"{title}: not measured: {why}", []).append(name)
    return [f"{line} ({', '.join(names)})" for line, names in found.items()]
