"""The baseline `off`: whole attentions and FFNs are switched off, nothing is repaired.

Every attention and FFN alone is set to zero weights and the tuning prompts are drawn: its cost is
the relative latent error. To remove a number of weights, those are switched off that have it and
the smallest sum of costs. This needs no calibration, no Hessian and no solver, so what it reaches
says how much of a model is idle, and what of another method's result is due to that.
"""

from .lab import Lab
from .rows import Row, Rows
from .sub_modules import cheapest, switched_off

SWITCHED = (0.1, 0.2, 0.3, 0.4, 0.47, 0.5, 0.6, 0.7, 0.8)  # shares of the weights
ALONE = "alone: "


def alone_rows(lab: Lab, rows: Rows) -> None:
    """Measure what each sub-module costs alone."""
    for name, layers in lab.sub_modules.items():
        rows.keep(f"{ALONE}{name}", lambda layers=layers: alone_row(lab, layers))


def alone_row(lab: Lab, layers: tuple[str, ...]) -> Row:
    error = lab.error_of(switched_off(lab.dense, layers), "tuning")
    return {"metrics": {"relative_latent_error": error}}


def off_row(lab: Lab, least: float) -> Row:
    """Switch off the cheapest sub-modules with at least `least` weights; draw, measure."""
    rows = Rows(lab, "off")
    alone_rows(lab, rows)
    costs = {
        name: rows.rows[f"{ALONE}{name}"]["metrics"]["relative_latent_error"]["value"]
        for name in lab.sub_modules
    }
    chosen = cheapest(costs, lab.weights, least)
    layers = [layer for name in chosen for layer in lab.sub_modules[name]]
    share = sum(lab.weights[name] for name in chosen) / sum(lab.weights.values())
    return {
        "method": "off",
        "sparsity": share,
        "off": chosen,
        "metrics": lab.figures(denoiser := switched_off(lab.dense, layers)),
        "held_out": {"relative_latent_error": lab.error_of(denoiser, "held_out")},
    }
