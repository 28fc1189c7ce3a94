"""The Hessian of a layer's squared error, kept as raw weighted sums.

    objective  E_t[ alpha_t ||W X_t - W' X_t||^2 ]         (OBS-Diff, section 3.2)
    Hessian    H = 2 sum_t alpha_t E[X_t X_t^T]            (I, I), the same for every row of W

Kept are the sums xx = sum alpha x x^T, x = sum alpha x and sum alpha, and the number of tokens; the division comes once,
at the end. So batches, ranks and resumed runs merge by adding. H divides by the number of tokens, as the paper defines it;
the mean and the variance of an input divide by sum alpha, without which a variance can come out negative.

On a CPU the sums are float64: with float32 sums the order of the tokens, hence the batch size, moved 0.3 % of the masks of
the built-in model in two packages; with float64 none (docs/log.md). Other devices, most of which are slow at float64, sum
in float32.

I inputs of the layer, T tokens.

References:
    Zhu et al., "OBS-Diff: Accurate Pruning for Diffusion Models in One-Shot", 2025. https://arxiv.org/abs/2510.06751
"""

from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

ENOUGH = 32  # distinct tokens are counted up to this many per column: more changes nothing
MIX = 0.6180339887498949  # fractional multiples of the golden ratio: fixed, unrelated factors for the row sums


@dataclass
class Hessian:
    """Raw weighted sums of the inputs of one tap: xx (I, I), x (I,), alpha, and how many tokens, how many of them distinct."""

    xx: Tensor
    x: Tensor
    samples: int = 0
    alpha: float = 0.0
    seen: set[float] = field(default_factory=set, repr=False)

    @classmethod
    def zeros(cls, columns: int, device: torch.device | str = "cpu", dtype: torch.dtype | None = None) -> "Hessian":
        """No tokens yet. dtype: float64 on a CPU, float32 elsewhere, unless given."""
        dtype = dtype or (torch.float64 if torch.device(device).type == "cpu" else torch.float32)
        return cls(torch.zeros(columns, columns, device=device, dtype=dtype), torch.zeros(columns, device=device, dtype=dtype))

    @classmethod
    def mapped(cls, columns: int, file: Path) -> "Hessian":
        """No tokens yet, and the sums (float64) in a new memory-mapped file: the system keeps in memory what fits."""
        xx = torch.from_file(str(file), shared=True, size=columns * columns, dtype=torch.float64).view(columns, columns)
        return cls(xx, torch.zeros(columns, dtype=torch.float64))

    @property
    def columns(self) -> int:
        return self.xx.shape[0]

    @property
    def distinct(self) -> int:
        """Different tokens seen, at most ENOUGH per column. Padding and null text tokens repeat, and repeat no knowledge."""
        return len(self.seen)

    def update(self, tokens: Tensor, weight: float = 1.0) -> None:
        """Add tokens (T, I) of one denoising step, weighted by its alpha. Sums stay in the Hessian's own dtype."""
        rows = tokens.to(self.xx)
        self.xx.addmm_(rows.T, rows, alpha=weight)
        self.x.add_(rows.sum(0), alpha=weight)
        self.samples += len(rows)
        self.alpha += weight * len(rows)
        self.count(rows)

    def count(self, rows: Tensor) -> None:
        room = ENOUGH * self.columns - len(self.seen)
        if room > 0:
            mix = torch.arange(1, self.columns + 1, device=rows.device, dtype=torch.float64).mul_(MIX).frac_().to(rows)
            sums = (rows * mix).sum(1).unique()
            self.seen.update(sums[:room].tolist())

    def merge(self, other: "Hessian") -> None:
        """Add another Hessian of the same tap (from another batch, rank or run)."""
        self.xx += other.xx
        self.x += other.x
        self.samples += other.samples
        self.alpha += other.alpha
        self.seen |= other.seen

    def matrix(self) -> Tensor:
        """H (I, I): twice the weighted mean of x x^T."""
        return self.xx * (2.0 / max(1, self.samples))

    def mean(self) -> Tensor:
        """Weighted mean (I,) of every input: sum alpha x / sum alpha; zero without tokens."""
        return self.x / self.alpha if self.samples else torch.zeros_like(self.x)

    def variance(self) -> Tensor:
        """Weighted variance (I,) of every input about its `mean`; rounding below zero counts as zero."""
        square = self.xx.diagonal() / self.alpha if self.samples else torch.zeros_like(self.x)
        return (square - self.mean().square()).clamp_(min=0)
