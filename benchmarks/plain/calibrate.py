"""Calibration of one package as the paper does it: whole calls of the pipeline, from text to
picture, with a Hessian for every layer.

    alpha of a step: OBS-Diff, timestep weighting; both halves of a guided batch are counted

No state is shared between packages: text is encoded again, pictures are decoded and discarded.

References:
    Zhu et al., "OBS-Diff: Accurate Pruning for Diffusion Models in One-Shot", 2025.
        https://arxiv.org/abs/2510.06751
"""

from typing import Any

import torch
from torch import Tensor, nn

from obsdiff.calibration.step_weights import step_weight

from .hessian import RunningHessian

BATCH = 4


class Steps:
    """Counts the finished steps of the current call, as the pipeline's callback."""

    done = 0

    def __call__(
        self, pipe: Any, index: int, timestep: Tensor, tensors: dict[str, Tensor]
    ) -> dict[str, Tensor]:
        self.done = index + 1
        return tensors


def gather(
    pipe: Any,
    denoiser: nn.Module,
    layers: list[str],
    prompts: list[str],
    seeds: list[int],
    settings: dict[str, Any],
) -> dict[str, RunningHessian]:
    """The Hessian of each layer over all prompts and steps; settings as for the pipeline's call,
    num_inference_steps among them."""
    steps, modules = Steps(), {layer: denoiser.get_submodule(layer) for layer in layers}
    hessians = {layer: RunningHessian(module.in_features) for layer, module in modules.items()}
    hooks = [
        module.register_forward_hook(
            hook_of(hessians[layer], steps, settings["num_inference_steps"])
        )
        for layer, module in modules.items()
    ]
    try:
        for i in range(0, len(prompts), BATCH):
            steps.done = 0
            draw(
                pipe,
                prompts[i : i + BATCH],
                seeds[i : i + BATCH],
                settings | {"callback_on_step_end": steps},
            )
    finally:
        for hook in hooks:
            hook.remove()
    return hessians


def hook_of(hessian: RunningHessian, steps: Steps, total: int) -> Any:
    def hook(module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
        hessian.update(args[0].detach(), step_weight("log_decrease", steps.done, total, 0.8, 1.2))

    return hook


def draw(
    pipe: Any, prompts: list[str], seeds: list[int], settings: dict[str, Any], output: str = "np"
) -> Any:
    """One call of the pipeline, a seed for each prompt."""
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    with torch.no_grad():
        return pipe(prompt=prompts, generator=generators, output_type=output, **settings).images
