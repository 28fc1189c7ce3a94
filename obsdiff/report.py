"""results.json of one or several runs -> one HTML page that needs nothing else: no network, light and dark.

Reads JSON and pictures alone; torch and diffusers have no part in it.
"""

import base64
import contextlib
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .comparison import DENSE, LEGEND, METRICS, figures_of, measured_metrics, near_best, reasons
from .errors import UserError
from .record import in_words
from .stored import read_json

SCHEMA = 1
GREY = "#808890"
COLOURS = ("#3b7dd8", "#e0803a", "#2f9e6e", "#b0559f", "#8a8f98", "#c9a227")


def write_page(folders: list[Path], page: Path) -> None:
    """Write the page of the results in `folders`. UserError for a folder without results.json or of another schema."""
    from jinja2 import Environment, FileSystemLoader

    sets = [read_results(Path(folder)) for folder in folders]
    names = [run["name"] for results in sets for run in results["runs"]]
    colours = {name: COLOURS[i % len(COLOURS)] for i, name in enumerate(dict.fromkeys(names))}
    template = Environment(loader=FileSystemLoader(Path(__file__).parent), autoescape=True).get_template("page.html")
    sections = []
    for results, folder in zip(sets, folders, strict=True):
        with following_the_schema(Path(folder) / "results.json"):
            sections.append(section(results, Path(folder), colours))
            template.render(sets=sections[-1:])  # so that a complaint names its file
    html = template.render(sets=sections)
    page.parent.mkdir(parents=True, exist_ok=True)
    beside = page.with_name(f".{page.name}.part")
    beside.write_text(html, encoding="utf-8")
    beside.replace(page)


def read_results(folder: Path) -> dict[str, Any]:
    """results.json of a run, its outline checked."""
    file = folder / "results.json"
    results = read_json(file)
    if results.get("schema") != SCHEMA:
        raise UserError(f"{file}: expected schema {SCHEMA}, found {results.get('schema')!r}; write it again with this obsdiff")
    missing = [key for key in ("dense", "runs", "prompts", "seeds") if key not in results]
    if missing:
        raise UserError(f"{file}: {', '.join(missing)} missing; write it again with this obsdiff")
    with following_the_schema(file):
        if not all(isinstance(run["name"], str) for run in results["runs"]):
            raise TypeError("a run's name is no text")
        if len(results["prompts"]) != len(results["seeds"]):
            raise ValueError(f"{len(results['prompts'])} prompts and {len(results['seeds'])} seeds")
    return results


@contextlib.contextmanager
def following_the_schema(file: Path) -> Iterator[None]:
    """Whatever goes wrong with the values of a results.json is one line that names the file."""
    from jinja2 import TemplateError

    try:
        yield
    except UserError:
        raise
    except (KeyError, TypeError, AttributeError, IndexError, ArithmeticError, ValueError, TemplateError) as error:
        raise UserError(f"{file} does not follow schema {SCHEMA}: {type(error).__name__} {error}; write it again with this obsdiff") from None


def section(results: dict[str, Any], folder: Path, colours: dict[str, str]) -> dict[str, Any]:
    """What the template shows of one results.json."""
    runs = results["runs"]
    return {
        "dense": results["dense"],
        "settings": results.get("settings", {}),
        "versions": results.get("versions", {}),
        "prompts": [
            {"text": prompt, "pictures": [picture(folder, e["images"], i) for e in [{"images": results.get("dense_images", [])}, *runs]]}
            for i, prompt in enumerate(results["prompts"])
        ],
        "names": ["dense", *(run["name"] for run in runs)],
        "dense_cost": results.get("dense_cost", {}),
        "threads": results.get("threads"),
        "calibrated_on": max((run["prompts_calibrated_on"] for run in runs if "prompts_calibrated_on" in run), default=None),
        "runs": [run_row(run) for run in runs],
        "metrics": [METRICS[metric].title for metric in measured_metrics(results)],
        "quality": {name: [quality_cell(results, metric, name) for metric in measured_metrics(results)] for name in [DENSE, *(run["name"] for run in runs)]},
        "legend": LEGEND,
        "reasons": reasons(results),
        "error_plot": error_plot(runs, colours),
        "layer_plot": layer_plot(runs, colours),
        "time_plot": time_plot(runs, colours),
    }


def picture(folder: Path, images: list[str], index: int) -> str:
    """A picture as a data URL; empty where it is missing."""
    if index >= len(images):
        return ""
    file = (folder / images[index]).resolve()
    if not file.is_relative_to(folder.resolve()) or not file.is_file():
        raise UserError(f"{folder / 'results.json'}: there is no picture {images[index]!r} in its folder")
    return "data:image/png;base64," + base64.b64encode(file.read_bytes()).decode()


