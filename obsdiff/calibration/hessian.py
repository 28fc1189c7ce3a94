"""The Hessian of a layer's squared error, kept as raw weighted sums.

    objective  E_t[ alpha_t ||W X_t - W' X_t||^2 ]         (OBS-Diff, timestep-aware Hessian)
    Hessian    H = 2 sum_t alpha_t E[X_t X_t^T]            (I, I), the same for every row of W

The sums xx = sum alpha x x^T, x = sum alpha x and sum alpha, and the number of tokens are stored;
the division follows once, at the end. So the sums of batches and processes are added. H
divides by the number of tokens, as in the paper; the mean and the variance of an input divide by
sum alpha, else a variance could be negative.

Sums are float32, of products that are exact or float32 (products.py). xx is symmetric: only its
lower triangle is summed and stored (packed.py), and `matrix` mirrors it. Tokens may represent
others that were left out (thinning.py): they are summed with a greater weight, and counted as many
times.

Products are computed on the device of x; the triangle may rest elsewhere, and what is read of it is
on the device of x again. An update does not wait for that device, unless the triangle rests
elsewhere: distinct tokens are counted when their number is read.

I inputs of the layer, T tokens, B images.

References:
    Zhu et al., "OBS-Diff: Accurate Pruning for Diffusion Models in One-Shot", 2025.
        https://arxiv.org/abs/2510.06751
"""

import os
from dataclasses import KW_ONLY, dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from ..runtime.distributed import REDUCE_ELEMENTS, Ranks, collective
from ..runtime.precision import float32_products
from ..runtime.scratch import disk_errors
from .packed import diagonal, packed_of, unpacked
from .packed_layout import BAND, packed_size
from .products import add_products_, add_sum_, operands, precision_of

COUNTED_PER_COLUMN = 32  # distinct tokens are counted up to this many per column
MIX = 0.6180339887498949  # row sums weigh columns by fractional multiples of the golden ratio
# p of the p-norm: unlike those of p = 1, norms of few half-precision numbers hardly ever coincide,
# and unlike those of p = 2, they hold all magnitudes from 1e-36 to 1e30
NORM = 1.25
SPLIT = 256  # rows whose sums are computed together


