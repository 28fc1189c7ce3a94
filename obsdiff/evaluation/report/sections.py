"""One comparison -> what the template shows of it: sentence, cards, plots, tables."""

from typing import Any

from .cards import cards
from .merge import Comparison
from .noise import DENSE_NAME, LEGEND, reasons
from .plots import plots
from .recommendation import recommend
from .tables import config_table, cost_table, quality_table
from .tradeoff import tradeoffs
from .values import drawing_notes, part_lines, unmeasured_costs
from .verdict import NEARLY_THE_SAME, VISIBLE


def section(comparison: Comparison) -> dict[str, Any]:
    """Return the data of one comparison for the template, without its pictures.

    Args:
        comparison: runs with unique names.
    """
    results = comparison.results
    advice = recommend(results)
    calibrated_on = [
        run["prompts_calibrated_on"] for run in results["runs"] if "prompts_calibrated_on" in run
    ]
    return {
        "dense": results["dense"],
        "why": comparison.why,
        "advice": advice,
        "cards": cards(results, advice.name),
        "borders": {"same": NEARLY_THE_SAME, "visible": VISIBLE},
        "folders": [folder.name or folder.resolve().name for folder in comparison.folders],
        "settings": results.get("settings", {}),
        "total": len(results["prompts"]),
        "prompts": [],
        "names": [DENSE_NAME, *(run["name"] for run in results["runs"])],
        "calibrated_on": max(calibrated_on, default=None),
        "tradeoffs": tradeoffs(comparison),
        "quality": quality_table(comparison),
        "cost": cost_table(comparison),
        "config": config_table(comparison),
        "legend": LEGEND,
        "drawing": drawing_notes(results),
        "reasons": part_lines(results) + reasons(results),
        "cost_reasons": unmeasured_costs(results),
        "plots": plots(comparison),
    }
