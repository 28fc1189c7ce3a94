"""A run as the plots show it: a group of runs has one colour and marker in all plots of a page."""

from dataclasses import dataclass
from typing import Any

from .configuration import group_names
from .tables import removed_share

COLOURS = ("#3b7dd8", "#e0803a", "#2f9e6e", "#b0559f", "#c9a227", "#d1495b")
MARKERS = (("o", "●"), ("s", "■"), ("^", "▲"), ("D", "◆"), ("v", "▼"))
DASHES = (("-", "solid"), ("--", "dashed"), (":", "dotted"))


@dataclass(frozen=True)
class Point:
    """A run as the plots show it."""

    run: dict[str, Any]  # entry of results.json
    group: str  # its legend entry; see group_names
    colour: str  # of the group
    marker: tuple[str, str]  # of the group: matplotlib's name, and the character in the legend
    dash: tuple[str, str]  # of the run in its group: matplotlib's name, and CSS's
    removed: float | None  # share of the targeted weights; None without a record of its layers

    @property
    def name(self) -> str:
        """The unique name of the run."""
        return self.run["name"]


def points_of(runs: list[dict[str, Any]]) -> list[Point]:
    """Return every run with the colour and marker of its group.

    Args:
        runs: of results.json, with unique names.
    """
    groups = group_names(runs)
    order = list(dict.fromkeys(groups.values()))
    seen: dict[str, int] = dict.fromkeys(order, 0)
    points = []
    for run in runs:
        group = groups[run["name"]]
        i = order.index(group)
        colour = COLOURS[i % len(COLOURS)]
        marker = MARKERS[(i + i // len(COLOURS)) % len(MARKERS)]
        dash = DASHES[seen[group] % len(DASHES)]
        seen[group] += 1
        points.append(Point(run, group, colour, marker, dash, removed_share(run)))
    return points


def group_legend(points: list[Point]) -> list[dict[str, str]]:
    """Return a legend entry for each group: its marker in its colour."""
    groups = {point.group: point for point in points}
    return [
        {"colour": point.colour, "dash": "", "glyph": point.marker[1], "text": group}
        for group, point in groups.items()
    ]


def run_legend(points: list[Point]) -> list[dict[str, str]]:
    """Return a legend entry for each run: its line style in its group's colour."""
    return [
        {"colour": point.colour, "dash": point.dash[1], "glyph": "", "text": point.name}
        for point in points
    ]
