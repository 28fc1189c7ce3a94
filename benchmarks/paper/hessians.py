"""Hessians shared by many experiments: one pass over the calibration prompts, summed step by step,
weighted afterwards.

    H = 2 sum_t alpha_t E[X_t X_t^T]        (OBS-Diff, timestep-aware Hessian)

is linear in the step weights alpha and in the prompts. One dense pass therefore yields the Hessians
of every weighting, of every smaller number of prompts, and of every method and sparsity, since no
pruning enters them.
"""

import contextlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from obsdiff.calibration.call_audit import CallAudit
from obsdiff.calibration.context import CalibratedInputs, CalibrationContext
from obsdiff.calibration.hessian import Hessian
from obsdiff.calibration.hooks import tapped
from obsdiff.calibration.packed import packed_of, tiles
from obsdiff.calibration.step_weights import step_weight
from obsdiff.models.linear_view import layer_shapes
from obsdiff.models.structure import Tap
from obsdiff.pipelines.run import Run
from obsdiff.runtime.progress import counting

LOW, HIGH = 0.8, 1.2  # the paper's a_min and a_max
PAPERS = "log_decrease"

Hessians = dict[str, Hessian]  # by layer; layers of one tap share theirs


class Sums(Hessian):
    """Raw sums of one step. Distinct tokens are not counted, to save memory."""

    def update(
        self,
        tokens: torch.Tensor,
        weight: float = 1.0,
        represented: float | None = None,
        sums: torch.Tensor | None = None,
    ) -> None:
        tokens = tokens.reshape(-1, self.columns)
        for tile, left, right in tiles(self.packed, self.columns):
            tile.addmm_(tokens[:, left].T, tokens[:, right], alpha=weight)
        self.x.add_(tokens.sum(0), alpha=weight)
        self.samples += len(tokens)
        self.alpha += weight * len(tokens)


@dataclass
class ByStep:
    """Unweighted sums of one tap, a Hessian for each step of the run. The calibration hooks accept
    it as a CalibratedInput."""

    run: Run
    steps: list[Hessian]

    @property
    def hessian(self) -> "ByStep":
        """Itself: the hooks update it in place of a Hessian."""
        return self

    def update(
        self,
        tokens: torch.Tensor,
        weight: float = 1.0,
        represented: float | None = None,
        sums: torch.Tensor | None = None,
    ) -> None:
        assert represented is None  # every token is kept
        self.steps[self.run.step].update(tokens)

    def weighted(self, kind: str) -> Hessian:
        """The Hessian of all steps under one weighting."""
        total = Sums.zeros(self.steps[0].columns)
        for t, part in enumerate(self.steps):
            alpha = step_weight(kind, t, len(self.steps), LOW, HIGH)
            total.add_(part, alpha)
        return total


def gather(
    context: CalibrationContext,
    taps: list[Tap],
    steps: int,
    keep: dict[int, list[str]],
    folder: Path,
) -> None:
    """Run the context's calibration set once. keep: number of prompts -> weightings whose Hessians
    are written to `folder` at that point."""
    run, calibration_set = context.run, context.calibration_set
    shapes = layer_shapes(context.denoiser)
    sums = {
        tap: ByStep(run, [Sums.zeros(shapes[tap.layers[0]][1]) for _ in range(steps)])
        for tap in taps
    }
    audit, done = CallAudit(), 0
    with contextlib.ExitStack() as stack:
        stack.enter_context(tapped(context, cast(CalibratedInputs, sums), audit))
        advance = stack.enter_context(counting("one dense pass", len(calibration_set.prompts)))
        for upto in sorted(keep):
            part = replace(
                calibration_set,
                prompts=calibration_set.prompts[done:upto],
                seeds=calibration_set.seeds[done:upto],
            )
            for prompts, seeds in part.batches():
                run.latents(prompts, seeds, calibration_set.settings)
                advance(len(prompts))
            done = upto
            for kind in keep[upto]:
                write(
                    folder / f"{upto:03}-{kind}.safetensors",
                    {tap: by_step.weighted(kind) for tap, by_step in sums.items()},
                )
    audit.check([layer for tap in taps for layer in tap.layers], run.steps)


def write(file: Path, hessians: dict[Tap, Hessian]) -> None:
    """Write the sums of every tap to one file, through a temporary name."""
    tensors: dict[str, torch.Tensor] = {}
    about: dict[str, str] = {}
    for tap, hessian in hessians.items():
        name = "+".join(tap.layers)
        tensors |= {f"{name}:xx": hessian.xx, f"{name}:x": hessian.x}
        about[name] = f"{hessian.samples} {hessian.alpha!r}"
    file.parent.mkdir(parents=True, exist_ok=True)
    beside = file.with_suffix(".part")
    save_file(tensors, beside, about)
    beside.rename(file)


def read(file: Path) -> Hessians:
    found: Hessians = {}
    with safe_open(file, "pt") as stored:
        for name, about in stored.metadata().items():
            samples, alpha = about.split()
            hessian = Sums(
                packed_of(stored.get_tensor(f"{name}:xx")),
                stored.get_tensor(f"{name}:x"),
                samples=int(samples),
                alpha=float(alpha),
            )
            found |= dict.fromkeys(name.split("+"), hessian)
    return found
