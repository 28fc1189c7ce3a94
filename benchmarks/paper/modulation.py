"""Ours: modulation layers folded to low rank, whatever it loses. Where pooled text enters, as in
emoji-sd3, with several numbers of calibration prompts; and with the pooled text held fixed, so that
only the time step is left, as in models without pooled text. A UNet has no such layers.

The error of a layer is that of its outputs on held-out inputs, relative to their variance: what
decides whether a run folds it (at most 0.001).
"""

import copy
import statistics
from collections.abc import Mapping
from typing import Any

import torch
from diffusers import FlowMatchHeunDiscreteScheduler
from torch import Tensor, nn

from obsdiff import PruningConfig
from obsdiff.calibration.calibration_set import CalibrationSet
from obsdiff.calibration.modulation import ModulationInputs, gather_modulation
from obsdiff.calibration.modulation_selection import select_modulation
from obsdiff.evaluation.metrics import relative_latent_error
from obsdiff.layerwise.modulation import factors_of, moments_of
from obsdiff.models.folded import fold_
from obsdiff.models.pruned_classes import mark_corrected_
from obsdiff.pipelines.call import choose_prompts

from .lab import REPORTED, Lab, Scheduler
from .rows import Row, Rows, figures_row

POOLED = "pooled_projections"
SEEDS = (0, 1, 2)
COUNTS = (16, 100)  # calibration prompts
SHARES = (0.5, 0.7)  # of a layer's weights
TIME_SHARES = (0.02, 0.05, 0.1)
OTHERWISE = "drawn otherwise"  # the row of one folded model under other schedules
SCHEDULES: dict[str, tuple[int, Scheduler | None]] = {  # steps and sampler
    "10 steps": (10, None),  # those of the calibration
    "5 steps": (5, None),
    "25 steps": (25, None),
    "10 steps, Heun": (10, lambda own: FlowMatchHeunDiscreteScheduler.from_config(own.config)),
}
TIME = "time alone: "  # begins the names of the rows with one pooled text
TIME_PROMPTS = 2  # all read the same


def modulation(lab: Lab, rows: Rows) -> None:
    """Fold to every share, with every number of prompts and every calibration set."""
    fixed = with_fixed_text(lab)
    keep_shares(fixed, rows, TIME_SHARES, TIME_PROMPTS, SEEDS[0], TIME)
    for seed in SEEDS:
        for count in COUNTS:
            keep_shares(lab, rows, SHARES, count, seed)
    rows.keep(OTHERWISE, lambda: otherwise_row(lab))


def keep_shares(
    lab: Lab, rows: Rows, shares: tuple[float, ...], count: int, seed: int, about: str = ""
) -> None:
    """Measure the rows that lack of one calibration set, from one reading of it."""
    names = {share: name_of(about, count, share, seed) for share in shares}
    missing = {share: name for share, name in names.items() if name not in rows.rows}
    if not missing:
        return
    inputs = read(lab, count, seed)
    for share, name in missing.items():
        rows.keep(name, lambda share=share: folded_row(lab, inputs, share))


def read(lab: Lab, count: int, seed: int) -> ModulationInputs:
    """What the modulation layers read in one calibration set."""
    prompts, seeds = choose_prompts(lab.calibration, PruningConfig(num_prompts=count, seed=seed))
    with lab.calibrating(CalibrationSet(prompts, seeds, lab.settings, 1)) as context:
        return gather_modulation(context, list(ranks(lab, SHARES[0])))


def ranks(lab: Lab, share: float) -> dict[str, int]:
    """The largest rank of every modulation layer."""
    config = PruningConfig(target="modulation", modulation=share)
    return select_modulation(type(lab.dense).__name__, lab.shapes, config)


def folded_row(lab: Lab, inputs: ModulationInputs, share: float) -> Row:
    """Fold every layer, and measure."""
    denoiser, found = all_folded(lab, inputs, share)
    return figures_row(lab, denoiser) | {
        "share": share,
        "ranks": sorted({row["rank"] for row in found}),
        "fitted": of_layers([row["error"] for row in found]),
        "layers": of_layers([row["held_out_error"] for row in found]),
    }


def otherwise_row(lab: Lab) -> Row:
    """Fold every layer, and draw held-out names by each schedule, against dense by the same."""
    denoiser, _ = all_folded(lab, read(lab, COUNTS[-1], SEEDS[0]), SHARES[-1])
    found = {}
    for name, (steps, scheduler) in SCHEDULES.items():
        latents = [
            lab.draw(model, {"num_inference_steps": steps}, scheduler, REPORTED[1])[1]
            for model in (denoiser, lab.dense)
        ]
        found[name] = relative_latent_error(*latents)
    return {"share": SHARES[-1], "schedules": found}


def all_folded(
    lab: Lab, inputs: ModulationInputs, share: float
) -> tuple[nn.Module, list[dict[str, Any]]]:
    """A copy of the dense denoiser with every layer folded, and the record of each."""
    denoiser, found = copy.deepcopy(lab.dense), []
    known: dict[int, Any] = {}
    for name, most in ranks(lab, share).items():
        key = id(inputs.fitted[name])
        if key not in known:
            known = {key: moments_of(inputs, name, torch.device("cpu"))}
        layer, tokens = denoiser.get_submodule(name), len(inputs.fitted[name])
        factors, row = factors_of(layer, known[key], most, tokens)
        fold_(denoiser, name, factors.up, factors.down)
        found.append(row)
    mark_corrected_(denoiser)
    return denoiser, found


def of_layers(errors: list[float]) -> dict[str, float]:
    """The median and the largest."""
    return {"median": statistics.median(errors), "largest": max(errors)}


def with_fixed_text(lab: Lab) -> Lab:
    """A lab whose dense model reads one pooled text at every prompt: the mean of a few prompts."""
    fixed = Lab(lab.model, lab.steps, lab.prompts)
    texts = pooled_texts(lab)
    fixed.dense.register_forward_pre_hook(FixedText(texts.mean(0, keepdim=True)), with_kwargs=True)
    return fixed


class FixedText:
    """A hook that gives a denoiser one pooled text (1, P) in place of each of its own."""

    def __init__(self, text: Tensor) -> None:
        self.text = text

    def __call__(
        self, module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Return the arguments with the other text."""
        return args, dict(kwargs) | {POOLED: self.text.to(kwargs[POOLED]).expand_as(kwargs[POOLED])}


def pooled_texts(lab: Lab) -> Tensor:
    """The pooled texts (N, P) of calibration prompts, and that of the empty prompt of guidance."""
    some, _ = choose_prompts(lab.calibration, PruningConfig(num_prompts=16))
    with torch.no_grad():
        return lab.pipe.encode_prompt([*some, ""], None, None, do_classifier_free_guidance=False)[2]


def name_of(about: str, count: int, share: float, seed: int) -> str:
    """Return the name of a row."""
    return f"{about}{count} prompts, {share:.0%}, seed {seed}"
