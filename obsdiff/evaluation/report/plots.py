"""The plots of a comparison: quality against sparsity, layer errors, seconds by phase.

A plot is {"title", "svg", "legend", "caption"}. Without data it has no svg, and the caption states
the reason.
"""

from typing import Any

from .canvas import GREY, as_svg, canvas, tick_text
from .merge import Comparison
from .noise import DENSE_NAME, METRICS, figures_of
from .points import COLOURS, Point, group_legend, points_of, run_legend

Plot = dict[str, Any]
ERROR_METRIC = "relative_latent_error"
LINES = 24  # largest number of runs in one plot
WIDE = 20.0  # ratio of the largest to the smallest error above which the axis is logarithmic
ERROR_SCALE = (
    " 0 is the same picture, about 2 an unrelated one: "
    "mean((x − d)²) / mean((d − mean d)²) over the final latents."
)


def plots(comparison: Comparison) -> list[Plot]:
    """Return the plots of a comparison, in the order of the page.

    Args:
        comparison: runs with unique names.
    """
    points = points_of(comparison.results["runs"])
    quality = quality_metric(comparison.results)
    shown = [against_sparsity(comparison, points, ERROR_METRIC)]
    shown += [against_sparsity(comparison, points, quality)] if quality else []
    return [*shown, layer_errors(points), phases(points)]


def quality_metric(results: dict[str, Any]) -> str | None:
    """Return the second metric to plot: CLIP score, else the first one measured for a run."""
    for key in ("clip_score", *METRICS):
        if key != ERROR_METRIC and set(figures_of(results, key)) - {DENSE_NAME}:
            return key
    return None


def against_sparsity(comparison: Comparison, points: list[Point], metric: str) -> Plot:
    """Plot a metric against the removed share of the targeted weights, one line a group."""
    figures, about = figures_of(comparison.results, metric), METRICS[metric]
    title = f"{about.title} against sparsity"
    removed = {p.name: 100 * p.removed for p in points if p.removed is not None}
    shown = [point for point in points if point.name in figures and point.name in removed]
    if not shown:
        return no_plot(title, "No run has both this figure and a record of its layers.")
    figure, axes = canvas()
    if dense := figures.get(DENSE_NAME):
        axes.axhspan(dense["low"], dense["high"], color=GREY, alpha=0.13, linewidth=0)
        axes.axhline(dense["value"], color=GREY, linewidth=1, linestyle="--")
    for group in dict.fromkeys(point.group for point in shown):
        line = sorted(
            (point for point in shown if point.group == group), key=lambda p: removed[p.name]
        )
        x = [removed[point.name] for point in line]
        draw_line(axes, x, [figures[point.name] for point in line], line[0])
    scale_axis(axes, [figures[point.name] for point in shown], metric)
    axes.set_xlabel("targeted weights removed, %")
    axes.margins(x=0.12)
    caption = f"{'Higher' if about.higher_is_better else 'Lower'} is better; "
    caption += "bars are 95 % intervals over prompts."
    caption += " Dashed: the dense pipeline, and its interval." if dense else ""
    caption += ERROR_SCALE if metric == ERROR_METRIC else ""
    caption += not_shown(points, shown, "no figure, or no record of its layers")
    return plot(title, figure, group_legend(shown), caption)


def layer_errors(points: list[Point]) -> Plot:
    """Plot the layer error along the depth, one line a run."""
    title = "layer error along the depth"
    recorded = [point for point in points if point.run["layers"]]
    shown = recorded[:LINES]
    if not shown:
        return no_plot(title, "No run has a record of its layers.")
    figure, axes = canvas()
    for point in shown:
        errors = [max(row["error"], 1e-12) for row in point.run["layers"]]
        axes.plot(
            range(1, len(errors) + 1),
            errors,
            color=point.colour,
            linewidth=1.3,
            linestyle=point.dash[0],
            marker="." if len(errors) < 8 else "",
        )
    axes.set_yscale("log")
    axes.set_xlabel("pruned layer, in forward order")
    axes.set_ylabel("layer error")
    caption = (
        "Share of the layer's output energy that pruning changed, on the calibration's inputs: "
        "tr(D H Dᵀ) / tr(W H Wᵀ)."
    ) + first_of(shown, recorded)
    return plot(title, figure, run_legend(shown), caption)


