"""A run as the plots show it: one colour and shape for each group of runs, the same in every plot of a comparison."""

import io
import re
from dataclasses import dataclass
from typing import Any

from .merge import Comparison, group_names
from .noise import DENSE_NAME, METRICS, figures_of
from .tables import removed_share

COLOURS = ("#3b7dd8", "#e0803a", "#2f9e6e", "#b0559f", "#c9a227", "#d1495b")
MARKERS = (("o", "●"), ("s", "■"), ("^", "▲"), ("D", "◆"), ("v", "▼"))
DASHES = (("-", "solid"), ("--", "dashed"), (":", "dotted"))
GREY = "#808890"  # of lines and texts; the page gives them its own colour
ERROR_METRIC = "relative_latent_error"
LINES = 24  # more runs than these are not told apart in one plot
WIDE = 20.0  # from this ratio on, errors stand on a logarithmic axis


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
                removed_share(run),
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


def plots(comparison: Comparison) -> list[dict[str, Any]]:
    """What the page shows of a comparison: {"title", "svg", "legend", "caption"}, without svg where there is nothing to draw."""
    points = points_of(comparison.results["runs"])
    quality = next(
        (
            key
            for key in ("clip_score", *METRICS)
            if key != ERROR_METRIC and set(figures_of(comparison.results, key)) - {DENSE_NAME}
        ),
        None,
    )
    shown = [against_sparsity(comparison, points, ERROR_METRIC)]
    shown += [against_sparsity(comparison, points, quality)] if quality else []
    return [*shown, against_speed(comparison, points), layer_errors(points), phases(points)]


def against_sparsity(comparison: Comparison, points: list[Point], metric: str) -> dict[str, Any]:
    """A metric against the share of the targeted weights that was removed: one line a group, a point a run, its interval as a bar."""
    figures, about = figures_of(comparison.results, metric), METRICS[metric]
    shown = [point for point in points if point.name in figures and point.removed is not None]
    left = [point.name for point in points if point not in shown]
    title = f"{about.title} against sparsity"
    if not shown:
        return nothing(title, "No run has both this figure and a record of its layers.")
    figure, axes = canvas()
    dense = figures.get(DENSE_NAME)
    if dense:
        axes.axhspan(dense["low"], dense["high"], color=GREY, alpha=0.13, linewidth=0)
        axes.axhline(dense["value"], color=GREY, linewidth=1, linestyle="--")
    for group in dict.fromkeys(point.group for point in shown):
        line = sorted(
            (point for point in shown if point.group == group), key=lambda point: point.removed
        )
        draw_line(
            axes,
            [100 * point.removed for point in line],
            [figures[point.name] for point in line],
            line[0],
        )
    error_axis(axes, [figures[point.name] for point in shown], metric)
    axes.set_xlabel("targeted weights removed, %")
    axes.margins(x=0.12)
    way = "higher" if about.higher_is_better else "lower"
    caption = f"{way.capitalize()} is better; bars are 95 % intervals over prompts." + (
        " Dashed: the dense pipeline, and its interval." if dense else ""
    )
    if metric == ERROR_METRIC:
        caption += " 0 is the same picture, about 2 an unrelated one: mean((x − d)²) / mean((d − mean d)²) over the final latents."
    return {
        "title": title,
        "svg": as_svg(figure),
        "legend": legend(shown),
        "caption": caption + without(left, "no figure, or no record of its layers"),
    }


def against_speed(comparison: Comparison, points: list[Point]) -> dict[str, Any]:
    """Error against the measured speed of a step; runs that were not timed are named."""
    figures = figures_of(comparison.results, ERROR_METRIC)
    timed = [point for point in points if point.run["cost"].get("step")]
    shown = [point for point in timed if point.name in figures]
    title = "relative latent error against measured speed"
    if not shown:
        return nothing(
            title,
            "No run was timed, so there is no speed to show: evaluate with --rounds 1 or more.",
        )
    figure, axes = canvas()
    axes.axvline(1, color=GREY, linewidth=1, linestyle="--")
    for point in shown:
        speed = point.run["cost"]["step"]
        draw_line(
            axes,
            [speed["speedup"]],
            [figures[point.name]],
            point,
            [[max(0, speed["speedup"] - speed["low"])], [max(0, speed["high"] - speed["speedup"])]],
        )
        if point.removed is not None:
            above = (speed["speedup"], figures[point.name]["value"])
            axes.annotate(
                f"{100 * point.removed:.0f} %",
                above,
                (6, 6),
                textcoords="offset points",
                color=GREY,
                fontsize=8,
            )
    error_axis(axes, [figures[point.name] for point in shown], ERROR_METRIC)
    axes.set_xlabel("speed of a step, as a multiple of dense's")
    axes.margins(x=0.15)
    caption = "Right and low is better; bars are quartiles of the rounds and 95 % intervals over prompts. Dashed: as fast as dense."
    return {
        "title": title,
        "svg": as_svg(figure),
        "legend": legend(shown),
        "caption": caption + without([p.name for p in points if p not in shown], "not timed"),
    }


