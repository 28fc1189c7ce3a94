"""Metrics of latents, pictures and features: pruned against dense, and drawn against real ones.

N prompts, one picture each; M real pictures; F features of a picture. Every figure is the dict

    {"value", "low", "high", "why_not", "per_prompt"}

with the value, its 95 % interval over prompts, and one number a prompt, from which the interval is
computed. A mean over prompts has the bootstrap's percentile interval. FID and KID have the
jackknife's interval, value +- 1.96 standard errors, and its pseudo-values as the numbers a prompt:
a bootstrap resample would contain pictures twice, which biases both metrics upwards.

References:
    Wang, Bovik, Sheikh, Simoncelli. Image Quality Assessment: From Error Visibility to Structural
        Similarity. 2004.
    Heusel, Ramsauer, Unterthiner, Nessler, Hochreiter. GANs Trained by a Two Time-Scale Update Rule
        Converge to a Local Nash Equilibrium. 2017. https://arxiv.org/abs/1706.08500
    Binkowski, Sutherland, Arbel, Gretton. Demystifying MMD GANs. 2018.
        https://arxiv.org/abs/1801.01401
    Efron, Tibshirani. An Introduction to the Bootstrap. 1993: chapter 11 (jackknife).
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .bootstrap import bootstrap_interval

GROUPS = 128  # jackknife groups: single prompts up to this number, else groups of equal size
KERNEL_ROWS = 1024  # rows of a kernel matrix computed at once
Figure = dict[str, Any]


def not_run(why: str) -> Figure:
    """Return the figure of a metric that was not measured.

    Args:
        why: the reason; its whitespace is normalised.
    """
    return {
        "value": None,
        "low": None,
        "high": None,
        "why_not": " ".join(why.split()),
        "per_prompt": None,
    }


def figure_of(value: float, low: float, high: float, per_prompt: np.ndarray) -> Figure:
    """Return a measured figure, per_prompt (N,), as JSON values.

    JSON has no NaN and no infinity: a figure with one has no value, but the reason.
    """
    wrong = int((~np.isfinite(per_prompt)).sum())
    if wrong:
        return not_run(f"{wrong} of {len(per_prompt)} values are NaN or infinite")
    if not np.isfinite([value, low, high]).all():
        return not_run(f"the figure is {float(value)}, its interval {float(low)} to {float(high)}")
    return {
        "value": float(value),
        "low": float(low),
        "high": float(high),
        "why_not": None,
        "per_prompt": [float(x) for x in per_prompt],
    }


def mean_of(per_prompt: np.ndarray, seed: int = 0) -> Figure:
    """Return the mean over prompts and its 95 % bootstrap interval.

    Args:
        per_prompt: one number a prompt (N,).
        seed: of the bootstrap.
    """
    if not np.isfinite(per_prompt).all():
        return figure_of(np.nan, np.nan, np.nan, per_prompt)
    low, high = bootstrap_interval(lambda picks: per_prompt[picks].mean(1), len(per_prompt), seed)
    return figure_of(per_prompt.mean(), low, high, per_prompt)


def squared_errors(pruned: Tensor, dense: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Return mean((x - d)^2) and mean((d - mean d)^2) of each prompt (N,), for latents (N, ...)."""
    x, d = pruned.double(), dense.double()
    difference = (x - d).square().flatten(1).mean(1)
    deviation = (d - d.mean()).square().flatten(1).mean(1)
    return difference.numpy(), deviation.numpy()


def relative_latent_error(pruned: Tensor, dense: Tensor, seed: int = 0) -> Figure:
    """Return mean((x - d)^2) / mean((d - mean d)^2) over all prompts, with its bootstrap interval.

    0 is the same picture, about 2 an unrelated one.

    Args:
        pruned: final latents x (N, C, h, w) of the pruned pipeline.
        dense: final latents d (N, C, h, w) of the dense one, from the same seeds.
        seed: of the bootstrap.

    Returns:
        The figure; a prompt's number is its mean((x - d)^2) over the common denominator.
    """
    top, bottom = squared_errors(pruned, dense)
    if not bottom.sum():
        return not_run("all latents of the dense pipeline are equal")
    low, high = bootstrap_interval(
        lambda picks: top[picks].mean(1) / bottom[picks].mean(1), len(top), seed
    )
    return figure_of(top.mean() / bottom.mean(), low, high, top / bottom.mean())


def psnr(pruned: Tensor, dense: Tensor) -> Figure:
    """Return the mean peak signal-to-noise ratio in dB, 10 log10(255^2 / MSE); higher is nearer.

    Args:
        pruned: pictures (N, 3, H, W) uint8.
        dense: pictures (N, 3, H, W) uint8 from the same seeds.

    Returns:
        The figure; without a value if two pictures are equal, since their PSNR is infinite.
    """
    from torchmetrics.functional.image import peak_signal_noise_ratio

    equal = int((pruned == dense).flatten(1).all(1).sum())
    if equal:
        return not_run(
            f"{equal} of {len(dense)} pictures are equal to the dense ones: their PSNR is infinite"
        )
    return mean_of(per_image(peak_signal_noise_ratio, pruned, dense))