def phases(points: list[Point]) -> Plot:
    """Plot the seconds of pruning by phase, one bar a run."""
    title = "seconds of pruning"
    recorded = [point for point in points if point.run["cost"].get("seconds")]
    shown = recorded[:LINES]
    if not shown:
        return no_plot(title, "No run has a record of its seconds.")
    figure, axes = canvas(max(3.0, 0.28 * len(shown) + 0.8))
    seconds = [point.run["cost"]["seconds"] for point in shown]
    names = list(dict.fromkeys(phase for row in seconds for phase in row))
    colours = [COLOURS[i % len(COLOURS)] for i in range(len(names))]
    lefts = [0.0] * len(shown)
    for phase, colour in zip(names, colours, strict=True):
        widths = [row.get(phase, 0) for row in seconds]
        axes.barh(range(len(shown)), widths, left=lefts, color=colour, height=0.6)
        lefts = [left + width for left, width in zip(lefts, widths, strict=True)]
    axes.set_yticks(range(len(shown)), [tick_text(point.name) for point in shown])
    axes.set_ylim(max(len(shown), 5) - 0.4, -0.6)
    axes.set_xlabel("seconds to prune")
    entries = [
        {"colour": colour, "dash": "", "glyph": "■", "text": phase}
        for phase, colour in zip(names, colours, strict=True)
    ]
    caption = "Seconds of pruning, by phase." + first_of(shown, recorded)
    return plot(title, figure, entries, caption)


def plot(title: str, figure: Any, legend: list[dict[str, str]], caption: str) -> Plot:
    """Return a plot of a matplotlib figure."""
    return {"title": title, "svg": as_svg(figure, title), "legend": legend, "caption": caption}


def no_plot(title: str, why: str) -> Plot:
    """Return a plot without data."""
    return {"title": title, "svg": "", "legend": [], "caption": why}


def draw_line(axes: Any, x: list[float], figures: list[dict[str, Any]], point: Point) -> None:
    """Draw figures with their intervals, joined by a line, in the style of a point's group."""
    y = [figure["value"] for figure in figures]
    bars = [
        [max(0, f["value"] - f["low"]) for f in figures],
        [max(0, f["high"] - f["value"]) for f in figures],
    ]
    style = {"color": point.colour, "marker": point.marker[0], "markersize": 6, "linewidth": 1.4}
    axes.errorbar(x, y, yerr=bars, elinewidth=1.1, capsize=2.5, **style)


def scale_axis(axes: Any, figures: list[dict[str, Any]], metric: str) -> None:
    """Scale the axis of a metric: errors logarithmically over a wide range, else from 0."""
    axes.set_ylabel(METRICS[metric].title)
    values = [figure["value"] for figure in figures]
    if metric != ERROR_METRIC:
        axes.margins(y=0.15)
    elif min(values) > 0 and max(values) / min(values) > WIDE:
        axes.set_yscale("log", nonpositive="clip")
    else:
        axes.set_ylim(0, 1.1 * max(max(figure["high"] for figure in figures), 1e-9))


def not_shown(points: list[Point], shown: list[Point], why: str) -> str:
    """Return the sentence that names the runs without data; "" if there are none."""
    names = [point.name for point in points if point not in shown]
    return f" Not shown ({why}): {', '.join(names)}." if names else ""


def first_of(shown: list[Point], recorded: list[Point]) -> str:
    """Return the sentence that the plot is limited to some runs; "" if it shows all."""
    if len(shown) == len(recorded):
        return ""
    return f" Shown are the first {len(shown)} of {len(recorded)} runs."
