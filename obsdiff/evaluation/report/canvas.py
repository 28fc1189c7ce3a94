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


def as_svg(figure: Any, title: str) -> str:
    """Return a figure as inline SVG; texts stay texts, and grey becomes the page's text colour.

    Styles become attributes, since the page's policy admits no style but its own sheet.

    Args:
        figure: of matplotlib.
        title: what the picture shows, for screen readers.
    """
    from markupsafe import escape
    from matplotlib import rc_context

    buffer = io.StringIO()
    with rc_context(
        {"svg.fonttype": "none", "svg.hashsalt": "obsdiff", "font.family": "sans-serif"}
    ):
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"\s*<metadata>.*?</metadata>|\s*<style.*?</style>", "", text, flags=re.DOTALL)
    text = re.sub(r"<[^<>]*>", lambda tag: re.sub(r' style="([^"]*)"', attributes, tag[0]), text)
    text = re.sub(r'(<g) id="[^"]*"', r"\1", text)
    text = text.replace("<svg ", f'<svg role="img" aria-label="{escape(title)}" ', 1)
    return re.sub(rf'(fill|stroke)="{GREY}"', r'\1="currentColor"', text)


def attributes(style: re.Match[str]) -> str:
    """Return the declarations of a style attribute as attributes of their own, but for fonts."""
    rows = (each.partition(":") for each in style[1].split(";"))
    pairs = ((key.strip(), value.strip()) for key, _, value in rows)
    return "".join(f' {key}="{value}"' for key, value in pairs if key and key != "font-family")


def tick_text(name: str, longest: int = 22) -> str:
    """Return a name as a tick label: cut after `longest` characters, without formulas."""
    return (name if len(name) <= longest else name[: longest - 1] + "…").replace("$", r"\$")
