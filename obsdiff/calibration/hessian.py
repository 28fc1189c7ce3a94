"""The Hessian of a layer's squared error, kept as raw weighted sums.

    objective  E_t[ alpha_t ||W X_t - W' X_t||^2 ]         (OBS-Diff, section 3.2)
    Hessian    H = 2 sum_t alpha_t E[X_t X_t^T]            (I, I), the same for every row of W

The sums xx = sum alpha x x^T, x = sum alpha x and sum alpha, and the number of tokens are stored;
the division follows once, at the end. So the sums of batches and processes are added. H
divides by the number of tokens, as in the paper; the mean and the variance of an input divide by
sum alpha, else a variance could be negative.

Products and sums are float32. xx is symmetric: only its lower triangle is summed, in tiles, and
`matrix` mirrors it. Equal tokens of an image (mostly null text tokens) are multiplied once, times
their number.

I inputs of the layer, T tokens, B images.

References:
    Zhu et al., "OBS-Diff: Accurate Pruning for Diffusion Models in One-Shot", 2025.
        https://arxiv.org/abs/2510.06751
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from ..runtime.distributed import REDUCE_ELEMENTS, Ranks, collective
from ..runtime.scratch import disk_errors

COUNTED_PER_COLUMN = 32  # distinct tokens are counted up to this many per column
MIX = 0.6180339887498949  # row sums weigh columns by fractional multiples of the golden ratio
TILE = (256, 512)  # rows and columns of xx that are summed together
SPLIT = 256  # rows whose sums are computed together
FEW = 64  # images with fewer tokens than this are not searched for equal ones
REPEATED = 0.9  # equal tokens of an image are merged if a smaller share than this is distinct


@dataclass
class Hessian:
    """Raw weighted sums of the inputs of one tap.

    Attributes:
        xx: sum of alpha x x^T (I, I); only the lower triangle is summed.
        x: sum of alpha x (I,).
        samples: number of tokens.
        alpha: sum of alpha over the tokens.
        shared: several prunings read the sums, so none may use up their memory.
        seen: one number for each distinct token, up to COUNTED_PER_COLUMN per column.
    """

    xx: Tensor
    x: Tensor
    samples: int = 0
    alpha: float = 0.0
    shared: bool = False
    seen: set[float] = field(default_factory=set, repr=False)

    @classmethod
    def zeros(
        cls, columns: int, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
    ) -> "Hessian":
        """Return the sums of no tokens."""
        return cls(
            torch.zeros(columns, columns, device=device, dtype=dtype),
            torch.zeros(columns, device=device, dtype=dtype),
        )

    @classmethod
    def mapped(cls, columns: int, file: Path) -> "Hessian":
        """Return the sums of no tokens, in a new memory-mapped file (float32).

        The file is allocated at once: if the disk filled up later, the process would be killed.
        """
        with disk_errors(file), file.open("wb") as opened:
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(opened.fileno(), 0, 4 * columns * columns)
        xx = torch.from_file(
            str(file), shared=True, size=columns * columns, dtype=torch.float32
        ).view(columns, columns)
        return cls(xx, torch.zeros(columns))

    @property
    def columns(self) -> int:
        """I, the number of inputs."""
        return self.x.shape[0]

    @property
    def distinct(self) -> int:
        """The number of distinct tokens, at most COUNTED_PER_COLUMN per column.

        Padding and null text tokens repeat, and add no information.
        """
        return len(self.seen)

    def update(self, tokens: Tensor, weight: float = 1.0) -> None:
        """Add the tokens of one denoising step.

        Args:
            tokens: (B, T, I), or (T, I) if their images are unknown.
            weight: alpha of the step.
        """
        sums = row_sums(tokens.reshape(-1, self.columns))
        self.count(sums)
        rows = tokens.reshape(-1, self.columns).to(self.xx)
        a, b = factors(rows, sums, tokens.shape[1]) if tokens.dim() == 3 else (rows, rows)
        for tile, left, right in self.tiles():
            tile.addmm_(a[:, left].T, b[:, right], alpha=weight)
        self.x.add_(rows.sum(0), alpha=weight)
        self.samples += len(rows)
        self.alpha += weight * len(rows)

    def tiles(self) -> Iterator[tuple[Tensor, slice, slice]]:
        """Yield views of xx that cover its lower triangle, with their rows and columns."""
        for top in range(0, self.columns, TILE[0]):
            rows = slice(top, min(top + TILE[0], self.columns))
            for left in range(0, rows.stop, TILE[1]):
                columns = slice(left, min(left + TILE[1], rows.stop))
                yield self.xx[rows, columns], rows, columns

    def count(self, sums: Tensor) -> None:
        """Count distinct tokens by their row sums (T,)."""
        room = COUNTED_PER_COLUMN * self.columns - len(self.seen)
        if room > 0:
            self.seen.update(sums.unique()[:room].tolist())

    def matrix(self) -> Tensor:
        """Return H (I, I): twice the weighted mean of x x^T, both triangles."""
        return self.write(torch.empty_like(self.xx))

    def take_(self) -> Tensor:
        """Return H (I, I) in the memory of xx, which is empty afterwards; a copy of shared sums."""
        if self.shared:
            return self.matrix()
        square = self.write(self.xx)
        self.xx = square.new_empty(0, 0)
        return square

    def diagonal(self) -> Tensor:
        """Return the diagonal of H (I,)."""
        return self.xx.diagonal() * (2.0 / max(1, self.samples))

    def write(self, square: Tensor) -> Tensor:
        """Write both triangles of H into `square` (I, I), which may be xx."""
        for tile, rows, columns in self.tiles():
            part = tile * (2.0 / max(1, self.samples))
            square[rows, columns] = part
            square[columns, rows] = part.T
        return square

    def mean(self) -> Tensor:
        """Return the weighted mean (I,) of every input: sum alpha x / sum alpha, or 0."""
        return self.x / self.alpha if self.samples else torch.zeros_like(self.x)

    def variance(self) -> Tensor:
        """Return the weighted variance (I,) of every input about its `mean`, at least zero."""
        square = self.xx.diagonal() / self.alpha if self.samples else torch.zeros_like(self.x)
        return (square - self.mean().square()).clamp_(min=0)

    def reduce_(self, ranks: Ranks, owner: int | None) -> None:
        """Add the sums of all processes, at `owner` or, for None, in every process.

        Elsewhere xx is empty afterwards.
        """
        if ranks.size == 1:
            return
        numbers = torch.tensor(
            [self.samples, self.alpha], dtype=torch.float64, device=self.x.device
        )
        seen: list[Any] = [None] * ranks.size
        reduce_sums([self.xx, self.x], owner)
        with collective():
            dist.all_reduce(numbers)
            dist.all_gather_object(seen, self.seen)
        self.samples, self.alpha = round(numbers[0].item()), numbers[1].item()
        self.seen = set().union(*seen)
        if owner not in (None, ranks.rank):
            self.xx = self.xx.new_empty(0, 0)


def reduce_sums(sums: list[Tensor], owner: int | None) -> None:
    """Add tensors of all processes in place, in parts; the result is at `owner` or everywhere."""
    with collective():
        for part in (part for tensor in sums for part in tensor.flatten().split(REDUCE_ELEMENTS)):
            if owner is None:
                dist.all_reduce(part)
            else:
                dist.reduce(part, owner)


def row_sums(rows: Tensor) -> Tensor:
    """Return a number for each row (T,): equal for equal rows, and almost never for others."""
    numbers = rows if rows.dtype == torch.float64 else rows.float()
    mix = (
        torch.arange(1, rows.shape[1] + 1, device=rows.device, dtype=torch.float64)
        .mul_(MIX)
        .frac_()
    )
    mix, found, mixed = (
        mix.to(numbers),
        numbers.new_empty(len(rows)),
        numbers.new_empty(min(len(rows), SPLIT), rows.shape[1]),
    )
    for top in range(0, len(rows), SPLIT):  # in one buffer: its allocation costs more than the sum
        part = numbers[top : top + SPLIT]
        torch.sum(torch.mul(part, mix, out=mixed[: len(part)]), 1, out=found[top : top + SPLIT])
    return found


def factors(rows: Tensor, sums: Tensor, image: int) -> tuple[Tensor, Tensor]:
    """Return two matrices a, b with a^T b = sum of x x^T over the rows.

    Args:
        rows: the tokens (T, I) of several images.
        sums: the row sums (T,).
        image: the number of tokens of one image.
    """
    if image < FEW:
        return rows, rows
    pairs = [
        merged(part, own) for part, own in zip(rows.split(image), sums.split(image), strict=True)
    ]
    if all(a is b for a, b in pairs):
        return rows, rows
    return torch.cat([a for a, _ in pairs]), torch.cat([b for _, b in pairs])


def merged(image: Tensor, sums: Tensor) -> tuple[Tensor, Tensor]:
    """Return two matrices a, b with a^T b = x^T x, in which equal tokens are merged.

    Args:
        image: the tokens x (T, I) of one image.
        sums: their row sums (T,).
    """
    distinct, which, times = sums.unique(return_inverse=True, return_counts=True)
    if len(distinct) > REPEATED * len(image):
        return image, image
    one = torch.empty_like(distinct, dtype=torch.long).scatter_(
        0, which, torch.arange(len(image), device=image.device)
    )
    rows = image[one]
    return (rows * times.unsqueeze(1), rows) if torch.equal(rows[which], image) else (image, image)
