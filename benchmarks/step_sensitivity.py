"""The effect of an error in each denoising step on the final latents, and Hessians weighted by it
or by guidance.

    python -m benchmarks.step_sensitivity [--model emoji-unet] [--pattern unstructured|2:4]
        [--method obs]

Noise of SIZE times the deviation of the denoiser's output is added to it in one step at a time.
Then the model is pruned from Hessians of which every step and guidance half was summed by itself,
under each weighting. Prints relative latent errors and paired differences to uniform weights, with
standard errors.
"""

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import Tensor, nn

from obsdiff import PruningConfig
from obsdiff.calibration.calibration_set import CalibrationSet
from obsdiff.calibration.call_audit import CallAudit
from obsdiff.calibration.context import CalibratedInputs, CalibrationContext
from obsdiff.calibration.hessian import Hessian
from obsdiff.calibration.hooks import tapped
from obsdiff.calibration.step_weights import step_weight
from obsdiff.config.choices import STEP_WEIGHTINGS
from obsdiff.models.structure import Tap
from obsdiff.pipelines.call import Prompt, choose_prompts
from obsdiff.pipelines.run import Run, hooked

from .paper.hessians import HIGH, LOW, Sums
from .paper.lab import CALIBRATION, Lab

SIZE = 0.01
DRAWN = 8  # prompts that the noise is tried on
EVALUATION = 32


class ByHalf:
    """Sums of one tap by step and guidance half, and of both halves as guidance combines them. The
    calibration hooks accept it as a CalibratedInput."""

    def __init__(self, run: Run, columns: int, steps: int, scale: float):
        self.run, self.scale, self.sums = (
            run,
            scale,
            [tuple(Sums.zeros(columns) for _ in range(3)) for _ in range(steps)],
        )

    @property
    def hessian(self) -> "ByHalf":
        """Itself: the hooks update it in place of a Hessian."""
        return self

    def update(
        self,
        tokens: Tensor,
        weight: float = 1.0,
        represented: float | None = None,
        sums: Tensor | None = None,
    ) -> None:
        assert represented is None  # every token is kept
        u, c = tokens.chunk(2)
        together = (u + self.scale * (c - u)) / ((self.scale - 1) ** 2 + self.scale**2) ** 0.5
        for part, half in zip(self.sums[self.run.step], (u, c, together), strict=True):
            part.update(half)

    def weighted(self, alpha: list[float], halves: tuple[float, float, float]) -> Hessian:
        total = Sums.zeros(self.sums[0][0].columns)
        for a, pair in zip(alpha, self.sums, strict=True):
            for beta, part in zip(halves, pair, strict=True):
                total.add_(part, a * beta)
        return total


@contextmanager
def noise_in(denoiser: nn.Module, run: Run, step: int, energy: list[float]) -> Iterator[None]:
    """The denoiser's output with noise in one step; its mean square is added to `energy`."""
    generator = torch.Generator().manual_seed(step)

    def hook(_module: nn.Module, _args: tuple, output: Any) -> Any:
        if run.step != step:
            return None
        whole = output[0]
        noise = torch.randn(whole.shape, generator=generator) * (SIZE * whole.std())
        energy.append(noise.square().mean().item())
        return (
            (whole + noise, *output[1:])
            if isinstance(output, tuple)
            else type(output)(sample=whole + noise)
        )

    with hooked([denoiser.register_forward_hook(hook)]):
        yield


def sensitivities(lab: Lab, run: Run, prompts: list[Prompt], seeds: list[int]) -> list[float]:
    """Mean squared change of the final latents over that of the denoiser's output, for every
    step."""
    base, found = run.latents(prompts, seeds, lab.settings), []
    for step in range(lab.steps):
        energy: list[float] = []
        with noise_in(lab.dense, run, step, energy):
            change = run.latents(prompts, seeds, lab.settings) - base
        found.append(change.square().mean().item() * len(energy) / sum(energy))
    return found


def gathered(lab: Lab, context: CalibrationContext, taps: list[Tap]) -> dict[Tap, ByHalf]:
    """The sums of all prompts of the context's calibration set."""
    run, calibration_set = context.run, context.calibration_set
    scale = lab.settings["guidance_scale"]
    sums = {tap: ByHalf(run, lab.shapes[tap.layers[0]][1], lab.steps, scale) for tap in taps}
    with tapped(context, cast(CalibratedInputs, sums), CallAudit()):
        for some, their in calibration_set.batches():
            run.latents(some, their, calibration_set.settings)
    return sums


def weightings(
    lab: Lab, found: list[float]
) -> dict[str, tuple[list[float], tuple[float, float, float]]]:
    """Name -> weights of the steps, and of the unconditional half, the conditional one and both
    together: they enter a picture as u + s (c - u). Weighted separately, equal errors of both count
    twice; together they cancel as in the picture."""
    scale, mean = lab.settings["guidance_scale"], sum(found) / len(found)
    measured = [f / mean for f in found]
    halves = torch.tensor([(scale - 1) ** 2, scale**2])
    guided, same = (*(halves / halves.mean()).tolist(), 0.0), (1.0, 1.0, 0.0)
    ways = {
        kind: ([step_weight(kind, t, lab.steps, LOW, HIGH) for t in range(lab.steps)], same)
        for kind in reversed(STEP_WEIGHTINGS)
    }
    ways |= {"measured": (measured, same), "root of measured": ([m**0.5 for m in measured], same)}
    ways |= {
        "uniform, guidance": (ways["uniform"][0], guided),
        "measured, guidance": (measured, guided),
    }
    together = {
        "together": (0.0, 0.0, 1.0),
        "half together": (0.5, 0.5, 1.0),
        "a tenth apart": (0.1, 0.1, 1.0),
    }
    return ways | {
        f"uniform, {name}": (ways["uniform"][0], parts) for name, parts in together.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="emoji-unet")
    parser.add_argument("--pattern", default="unstructured")
    parser.add_argument("--method", default="obs")
    args = parser.parse_args()
    lab = Lab(args.model, prompts=EVALUATION, prompt_set="tuning")
    config = PruningConfig(pattern=args.pattern, method=args.method, num_prompts=CALIBRATION)
    prompts, seeds = choose_prompts(lab.calibration, config)
    with lab.calibrating(CalibrationSet(prompts, seeds, lab.settings)) as context:
        found = sensitivities(lab, context.run, prompts[:DRAWN], seeds[:DRAWN])
        print("sensitivity of each step: " + ", ".join(f"{f:.3g}" for f in found), flush=True)
        sums = gathered(lab, context, lab.taps(config))
    base: Tensor | None = None
    for name, (alpha, halves) in weightings(lab, found).items():
        hessians = {
            layer: by.weighted(alpha, halves) for tap, by in sums.items() for layer in tap.layers
        }
        error = lab.figures(lab.pruned(config, hessians)[0])["relative_latent_error"]
        each = torch.tensor(error["per_prompt"])
        base = each if base is None else base
        change = each - base
        noise = change.std() / len(change) ** 0.5
        print(
            f"{name:20} {error['value']:.4f}  {change.mean():+.4f} (standard error {noise:.4f})",
            flush=True,
        )


if __name__ == "__main__":
    main()