@dataclass
class Hessian:
    """Raw weighted sums of the inputs of one tap.

    Attributes:
        packed: the lower triangle of xx, the sum of alpha x x^T (I, I), on any device.
        x: sum of alpha x (I,), on the device that computes.
        samples: number of tokens, those that were left out included.
        alpha: sum of alpha over the tokens.
        band: rows of the bands of the triangle.
        shared: several prunings read the sums, so none may use up their memory.
        kept: number of tokens that were summed.
        row_sums: a number for each summed token, equal for equal tokens; about twice
            COUNTED_PER_COLUMN per column at most.
        counted: length of `row_sums`, all parts together.
    """

    packed: Tensor
    x: Tensor
    _: KW_ONLY
    band: int = BAND
    samples: float = 0
    alpha: float = 0.0
    shared: bool = False
    kept: int = 0
    row_sums: list[Tensor] = field(default_factory=list, repr=False)
    counted: int = field(init=False)

    def __post_init__(self) -> None:
        self.counted = sum(map(len, self.row_sums))

    @classmethod
    def zeros(
        cls,
        columns: int,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        resting: torch.device | str | None = None,
        band: int = BAND,
    ) -> "Hessian":
        """Return the sums of no tokens.

        Args:
            columns: I.
            device: the device that computes.
            dtype: the format of the sums.
            resting: the device that stores the triangle (None: the one that computes).
            band: rows of the bands of the triangle.
        """
        return cls(
            torch.zeros(packed_size(columns, band), device=resting or device, dtype=dtype),
            torch.zeros(columns, device=device, dtype=dtype),
            band=band,
        )

    @classmethod
    def mapped(cls, columns: int, file: Path, device: torch.device | str = "cpu") -> "Hessian":
        """Return the sums of no tokens, with the triangle in a new memory-mapped file (float32).

        The file is allocated at once: if the disk filled up later, the process would be killed.

        Args:
            columns: I.
            file: the file.
            device: the device that computes.
        """
        size = packed_size(columns)
        with disk_errors(file), file.open("wb") as opened:
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(opened.fileno(), 0, 4 * size)
        packed = torch.from_file(str(file), shared=True, size=size, dtype=torch.float32)
        return cls(packed, torch.zeros(columns, device=device))

    @property
    def columns(self) -> int:
        """I, the number of inputs."""
        return self.x.shape[0]

    @property
    def xx(self) -> Tensor:
        """The sum of alpha x x^T (I, I), a copy with both triangles."""
        return unpacked(self.here, self.columns, band=self.band)

    @property
    def here(self) -> Tensor:
        """The packed triangle on the device that computes."""
        return self.packed.to(self.x.device)

    @property
    def distinct(self) -> int:
        """The number of distinct tokens among those summed, at most COUNTED_PER_COLUMN per column.

        Padding and null text tokens repeat, and add no information.
        """
        self.merge_row_sums()
        return self.counted

    @property
    def most_counted(self) -> int:
        """The largest number of distinct tokens that is counted."""
        return COUNTED_PER_COLUMN * self.columns

    def update(
        self,
        tokens: Tensor,
        weight: float = 1.0,
        represented: float | None = None,
        sums: Tensor | None = None,
    ) -> None:
        """Add tokens of one denoising step.

        Args:
            tokens: (B, T, I) or (T, I).
            weight: alpha of the step.
            represented: the number of tokens that they stand for (None: themselves).
            sums: their `row_sums`, if they are known.
        """
        given = tokens.reshape(-1, self.columns).to(self.x.device)
        rows = operands(given, self.x.dtype)
        if not len(rows):
            return
        count = len(rows) if represented is None else represented
        each = weight * (count / len(rows))
        if not self.counted_all:
            self.count(row_sums(rows) if sums is None else sums)
        with float32_products(precision_of(given)):
            add_products_(self.packed, rows, each, self.band)
            add_sum_(self.x, rows, each)
        self.samples += count
        self.kept += len(rows)
        self.alpha += weight * count

    def add_(self, other: "Hessian", weight: float = 1.0) -> None:
        """Add the sums of other tokens, with all their alphas times `weight`."""
        packed = other.packed if other.band == self.band else packed_of(other.xx, self.band)
        self.packed.add_(packed.to(self.packed.device), alpha=weight)
        self.x.add_(other.x, alpha=weight)
        self.samples += other.samples
        self.kept += other.kept
        self.alpha += weight * other.alpha
        for sums in other.row_sums:
            self.count(sums)

    @property
    def counted_all(self) -> bool:
        """Whether no further distinct token is counted."""
        return self.counted == self.most_counted

    def count(self, sums: Tensor) -> None:
        """Count tokens by their row sums (T,)."""
        if self.counted_all:
            return
        self.row_sums.append(sums)
        self.counted += len(sums)
        if self.counted > 2 * self.most_counted:
            self.merge_row_sums()

    def merge_row_sums(self) -> None:
        """Drop repeated row sums, and those beyond the largest number that is counted."""
        if self.row_sums:
            self.row_sums = [torch.cat(self.row_sums).unique()[: self.most_counted]]
            self.counted = len(self.row_sums[0])

    def matrix(self) -> Tensor:
        """Return H (I, I): twice the weighted mean of x x^T, both triangles."""
        return unpacked(self.here, self.columns, 2.0 / max(1, self.samples), self.band)

    def take_(self) -> Tensor:
        """Return H (I, I); the memory of the sums is released, unless they are shared."""
        square = self.matrix()
        if not self.shared:
            self.packed = self.packed.new_empty(0)
        return square

    def diagonal(self) -> Tensor:
        """Return the diagonal of H (I,)."""
        return self.squares() * (2.0 / max(1, self.samples))

    def squares(self) -> Tensor:
        """Return the diagonal of xx (I,)."""
        return diagonal(self.packed, self.columns, self.band).to(self.x.device)

    def mean(self) -> Tensor:
        """Return the weighted mean (I,) of every input: sum alpha x / sum alpha, or 0."""
        return self.x / self.alpha if self.samples else torch.zeros_like(self.x)

    def variance(self) -> Tensor:
        """Return the weighted variance (I,) of every input about its `mean`, at least zero."""
        square = self.squares() / self.alpha if self.samples else torch.zeros_like(self.x)
        return (square - self.mean().square()).clamp_(min=0)

    def reduce_(self, ranks: Ranks, owner: int | None) -> None:
        """Add the sums of all processes, at `owner` or, for None, in every process.

        Elsewhere the sums are empty afterwards.
        """
        if ranks.size == 1:
            return
        numbers = torch.tensor(
            [self.samples, self.alpha, self.kept], dtype=torch.float64, device=self.x.device
        )
        self.merge_row_sums()
        everywhere: list[Any] = [None] * ranks.size
        reduce_sums([self.packed, self.x], owner)
        with collective():
            dist.all_reduce(numbers)
            dist.all_gather_object(everywhere, [sums.cpu() for sums in self.row_sums])
        self.samples, self.alpha = numbers[0].item(), numbers[1].item()
        self.kept = round(numbers[2].item())
        self.row_sums = [sums for some in everywhere for sums in some]
        self.merge_row_sums()
        if owner not in (None, ranks.rank):
            self.packed = self.packed.new_empty(0)


def reduce_sums(sums: list[Tensor], owner: int | None) -> None:
    """Add tensors of all processes in place, in parts; the result is at `owner` or everywhere."""
    with collective():
        for part in (part for tensor in sums for part in tensor.flatten().split(REDUCE_ELEMENTS)):
            if owner is None:
                dist.all_reduce(part)
            else:
                dist.reduce(part, owner)


def row_sums(rows: Tensor) -> Tensor:
    """Return a number for each row (T,): equal for equal rows, and almost never for others.

    On an accelerator a norm, in one launch. No magnitude in the row exceeds it, so the check of the
    inputs reads it, too.

    Args:
        rows: the tokens (T, I); on an accelerator also (B, T, I), not copied.
    """
    if rows.device.type != "cpu":
        wide = torch.promote_types(rows.dtype, torch.float32)
        return torch.linalg.vector_norm(rows, NORM, dim=-1, dtype=wide).flatten()
    numbers = rows if rows.dtype == torch.float64 else rows.float()
    mix = mixing(rows.shape[1], numbers.dtype)
    parts = [(part * mix).sum(1) for part in numbers.split(SPLIT)]
    return torch.cat(parts) if len(parts) > 1 else parts[0]


@lru_cache(maxsize=256)
def mixing(columns: int, dtype: torch.dtype) -> Tensor:
    """Return the weight (I,) of each column in the row sums, on the CPU."""
    return torch.arange(1, columns + 1, dtype=torch.float64).mul_(MIX).frac_().to(dtype)