def quality_cell(results: dict[str, Any], metric: str, name: str) -> dict[str, str]:
    """A figure of a pipeline: "value", "interval", and "mark" where it can't be told from the best of its column."""
    figures, about = figures_of(results, metric), METRICS[metric]
    if name not in figures:
        return {"value": about.of_dense if name == DENSE else "", "interval": "", "mark": ""}
    value, low, high = (f"{figures[name][key]:.{about.decimals}f}" for key in ("value", "low", "high"))
    return {"value": value, "interval": f"{low} to {high}", "mark": "~" if name in near_best(figures, about.higher_is_better) else ""}


def run_row(run: dict[str, Any]) -> dict[str, Any]:
    """Figures of one run for the table."""
    cost, layers = run["cost"], run["layers"]
    targeted = sum(row["shape"][0] * row["shape"][1] for row in layers)
    errors = sorted(row["error"] for row in layers)
    return {
        "name": run["name"],
        "sparsity": sum(row["sparsity"] * row["shape"][0] * row["shape"][1] for row in layers) / max(1, targeted),
        "layers": len(layers),
        "layer_error": errors[len(errors) // 2] if errors else None,
        "parameters": cost.get("parameters"),
        "zeros": cost.get("zeros"),
        "bytes": cost.get("bytes_on_disk"),
        "seconds": sum(cost.get("seconds", {}).values()),
        "gone": in_words(cost),
        "macs": cost.get("macs", {}).get("total"),
        "step": cost.get("step"),
        "picture": cost.get("picture"),
        "peak": cost.get("memory", {}).get("peak_bytes"),
    }


def error_plot(runs: list[dict], colours: dict[str, str]) -> str:
    """Relative latent error of every run, with its interval."""
    figure, axes = canvas(6.4, 0.45 * len(runs) + 0.9)
    for i, run in enumerate(runs):
        m = run["metrics"]["relative_latent_error"]
        axes.barh(i, m["value"], color=colours[run["name"]], height=0.6)
        axes.plot([m["low"], m["high"]], [i, i], color=GREY, linewidth=1.5)
        axes.text(m["high"], i, f"  {m['value']:.4f}", va="center", color=GREY)
    axes.set_yticks(range(len(runs)), [in_plot(run["name"]) for run in runs])
    axes.invert_yaxis()
    axes.set_xlim(0, 1.18 * max((run["metrics"]["relative_latent_error"]["high"] for run in runs), default=1))
    axes.set_xlabel("relative latent error against dense (lower is better; line: 95 % interval over prompts)")
    return as_svg(figure)


def layer_plot(runs: list[dict], colours: dict[str, str]) -> str:
    """Layer error along the depth, one line a run."""
    figure, axes = canvas(9.0, 3.2)
    for run in runs:
        errors = [max(row["error"], 1e-12) for row in run["layers"]]
        axes.plot(range(len(errors)), errors, label=in_plot(run["name"]), color=colours[run["name"]], linewidth=1.3)
    axes.set_yscale("log")
    axes.set_xlabel("pruned layer, in forward order")
    axes.set_ylabel("layer error")
    if runs:
        axes.legend(frameon=False, labelcolor=GREY, ncols=4, loc="upper center", bbox_to_anchor=(0.5, 1.2))
    return as_svg(figure)


def time_plot(runs: list[dict], colours: dict[str, str]) -> str:
    """Seconds of each phase, one bar a run."""
    figure, axes = canvas(6.4, 0.45 * len(runs) + 1.1)
    phases = list(dict.fromkeys(phase for run in runs for phase in run["cost"].get("seconds", {})))
    for j, phase in enumerate(phases):
        lefts = [sum(run["cost"]["seconds"].get(p, 0) for p in phases[:j]) for run in runs]
        widths = [run["cost"]["seconds"].get(phase, 0) for run in runs]
        axes.barh(range(len(runs)), widths, left=lefts, label=phase, color=COLOURS[j % len(COLOURS)], height=0.6)
    axes.set_yticks(range(len(runs)), [in_plot(run["name"]) for run in runs])
    axes.invert_yaxis()
    axes.set_xlabel("seconds to prune")
    if phases:
        axes.legend(frameon=False, labelcolor=GREY, ncols=4, loc="upper center", bbox_to_anchor=(0.5, 1.35))
    return as_svg(figure)


def in_plot(name: str) -> str:
    """A name as matplotlib shows it: a dollar is a dollar, no formula."""
    return name.replace("$", r"\$")


def canvas(width: float, height: float) -> tuple[Any, Any]:
    """A transparent figure whose grey texts and lines read on light and on dark."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    with rc_context({"axes.labelcolor": GREY, "xtick.color": GREY, "ytick.color": GREY, "axes.edgecolor": GREY, "font.size": 9}):
        figure = Figure(figsize=(width, height), layout="constrained")
        axes = figure.subplots()
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def as_svg(figure: Any) -> str:
    """Inline SVG, texts kept as text in the page's own font."""
    from matplotlib import rc_context

    buffer = io.StringIO()
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "obsdiff", "font.family": "sans-serif"}):
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    text = buffer.getvalue()
    return text[text.index("<svg") :]