def layer_errors(points: list[Point]) -> dict[str, Any]:
    """Layer error along the depth, one line a run in its group's colour."""
    recorded = [point for point in points if point.run["layers"]]
    shown = recorded[:LINES]
    if not shown:
        return nothing("what each layer lost", "No run has a record of its layers.")
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
    entries = [
        {"colour": point.colour, "dash": point.dash[1], "glyph": "", "text": point.name}
        for point in shown
    ]
    caption = (
        "Share of the layer's output energy that pruning changed, on the calibration's inputs: tr(D H Dᵀ) / tr(W H Wᵀ)."
        + first_of(shown, recorded)
    )
    return {
        "title": "what each layer lost",
        "svg": as_svg(figure),
        "legend": entries,
        "caption": caption,
    }


def phases(points: list[Point]) -> dict[str, Any]:
    """Seconds of pruning by phase, one bar a run."""
    recorded = [point for point in points if point.run["cost"].get("seconds")]
    shown = recorded[:LINES]
    if not shown:
        return nothing("where the time went", "No run has a record of its seconds.")
    figure, axes = canvas(max(3.0, 0.28 * len(shown) + 0.8))
    seconds = [point.run["cost"]["seconds"] for point in shown]
    names = list(dict.fromkeys(phase for row in seconds for phase in row))
    lefts = [0.0] * len(shown)
    for i, phase in enumerate(names):
        widths = [row.get(phase, 0) for row in seconds]
        axes.barh(
            range(len(shown)), widths, left=lefts, color=COLOURS[i % len(COLOURS)], height=0.6
        )
        lefts = [left + width for left, width in zip(lefts, widths, strict=True)]
    axes.set_yticks(range(len(shown)), [in_plot(point.name) for point in shown])
    axes.set_ylim(max(len(shown), 5) - 0.4, -0.6)
    axes.set_xlabel("seconds to prune")
    entries = [
        {"colour": COLOURS[i % len(COLOURS)], "dash": "", "glyph": "■", "text": phase}
        for i, phase in enumerate(names)
    ]
    return {
        "title": "where the time went",
        "svg": as_svg(figure),
        "legend": entries,
        "caption": "Seconds of pruning, by phase." + first_of(shown, recorded),
    }


def nothing(title: str, why: str) -> dict[str, Any]:
    return {"title": title, "svg": "", "legend": [], "caption": why}


def draw_line(
    axes: Any, x: list[float], figures: list[dict[str, Any]], point: Point, xerr: Any = None
) -> None:
    """Points with their intervals, joined by a line, in a group's colour and shape."""
    y = [figure["value"] for figure in figures]
    bars = [
        [max(0, f["value"] - f["low"]) for f in figures],
        [max(0, f["high"] - f["value"]) for f in figures],
    ]
    style = {"color": point.colour, "marker": point.marker[0], "markersize": 6, "linewidth": 1.4}
    axes.errorbar(x, y, yerr=bars, xerr=xerr, elinewidth=1.1, capsize=2.5, **style)


def error_axis(axes: Any, figures: list[dict[str, Any]], metric: str) -> None:
    """The axis of a metric: logarithmic for errors of very different size, from 0 for other errors."""
    axes.set_ylabel(METRICS[metric].title)
    values = [figure["value"] for figure in figures]
    if metric != ERROR_METRIC:
        axes.margins(y=0.15)
    elif min(values) > 0 and max(values) / min(values) > WIDE:
        axes.set_yscale("log", nonpositive="clip")
    else:
        axes.set_ylim(0, 1.1 * max(max(figure["high"] for figure in figures), 1e-9))


def without(names: list[str], why: str) -> str:
    return f" Not shown ({why}): {', '.join(names)}." if names else ""


def first_of(shown: list[Point], all_of_them: list[Point]) -> str:
    return (
        f" Shown are the first {len(shown)} of {len(all_of_them)} runs."
        if len(shown) < len(all_of_them)
        else ""
    )


def in_plot(name: str, longest: int = 22) -> str:
    """A name as matplotlib shows it: short, and a dollar is a dollar, no formula."""
    return (name if len(name) <= longest else name[: longest - 1] + "…").replace("$", r"\$")


def canvas(height: float = 3.0) -> tuple[Any, Any]:
    """A transparent figure in the width of a phone."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    with rc_context(
        {
            "axes.labelcolor": GREY,
            "xtick.color": GREY,
            "ytick.color": GREY,
            "axes.edgecolor": GREY,
            "font.size": 9,
        }
    ):
        figure = Figure(figsize=(4.4, height), layout="constrained")
        axes = figure.subplots()
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def as_svg(figure: Any) -> str:
    """Inline SVG, texts kept as text in the page's own font, grey ones in its own colour."""
    from matplotlib import rc_context

    buffer = io.StringIO()
    with rc_context(
        {"svg.fonttype": "none", "svg.hashsalt": "obsdiff", "font.family": "sans-serif"}
    ):
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    text = buffer.getvalue()
    return re.sub(rf"(fill|stroke): {GREY}", r"\1: currentColor", text[text.index("<svg") :])
