"""The plots of docs/results.md: one row of two axes (relative latent error, CLIP score) a model,
lines with 95 % intervals; of the presets a point for each calibration set."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

from obsdiff.evaluation.report.noise import METRICS

from .off import ALONE

COLOURS = {
    "magnitude": "#e0803a",
    "dsnot": "#8a8f98",
    "wanda": "#3b7dd8",
    "obs": "#2f9e6e",
    "l1": "#e0803a",
    "off": "#b04a8f",
    "random": "#8a8f98",
    "ecodiff": "#6b5bd6",
    "ecodiff+obs": "#111318",
}
PRESETS = {"paper": "#e0803a", "best": "#2f9e6e", "fast": "#3b7dd8"}
SHOWN = ("relative_latent_error", "clip_score")


def draw_plots(table: str, kept: dict[str, Any], folder: Path) -> Path | None:
    """Draw the plot of a table for every model; None for a table that has none."""
    if table == "off":
        return draw_off(kept, folder)
    if table not in XS and table != "presets":
        return None
    figure = Figure(figsize=(9, 3.1 * len(kept)), layout="constrained")
    axes = figure.subplots(len(kept), len(SHOWN), squeeze=False)
    for row, (model, one) in zip(axes, kept.items(), strict=True):
        for metric, ax in zip(SHOWN, row, strict=True):
            if table == "presets":
                points(ax, one["rows"], metric)
            else:
                lines(ax, table, one["rows"], metric)
                ax.set_xlabel(XS[table][0])
            ax.set(title=model, ylabel=METRICS[metric].title)
            ax.spines[["top", "right"]].set_visible(False)
    found = [ax.get_legend_handles_labels() for ax in axes.flat]
    shown = max(found, key=lambda pair: len(pair[1]))
    figure.legend(*shown, loc="outside lower center", ncols=len(shown[1]), frameon=False)
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"{table}.png"
    figure.savefig(file, dpi=110, metadata={"Software": None})
    return file


def draw_off(kept: dict[str, Any], folder: Path) -> Path:
    """For each model the cost of every sub-module alone, and of the cheapest of them together."""
    figure = Figure(figsize=(9, 4 * len(kept)), layout="constrained")
    for (left, right), (model, one) in zip(
        figure.subplots(len(kept), 2, squeeze=False), kept.items(), strict=True
    ):
        rows = one["rows"]
        alone = {
            name.removeprefix(ALONE): row["metrics"][SHOWN[0]]["value"]
            for name, row in rows.items()
            if name.startswith(ALONE)
        }
        left.barh([short(name) for name in alone], list(alone.values()), color="#3b7dd8")
        left.invert_yaxis()
        left.set(title=f"{model}: one alone", xlabel="relative latent error", xscale="log")
        left.set_xlim(0.01, 1)
        left.tick_params(axis="y", labelsize=7)
        left.xaxis.set_minor_formatter(NullFormatter())
        several = [row for name, row in rows.items() if name.startswith("off ")]
        for where, label in (("metrics", "evaluation prompts"), ("held_out", "held-out names")):
            right.plot(
                [row["sparsity"] for row in several],
                [row[where][SHOWN[0]]["value"] for row in several],
                marker="o",
                label=label,
            )
        right.axhline(0.5, color="#999", linewidth=1, linestyle="--")
        right.set(title="the cheapest together", xlabel="share of the weights", yscale="log")
        right.set_ylim(0.01, 2)
        right.yaxis.set_minor_formatter(NullFormatter())
        right.legend(frameon=False)
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "off.png"
    figure.savefig(file, dpi=110, metadata={"Software": None})
    return file


def short(name: str) -> str:
    """A sub-module's name without the parts that all have."""
    return name.replace(".transformer_blocks.0", "").replace("transformer_blocks.", "block ")


def lines(ax: Any, table: str, rows: dict[str, Any], metric: str) -> None:
    """One line a method, with its intervals; dense as a level."""
    _, x_of, log_x = XS[table]
    for method in dict.fromkeys(row["method"] for name, row in rows.items() if name != "dense"):
        points = sorted(
            (
                (x_of(name, row), row["metrics"][metric])
                for name, row in rows.items()
                if row.get("method") == method and name != "dense"
            ),
            key=lambda point: point[0],
        )
        x = [p[0] for p in points]
        y = [p[1]["value"] for p in points]
        spread = [
            [max(0.0, p[1]["value"] - p[1]["low"]) for p in points],
            [max(0.0, p[1]["high"] - p[1]["value"]) for p in points],
        ]
        ax.errorbar(
            x,
            y,
            yerr=spread,
            marker="o",
            markersize=4,
            capsize=2,
            linewidth=1.4,
            label=method,
            color=COLOURS.get(method),
        )
    level_and_scale(ax, rows, metric)
    if log_x:
        ax.set_xscale("log")


def points(ax: Any, rows: dict[str, Any], metric: str) -> None:
    """The presets side by side at every target: a point a calibration set, with its interval."""
    names = [name for name in rows if name != "dense"]
    targets = list(dict.fromkeys(name.split(": ")[1].split(", seed")[0] for name in names))
    for i, preset in enumerate(PRESETS):
        for target in targets:
            figures = [
                rows[name]["metrics"][metric]
                for name in names
                if name.startswith(f"{preset}: {target}, seed")
            ]
            x = [
                targets.index(target) + 0.25 * (i - 1) + 0.06 * (k - 1) for k in range(len(figures))
            ]
            spread = [
                [max(0.0, f["value"] - f["low"]) for f in figures],
                [max(0.0, f["high"] - f["value"]) for f in figures],
            ]
            label = preset if target == targets[0] else None
            ax.errorbar(
                x,
                [f["value"] for f in figures],
                yerr=spread,
                fmt="o",
                markersize=4,
                capsize=2,
                linewidth=1,
                label=label,
                color=PRESETS[preset],
            )
    ax.set_xticks(
        range(len(targets)),
        [target.replace("structured", "structured\n") for target in targets],
        fontsize=8,
    )
    level_and_scale(ax, rows, metric)


def level_and_scale(ax: Any, rows: dict[str, Any], metric: str) -> None:
    """The dense model's level where there is one; errors on a scale of ratios."""
    if metric in rows.get("dense", {}).get("metrics", {}):
        ax.axhline(
            rows["dense"]["metrics"][metric]["value"], color="#999", linewidth=1, linestyle="--"
        )
    if metric == "relative_latent_error":
        ax.set_yscale("log")


XS: dict[str, tuple[str, Callable[[str, Any], float], bool]] = {
    "unstructured": ("sparsity", lambda name, row: row["sparsity"], False),
    "structured": ("sparsity asked for", lambda name, row: row["sparsity"], False),
    "prompts": ("calibration prompts", lambda name, row: int(name), True),
    "packages": ("packages", lambda name, row: int(name), True),
}
