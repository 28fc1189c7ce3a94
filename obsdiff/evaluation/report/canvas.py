"""Transparent matplotlib figures as inline SVG, in the page's font and text colour."""

import io
import re
from typing import Any

GREY = "#808890"  # of lines and texts; the page replaces it by its own text colour


def canvas(height: float = 3.0) -> tuple[Any, Any]:
    """Return a figure of the width of a phone, and its axes; `height` in inches."""
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
    """Return a figure as inline SVG; texts stay texts, and grey becomes the page's text colour."""
    from matplotlib import rc_context

    buffer = io.StringIO()
    with rc_context(
        {"svg.fonttype": "none", "svg.hashsalt": "obsdiff", "font.family": "sans-serif"}
    ):
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    text = buffer.getvalue()
    return re.sub(rf"(fill|stroke): {GREY}", r"\1: currentColor", text[text.index("<svg") :])


def tick_text(name: str, longest: int = 22) -> str:
    """Return a name as a tick label: cut after `longest` characters, without formulas."""
    return (name if len(name) <= longest else name[: longest - 1] + "…").replace("$", r"\$")
