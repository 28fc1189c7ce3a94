"""Hessians of tokens weighted by the effect of their errors on the picture.

    python -m benchmarks.gradient_weights [--model emoji-unet] [--prompts 100]
        [--method alps obs] [--pattern 2:4 0.5]

The gradient of a random projection of the guided output u + s (c - u), by every tapped layer's
output, measures the effect of a token's error there: ||g||^2 in the output's squared error, to
first order. Hessians of the same tokens are summed uniformly, weighted by that, by its root, and by
its root over the call's mean, so that steps count the same. The output: evenness of the weights,
relative latent errors over held-out prompts, and paired differences to uniform weights, with
standard errors.
"""

import argparse
import statistics
from itertools import product
from typing import Any

import torch
from torch import Tensor

from obsdiff import PruningConfig
from obsdiff.calibration.calibration_set import CalibrationSet
from obsdiff.calibration.packed import packed_of
from obsdiff.models.structure import Tap
from obsdiff.pipelines.call import choose_prompts
from obsdiff.pipelines.run import hooked, prepared, replaced

from .asymmetric import PATTERNS
from .paper.hessians import Sums
from .paper.lab import Lab

WAYS = {
    "uniform": torch.ones_like,
    "gradient squared": lambda w: w,
    "gradient": torch.sqrt,
    "gradient, steps alike": lambda w: w.sqrt() / w.sqrt().mean(),
}


class Weighing:
    """Replaces the denoiser's forward: computes with gradients, and adds the call's tokens to the
    sums of every tap and weighting."""

    def __init__(self, lab: Lab, taps: list[Tap]):
        self.lab, self.taps, self.forward = lab, taps, lab.dense.forward
        self.sums = {
            tap: {way: Sums.zeros(lab.shapes[tap.layers[0]][1]) for way in WAYS} for tap in taps
        }
        self.evenness: list[float] = []  # of a tap's weights in a call: mean^2 / mean square
        self.generator = torch.Generator().manual_seed(1)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        read: dict[str, tuple[Tensor, Tensor]] = {}

        def hook(layer: str) -> Any:
            def keep(module: torch.nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
                output.retain_grad()
                read[layer] = (inputs[0].detach(), output)

            return keep

        layers = [layer for tap in self.taps for layer in tap.layers]
        with (
            torch.enable_grad(),
            hooked(
                [
                    self.lab.dense.get_submodule(layer).register_forward_hook(hook(layer))
                    for layer in layers
                ]
            ),
        ):
            out = self.forward(*args, **kwargs)
            u, c = out[0].chunk(2)
            guided = u + self.lab.settings["guidance_scale"] * (c - u)
            (guided * torch.randn(guided.shape, generator=self.generator)).sum().backward()
        for tap in self.taps:
            self.add(tap, [read[layer] for layer in tap.layers])
        self.lab.dense.zero_grad()
        return (
            (out[0].detach(), *out[1:])
            if isinstance(out, tuple)
            else type(out)(sample=out[0].detach())
        )

    def add(self, tap: Tap, read: list[tuple[Tensor, Tensor]]) -> None:
        tokens = read[0][0].flatten(0, -2)
        weights = sum(
            torch.zeros(len(tokens)) if y.grad is None else y.grad.square().sum(-1).flatten()
            for _, y in read
        )
        self.evenness.append(
            (weights.mean().square() / weights.square().mean().clamp_min(1e-30)).item()
        )
        for way, of in WAYS.items():
            weighted, sums = tokens * of(weights).nan_to_num().unsqueeze(1), self.sums[tap][way]
            sums.packed.add_(packed_of(weighted.T @ tokens))
            sums.x.add_(weighted.sum(0))
            sums.samples += len(tokens)
            sums.alpha += of(weights).nan_to_num().sum().item()


def main() -> None:
    p = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    p.add_argument("--model", default="emoji-unet")
    p.add_argument("--prompts", type=int, default=100)
    p.add_argument("--method", nargs="+", default=["alps", "obs"])
    p.add_argument(
        "--pattern",
        nargs="+",
        choices=[name for name in PATTERNS if name != "structured"],
        default=["2:4", "0.5"],
    )
    args = p.parse_args()
    lab, config = Lab(args.model, prompt_set="tuning"), PruningConfig(num_prompts=args.prompts)
    prompts, seeds = choose_prompts(lab.calibration, config)
    weighing = Weighing(lab, lab.taps(config))
    with prepared(lab.pipe) as run, replaced(lab.dense, "forward", weighing):
        for some, their in CalibrationSet(prompts, seeds, lab.settings).batches():
            run.latents(some, their, lab.settings)
    evenness = statistics.median(weighing.evenness)
    print(f"evenness of the weights in a call (1: all alike), median {evenness:.2f}", flush=True)
    for pattern, method in product(args.pattern, args.method):
        base: Tensor | None = None
        for way in WAYS:
            hessians = {
                layer: sums[way] for tap, sums in weighing.sums.items() for layer in tap.layers
            }
            for hessian in hessians.values():
                hessian.shared = True
            denoiser = lab.pruned(
                PruningConfig(method=method, num_prompts=args.prompts, **PATTERNS[pattern]),
                hessians,
            )[0]
            error = lab.figures(denoiser)["relative_latent_error"]
            each = torch.tensor(error["per_prompt"])
            base = each if base is None else base
            change = each - base
            noise = change.std() / len(change) ** 0.5
            print(
                f"{pattern:4} {method:5} {way:22} {error['value']:.4f}  {change.mean():+.4f} "
                f"(standard error {noise:.4f})",
                flush=True,
            )


if __name__ == "__main__":
    main()
