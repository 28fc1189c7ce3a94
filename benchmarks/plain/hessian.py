"""The Hessian of one layer, as a running mean that every batch scales and adds to.

    n images so far, m new ones:   H <- H n / (n + m) + Y Y^T,   Y = X sqrt(2 alpha / (n + m))

So H = 2 mean over images of alpha X X^T, X (I, tokens of one image): OBS-Diff's Hessian times the
number of tokens of an image, which changes no mask and no weight, since the damping is in units of
H's own diagonal.

References:
    Frantar, Alistarh, "SparseGPT: Massive Language Models Can Be Accurately Pruned in
        One-Shot", 2023. https://arxiv.org/abs/2301.00774
    Zhu et al., "OBS-Diff: Accurate Pruning for Diffusion Models in One-Shot", 2025.
        https://arxiv.org/abs/2510.06751
"""

import math

import torch
from torch import Tensor


class RunningHessian:
    """H (I, I) and the number of images that it is the mean of."""

    def __init__(self, columns: int, dtype: torch.dtype = torch.float32) -> None:
        self.matrix = torch.zeros(columns, columns, dtype=dtype)
        self.images = 0

    def update(self, inputs: Tensor, alpha: float = 1.0) -> None:
        """Add a batch (B, T, I) of one denoising step, weighted by its alpha."""
        more = len(inputs)
        x = inputs.reshape(-1, inputs.shape[-1]).t()
        self.matrix *= self.images / (self.images + more)
        self.images += more
        x = math.sqrt(2 * alpha / self.images) * x.to(self.matrix.dtype)
        self.matrix += x.matmul(x.t())
