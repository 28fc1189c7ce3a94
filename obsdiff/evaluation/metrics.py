"""Pure functions on latents, pictures and features: how far a pruned pipeline's pictures are from the dense one's, and from real ones.

N prompts, one picture each; M real pictures; F numbers in a picture's features. Every figure is

    {"value", "low", "high", "why_not", "per_prompt"}

with its 95 % interval over prompts, and what that interval was made from: one number a prompt. Where a figure is a mean over
prompts, the interval is the bootstrap's. FID and KID are not: drawing prompts twice, as the bootstrap does, puts each picture
beside its copy and makes both of them worse. Their interval is the jackknife's, value +- 1.96 standard errors, and their number a
prompt is the jackknife's pseudo-value.

References:
    Wang, Bovik, Sheikh, Simoncelli. Image Quality Assessment: From Error Visibility to Structural Similarity. 2004.
    Heusel, Ramsauer, Unterthiner, Nessler, Hochreiter. GANs Trained by a Two Time-Scale Update Rule Converge to a Local Nash
        Equilibrium. 2017. https://arxiv.org/abs/1706.08500
    Binkowski, Sutherland, Arbel, Gretton. Demystifying MMD GANs. 2018. https://arxiv.org/abs/1801.01401
    Efron, Tibshirani. An Introduction to the Bootstrap. 1993: chapters 11 (jackknife) and 13 (percentile intervals).
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

RESAMPLES = 2000
GROUPS = 128  # the jackknife leaves out one prompt at a time; with more prompts than this, one group of them
KERNEL_ROWS = 1024  # of a kernel matrix at a time
Figure = dict[str, Any]


def not_run(why: str) -> Figure:
    """The figure of a metric that was not measured."""
    return {
        "value": None,
        "low": None,
        "high": None,
        "why_not": " ".join(why.split()),
        "per_prompt": None,
    }


def figure_of(value: float, low: float, high: float, per_prompt: np.ndarray) -> Figure:
    return {
        "value": float(value),
        "low": float(low),
        "high": float(high),
        "why_not": None,
        "per_prompt": [float(x) for x in per_prompt],
    }


def mean_of(per_prompt: np.ndarray, seed: int = 0) -> Figure:
    """The mean of one number a prompt (N,), and its 95 % bootstrap interval."""
    picks = np.random.default_rng(seed).integers(len(per_prompt), size=(RESAMPLES, len(per_prompt)))
    low, high = np.quantile(per_prompt[picks].mean(1), [0.025, 0.975])
    return figure_of(per_prompt.mean(), low, high, per_prompt)


def squared_errors(pruned: Tensor, dense: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """For each prompt the mean squared difference, and the mean squared deviation of dense from its overall mean: (N,), (N,)."""
    x, d = pruned.double(), dense.double()
    return (x - d).square().flatten(1).mean(1).numpy(), (d - d.mean()).square().flatten(1).mean(
        1
    ).numpy()


def relative_latent_error(pruned: Tensor, dense: Tensor, seed: int = 0) -> Figure:
    """mean((x - d)^2) / mean((d - mean d)^2) over the final latents (N, ...) of all prompts, same seeds; and its 95 % bootstrap
    interval over prompts. 0 is the same picture, 2 an unrelated one. A prompt's number is its part of the mean."""
    top, bottom = squared_errors(pruned, dense)
    picks = np.random.default_rng(seed).integers(len(top), size=(RESAMPLES, len(top)))
    low, high = np.quantile(top[picks].mean(1) / bottom[picks].mean(1), [0.025, 0.975])
    return figure_of(top.mean() / bottom.mean(), low, high, top / bottom.mean())


def psnr(pruned: Tensor, dense: Tensor) -> Figure:
    """Peak signal-to-noise ratio in dB, 10 log10(255^2 / MSE), of pictures (N, 3, H, W) uint8 against the dense ones; higher is
    nearer. Infinite for equal pictures, and then not a figure."""
    from torchmetrics.functional.image import peak_signal_noise_ratio

    equal = int((pruned == dense).flatten(1).all(1).sum())
    if equal:
        return not_run(
            f"{equal} of {len(dense)} pictures are equal to dense's, and their PSNR is infinite"
        )
    return mean_of(per_image(peak_signal_noise_ratio, pruned, dense))


