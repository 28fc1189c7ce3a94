"""Quality against what a run costs: bytes on disk, measured time; with the frontier.

A run is on the frontier if no other one, dense included, is both cheaper and better.
"""

from dataclasses import dataclass
from typing import Any

from .canvas import GREY, as_svg, canvas
from .merge import Comparison
from .noise import DENSE_NAME, METRICS, figures_of
from .plots import ERROR_METRIC, Plot, no_plot, not_shown, scale_axis
from .points import Point, group_legend, points_of
from .recommendation import share_of

LABEL = 14  # longest label of a point, in characters


@dataclass(frozen=True)
class Place:
    """Where a run is in a plot.

    Attributes:
        cost: on the horizontal axis, with its interval.
        figure: of results.json, on the vertical axis.
    """

    cost: tuple[float, float, float]  # value, low, high
    figure: dict[str, Any]

    @property
    def point(self) -> tuple[float, float]:
        """Cost and quality."""
        return self.cost[0], self.figure["value"]


def tradeoffs(comparison: Comparison) -> list[Plot]:
    """Return the plots of quality against bytes and against measured time.

    Quality is the SSIM to dense's pictures; where it was not measured, the latent error.

    Args:
        comparison: runs with unique names.
    """
    results = comparison.results
    points = points_of(results["runs"])
    metric = "ssim" if figures_of(results, "ssim") else ERROR_METRIC
    timed = "picture" if any(p.run["cost"].get("picture") for p in points) else "step"
    sizes = {
        name: (size / 1e6,) * 3
        for name, size in {
            DENSE_NAME: results.get("dense_cost", {}).get("bytes_on_disk"),
            **{p.name: p.run["cost"]["bytes_on_disk"] for p in points},
        }.items()
        if size
    }
    times = {p.name: time for p in points if (time := time_of(p.run["cost"].get(timed)))}
    title = METRICS[metric].title
    return [
        against(
            f"{title} against size",
            comparison,
            points,
            metric,
            sizes,
            "size on disk, MB",
            "Zeros alone do not make a file smaller.",
        ),
        against(
            f"{title} against time",
            comparison,
            points,
            metric,
            {DENSE_NAME: (1.0, 1.0, 1.0), **times} if times else {},
            f"measured time of a {timed}, dense = 1",
            "Bars across are the quartiles of the rounds.",
        ),
    ]


def time_of(speed: dict[str, Any] | None) -> tuple[float, float, float] | None:
    """Return the time that a measured speed-up means, dense = 1, with its interval."""
    if not speed or min(speed[key] for key in ("speedup", "low", "high")) <= 0:
        return None
    return 1 / speed["speedup"], 1 / speed["high"], 1 / speed["low"]


def against(
    title: str,
    comparison: Comparison,
    points: list[Point],
    metric: str,
    costs: dict[str, tuple[float, float, float]],
    axis: str,
    remark: str,
) -> Plot:
    """Plot a metric against a cost, with the frontier.

    Args:
        title: of the plot.
        comparison: runs with unique names.
        points: how each is drawn.
        metric: a key of METRICS, a comparison with dense.
        costs: cost of dense and runs, with its interval.
        axis: label of the horizontal axis.
        remark: the end of the caption.
    """
    about, figures = METRICS[metric], figures_of(comparison.results, metric)
    places = {
        point.name: Place(costs[point.name], figures[point.name])
        for point in points
        if point.name in costs and point.name in figures
    }
    if not places:
        why = "No run was timed: evaluate with --rounds 1 or more." if "time" in title else ""
        return no_plot(title, why or f"No run has both a size and {about.title}.")
    if DENSE_NAME in costs:
        best = 1.0 if about.higher_is_better else 0.0
        places[DENSE_NAME] = Place(costs[DENSE_NAME], {"value": best, "low": best, "high": best})
    figure, axes = canvas(3.2)
    edge = frontier([place.point for place in places.values()], about.higher_is_better)
    axes.plot(*zip(*edge, strict=True), color=GREY, linewidth=5, alpha=0.25, zorder=0)
    shown = [point for point in points if point.name in places]
    for i, point in enumerate(sorted(shown, key=lambda each: places[each.name].point[1])):
        place = places[point.name]
        draw(axes, place, point.colour, point.marker[0], label_of(point), left=i % 2 == 1)
    if DENSE_NAME in places:
        draw(axes, places[DENSE_NAME], GREY, "*", DENSE_NAME)
    scale_axis(axes, [place.figure for place in places.values()], metric)
    axes.set_xlabel(axis)
    axes.margins(x=0.15)
    caption = (
        f"{'Up' if about.higher_is_better else 'Down'} and left is better. Grey band: the "
        "frontier, on which no other run is both cheaper and better. Bars are 95 % intervals "
        f"over prompts. {remark}"
    )
    caption += not_shown(points, shown, "not measured")
    return {
        "title": title,
        "svg": as_svg(figure, title),
        "legend": group_legend(shown),
        "caption": caption,
    }


def frontier(points: list[tuple[float, float]], higher: bool) -> list[tuple[float, float]]:
    """Return the points that no other one beats in both cost and quality, the cheapest first.

    Args:
        points: cost and quality of each.
        higher: whether a higher quality is better.
    """
    sign = 1 if higher else -1
    found: list[tuple[float, float]] = []
    for cost, quality in sorted(points, key=lambda point: (point[0], -sign * point[1])):
        if not found or sign * quality > sign * found[-1][1]:
            found.append((cost, quality))
    return found


def draw(axes: Any, place: Place, colour: str, marker: str, label: str, left: bool = False) -> None:
    """Draw a run with both of its intervals, and its label on one side."""
    (x, low, high), figure = place.cost, place.figure
    y = figure["value"]
    axes.errorbar(
        [x],
        [y],
        xerr=[[max(0, x - low)], [max(0, high - x)]],
        yerr=[[max(0, y - figure["low"])], [max(0, figure["high"] - y)]],
        color=colour,
        marker=marker,
        markersize=10 if marker == "*" else 6,
        elinewidth=1.1,
        capsize=2.5,
    )
    axes.annotate(
        label,
        (x, y),
        (-6 if left else 6, 5),
        textcoords="offset points",
        horizontalalignment="right" if left else "left",
        color=GREY,
        fontsize=8,
    )


def label_of(point: Point) -> str:
    """Return the label of a run: its share in percent, else its name."""
    share = share_of(point.run)
    if share is not None:
        return f"{100 * share:.0f} %"
    name = point.name.replace("$", r"\$")
    return name if len(name) <= LABEL else name[: LABEL - 1] + "…"
