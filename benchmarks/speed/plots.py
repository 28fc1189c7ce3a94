"""docs/speed-table.png, the table as bars, and docs/speed-phases.png, the CPU time of each whole
pruning by phase."""

from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from .rows import ROWS

DOCS = Path(__file__).parents[2] / "docs"
COLOURS = {"plain": "#e0803a", "ours": "#2f9e6e", "target": "#333333"}
PHASES = {
    "text": "#c9b458", "denoiser": "#3b7dd8", "VAE": "#9a6fb0", "Hessian": "#2f9e6e",
    "factor": "#e0803a", "sweep": "#d1495b", "errors": "#8a8f98", "other": "#d8d8d8",
}  # fmt: skip


def draw_table(rows: list[dict[str, Any]], folder: Path = DOCS) -> Path:
    """Left: less is better; right: more is better. A tick marks the target."""
    figure = Figure(figsize=(10, 4), layout="constrained")
    sides = [[row for row in rows if ROWS[row["name"]].less == less] for less in (True, False)]
    for ax, some, title in zip(
        figure.subplots(1, 2), sides, ("less is better", "times faster than plain"), strict=True
    ):
        for i, row in enumerate(reversed(some)):
            ax.barh(
                i + 0.2,
                row["plain"] or 0.0,
                0.38,
                color=COLOURS["plain"],
                label="plain algorithm" if i == 0 else None,
            )
            ax.barh(
                i - 0.2,
                row["value"],
                0.38,
                color=COLOURS["ours"],
                label="obsdiff" if i == 0 else None,
            )
            ax.plot(
                [row["target"]] * 2,
                [i - 0.42, i + 0.02],
                color=COLOURS["target"],
                linewidth=2,
                label="target" if i == 0 else None,
            )
        ax.set_yticks(range(len(some)), [row["name"] for row in reversed(some)])
        ax.set_title(title)
        ax.spines[["top", "right"]].set_visible(False)
    figure.legend(
        *figure.axes[0].get_legend_handles_labels(),
        loc="outside lower center",
        ncols=3,
        frameon=False,
    )
    return saved(figure, folder / "speed-table.png")


def draw_phases(details: dict[str, dict[str, Any]], folder: Path = DOCS) -> Path:
    """One axis a model, a bar a call, in units of plain inference."""
    figure = Figure(figsize=(10, 3.2 * len(details)), layout="constrained")
    for ax, (model, calls) in zip(
        figure.subplots(len(details), 1, squeeze=False)[:, 0], details.items(), strict=True
    ):
        unit, calls = (
            calls["inference"]["cpu"],
            {name: one for name, one in calls.items() if "phases" in one},
        )
        for i, one in enumerate(reversed(calls.values())):
            left = 0.0
            for phase, colour in PHASES.items():
                length = one["phases"].get(phase, 0.0) / unit
                ax.barh(i, length, left=left, color=colour, label=phase if i == 0 else None)
                left += length
        ax.set_yticks(
            range(len(calls)), [label(name, one) for name, one in reversed(calls.items())]
        )
        ax.set(title=model, xlabel="CPU time / plain inference")
        ax.spines[["top", "right"]].set_visible(False)
    handles = figure.axes[0].get_legend_handles_labels()
    figure.legend(*handles, loc="outside lower center", ncols=len(PHASES), frameon=False)
    return saved(figure, folder / "speed-phases.png")


def label(name: str, one: dict[str, Any]) -> str:
    return f"{name}, {one['peak_bytes'] / 2**30:.1f} GiB" if one["peak_bytes"] else name


def saved(figure: Figure, file: Path) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, dpi=110, metadata={"Software": None})
    return file