def ssim(pruned: Tensor, dense: Tensor) -> Figure:
    """Structural similarity (Wang et al. 2004, eq. 13; Gaussian window of 11, deviation 1.5) of pictures (N, 3, H, W) uint8 against
    the dense ones: at most 1, which is the same picture."""
    from torchmetrics.functional.image import structural_similarity_index_measure

    return mean_of(per_image(structural_similarity_index_measure, pruned, dense))


def per_image(metric: Callable, pruned: Tensor, dense: Tensor) -> np.ndarray:
    """A metric of torchmetrics, picture by picture: (N,)."""
    pairs = zip(pruned[:, None].float(), dense[:, None].float(), strict=True)
    return np.array([metric(x, d, data_range=255.0).item() for x, d in pairs])


def fid(drawn: Tensor, real: Tensor) -> Figure:
    """Frechet distance of two Gaussians fitted to features (N, F) of drawn and (M, F) of real pictures (Heusel et al. 2017, eq. 6);
    0 is the same. With few pictures it is too high: compare figures of the same N only."""
    x, r = drawn.double(), real.double()
    if len(x) < 3 or len(r) < 2:
        return not_run(
            f"expected at least 3 drawn pictures and 2 real ones, found {len(x)} and {len(r)}"
        )
    mean, root = r.mean(0), covariance_root(r)
    return jackknife(lambda rows: frechet_distance(x[rows], mean, root), len(x))


def covariance_root(features: Tensor) -> Tensor:
    """R with R R^T the covariance (F, F) of features (M, F)."""
    centred = features - features.mean(0)
    values, vectors = torch.linalg.eigh(centred.T @ centred / (len(features) - 1))
    return vectors * values.clamp(min=0).sqrt()


def frechet_distance(drawn: Tensor, mean: Tensor, root: Tensor) -> float:
    """|m - mean|^2 + tr S + tr R R^T - 2 tr (S R R^T)^(1/2), with m and S of drawn (N, F), and mean (F,) and R (F, F) of the real
    ones. The eigenvalues of S R R^T are the squared singular values of (drawn - m) R / sqrt(N - 1)."""
    shift = drawn.mean(0) - mean
    centred = (drawn - drawn.mean(0)) / (len(drawn) - 1) ** 0.5
    overlap = torch.linalg.svdvals(centred @ root).sum()
    return float(shift.square().sum() + centred.square().sum() + root.square().sum() - 2 * overlap)


def kid(drawn: Tensor, real: Tensor) -> Figure:
    """Kernel inception distance: the unbiased estimate of the squared maximum mean discrepancy of features (N, F) and (M, F) under
    the kernel (x.y / F + 1)^3 (Binkowski et al. 2018, eq. 3 and 4), from all pictures instead of random subsets. About 0, above or
    below, for pictures of one kind."""
    x, r = drawn.double(), real.double()
    if len(x) < 3 or len(r) < 2:
        return not_run(
            f"expected at least 3 drawn pictures and 2 real ones, found {len(x)} and {len(r)}"
        )
    among, across = (
        kernel(x, x),
        torch.cat([kernel(rows, r).mean(1) for rows in x.split(KERNEL_ROWS)]),
    )
    total = sum(kernel(rows, r).sum() for rows in r.split(KERNEL_ROWS)) - kernel_diagonal(r).sum()
    constant = total / (len(r) * (len(r) - 1))

    def distance(rows: Tensor) -> float:
        n, part = len(rows), among[rows][:, rows]
        return float(
            (part.sum() - part.diag().sum()) / (n * (n - 1)) + constant - 2 * across[rows].mean()
        )

    return jackknife(distance, len(x))


def kernel(x: Tensor, y: Tensor) -> Tensor:
    return (x @ y.T / x.shape[1] + 1) ** 3


def kernel_diagonal(x: Tensor) -> Tensor:
    return (x.square().mean(1) + 1) ** 3


def jackknife(statistic: Callable[[Tensor], float], n: int) -> Figure:
    """A statistic of n rows, given by their indices, with value +- 1.96 jackknife standard errors. Pseudo-value of a group of g rows:
    (n / g) whole - (n / g - 1) without it (Efron and Tibshirani 1993, eq. 11.10)."""
    everything = torch.arange(n)
    whole = statistic(everything)
    pseudo = []
    for group in np.array_split(np.arange(n), min(n, GROUPS)):
        share = n / len(group)
        without = statistic(everything[np.delete(np.arange(n), group)])
        pseudo.append(share * whole - (share - 1) * without)
    half = 1.96 * np.std(pseudo, ddof=1) / len(pseudo) ** 0.5
    return figure_of(whole, whole - half, whole + half, np.array(pseudo))
