"""A run as the plots show it: one colour and shape for each group of runs, the same in every plot of a comparison."""

from dataclasses import dataclass
from typing import Any

from .page_config import group_names
from .page_tables import removed

COLOURS = ("#3b7dd8", "#e0803a", "#2f9e6e", "#b0559f", "#c9a227", "#d1495b")
MARKERS = (("o", "●"), ("s", "■"), ("^", "▲"), ("D", "◆"), ("v", "▼"))
DASHES = (("-", "solid"), ("--", "dashed"), (":", "dotted"))


@dataclass(frozen=True)
class Point:
    """A run as the plots show it. `removed` is the share of the targeted weights, None without a record of them."""

    run: dict[str, Any]
    group: str
    colour: str
    marker: tuple[str, str]
    dash: tuple[str, str]
    removed: float | None

    @property
    def name(self) -> str:
        return self.run["name"]


def points_of(runs: list[dict[str, Any]]) -> list[Point]:
    """Every run, in the colour and shape of its group."""
    groups = group_names(runs)
    order = list(dict.fromkeys(groups.values()))
    seen: dict[str, int] = dict.fromkeys(order, 0)
    points = []
    for run in runs:
        i = order.index(groups[run["name"]])
        dash = DASHES[seen[order[i]] % len(DASHES)]
        seen[order[i]] += 1
        points.append(
            Point(
                run,
                order[i],
                COLOURS[i % len(COLOURS)],
                MARKERS[(i + i // len(COLOURS)) % len(MARKERS)],
                dash,
                removed(run),
            )
        )
    return points


def legend(points: list[Point]) -> list[dict[str, str]]:
    """An entry for each group."""
    groups = {point.group: point for point in points}
    return [
        {"colour": point.colour, "dash": "", "glyph": point.marker[1], "text": group}
        for group, point in groups.items()
    ]