def ssim(pruned: Tensor, dense: Tensor) -> Figure:
    """Return the mean structural similarity, at most 1, which is the same picture.

    Wang et al. 2004, eq. 13, with a Gaussian window of 11 pixels and standard deviation 1.5.

    Args:
        pruned: pictures (N, 3, H, W) uint8.
        dense: pictures (N, 3, H, W) uint8 from the same seeds.
    """
    from torchmetrics.functional.image import structural_similarity_index_measure

    return mean_of(per_image(structural_similarity_index_measure, pruned, dense))


def per_image(metric: Callable, pruned: Tensor, dense: Tensor) -> np.ndarray:
    """Return a metric of torchmetrics for each pair of pictures (N, 3, H, W): (N,)."""
    pairs = zip(pruned[:, None].float(), dense[:, None].float(), strict=True)
    return np.array([metric(x, d, data_range=255.0).item() for x, d in pairs])


def fid(drawn: Tensor, real: Tensor) -> Figure:
    """Return the Frechet distance of the Gaussians of drawn and real features; 0 if they are equal.

    Heusel et al. 2017, eq. 6. It is biased upwards for few pictures: compare figures of equal N.

    Args:
        drawn: features (N, F), N >= 3.
        real: features (M, F), M >= 2.
    """
    x, r = drawn.double(), real.double()
    if too_few := count_problem(x, r):
        return not_run(too_few)
    mean, root = r.mean(0), covariance_root(r)
    return jackknife(lambda rows: frechet_distance(x[rows], mean, root), len(x))


def count_problem(drawn: Tensor, real: Tensor) -> str:
    """Return what is wrong with the numbers of pictures for FID and KID; "" if nothing is."""
    if len(drawn) >= 3 and len(real) >= 2:
        return ""
    return f"expected at least 3 drawn pictures and 2 real ones, found {len(drawn)} and {len(real)}"


def covariance_root(features: Tensor) -> Tensor:
    """Return R (F, F) with R R^T the covariance of features (M, F)."""
    centred = features - features.mean(0)
    values, vectors = torch.linalg.eigh(centred.T @ centred / (len(features) - 1))
    return vectors * values.clamp(min=0).sqrt()


def frechet_distance(drawn: Tensor, mean: Tensor, root: Tensor) -> float:
    """Return |m - mean|^2 + tr S + tr R R^T - 2 tr (S R R^T)^(1/2).

    The eigenvalues of S R R^T are the squared singular values of (drawn - m) R / sqrt(N - 1).

    Args:
        drawn: features (N, F) with mean m and covariance S.
        mean: mean (F,) of the real features.
        root: R (F, F), from covariance_root of the real features.
    """
    shift = drawn.mean(0) - mean
    centred = (drawn - drawn.mean(0)) / (len(drawn) - 1) ** 0.5
    overlap = torch.linalg.svdvals(centred @ root).sum()
    return float(shift.square().sum() + centred.square().sum() + root.square().sum() - 2 * overlap)


def kid(drawn: Tensor, real: Tensor) -> Figure:
    """Return the kernel inception distance: about 0, of either sign, for equal distributions.

    The unbiased estimate of the squared maximum mean discrepancy under the kernel (x.y / F + 1)^3
    (Binkowski et al. 2018, eq. 3 and 4), from all pictures instead of random subsets.

    Args:
        drawn: features (N, F), N >= 3.
        real: features (M, F), M >= 2.
    """
    x, r = drawn.double(), real.double()
    if too_few := count_problem(x, r):
        return not_run(too_few)
    among = kernel(x, x)
    across = torch.cat([kernel(rows, r).mean(1) for rows in x.split(KERNEL_ROWS)])
    total = sum(kernel(rows, r).sum() for rows in r.split(KERNEL_ROWS)) - kernel_diagonal(r).sum()
    constant = total / (len(r) * (len(r) - 1))

    def distance(rows: Tensor) -> float:
        n, part = len(rows), among[rows][:, rows]
        return float(
            (part.sum() - part.diag().sum()) / (n * (n - 1)) + constant - 2 * across[rows].mean()
        )

    return jackknife(distance, len(x))


def kernel(x: Tensor, y: Tensor) -> Tensor:
    """Return (x.y / F + 1)^3 of features (N, F) and (M, F): (N, M)."""
    return (x @ y.T / x.shape[1] + 1) ** 3


def kernel_diagonal(x: Tensor) -> Tensor:
    """Return the diagonal (N,) of kernel(x, x) for features (N, F)."""
    return (x.square().mean(1) + 1) ** 3


def jackknife(statistic: Callable[[Tensor], float], n: int) -> Figure:
    """Return a statistic with its interval, value +- 1.96 jackknife standard errors.

    The pseudo-value of a group of g rows is (n / g) whole - (n / g - 1) without
    (Efron and Tibshirani 1993, eq. 11.10).

    Args:
        statistic: maps row indices (g,) to a value.
        n: number of rows.
    """
    everything = torch.arange(n)
    whole = statistic(everything)
    pseudo = []
    for group in np.array_split(np.arange(n), min(n, GROUPS)):
        share = n / len(group)
        without = statistic(everything[np.delete(np.arange(n), group)])
        pseudo.append(share * whole - (share - 1) * without)
    half = 1.96 * np.std(pseudo, ddof=1) / len(pseudo) ** 0.5
    return figure_of(whole, whole - half, whole + half, np.array(pseudo))
