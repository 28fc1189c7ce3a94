"""Pure functions on latents: how far a pruned pipeline's pictures are from the dense one's."""

import numpy as np
from torch import Tensor

RESAMPLES = 2000


def squared_errors(pruned: Tensor, dense: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """For each prompt the mean squared difference, and the mean squared deviation of dense from its overall mean: (N,), (N,)."""
    x, d = pruned.double(), dense.double()
    return (x - d).square().flatten(1).mean(1).numpy(), (d - d.mean()).square().flatten(1).mean(1).numpy()


def relative_latent_error(pruned: Tensor, dense: Tensor, seed: int = 0) -> dict[str, float | None]:
    """mean((x - d)^2) / mean((d - mean d)^2) over the final latents (N, ...) of all prompts, same seeds; and its 95 % bootstrap
    interval over prompts. 0 is the same picture, 2 an unrelated one."""
    top, bottom = squared_errors(pruned, dense)
    picks = np.random.default_rng(seed).integers(len(top), size=(RESAMPLES, len(top)))
    low, high = np.quantile(top[picks].mean(1) / bottom[picks].mean(1), [0.025, 0.975])
    return {"value": float(top.mean() / bottom.mean()), "low": float(low), "high": float(high), "why_not": None}
