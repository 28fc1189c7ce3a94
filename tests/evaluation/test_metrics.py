"""Every figure by hand or against torchmetrics, and the coverage of its interval."""

import numpy as np
import pytest
import torch
from torch import nn
from torchmetrics.image.fid import FrechetInceptionDistance
from torchmetrics.image.kid import KernelInceptionDistance
from torchmetrics.image.psnr import PeakSignalNoiseRatio
from torchmetrics.image.ssim import StructuralSimilarityIndexMeasure

from obsdiff.evaluation.metrics import (
    GROUPS,
    fid,
    kid,
    mean_of,
    not_run,
    psnr,
    relative_latent_error,
    ssim,
)
from obsdiff.evaluation.report.noise import inside_noise, measured_metrics, near_best, reasons


def pictures(n: int, side: int = 32, seed: int = 0) -> torch.Tensor:
    return torch.randint(
        0, 256, (n, 3, side, side), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed)
    )


def features(n: int, width: int, shift: float = 0.0, seed: int = 0) -> torch.Tensor:
    mixed = torch.randn(width, width, generator=torch.Generator().manual_seed(1)) / width**0.5
    return torch.randn(n, width, generator=torch.Generator().manual_seed(seed)) @ mixed + shift


class AsTheyAre(nn.Module):
    """An extractor for torchmetrics whose inputs are features."""

    def __init__(self, width: int):
        super().__init__()
        self.num_features = width

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x


def test_relative_latent_error_by_hand():
    dense = torch.tensor([[1.0, 3.0], [5.0, 7.0]])  # mean 4, squared deviations 9 1 1 9: mean 5
    pruned = dense + torch.tensor([[1.0, 1.0], [0.0, 2.0]])  # squared differences 1 1 0 4: mean 1.5
    found = relative_latent_error(pruned, dense)
    assert found["value"] == pytest.approx(1.5 / 5)
    assert found["per_prompt"] == pytest.approx([1 / 5, 2 / 5])


def test_the_same_picture_is_zero_and_an_unrelated_one_about_two():
    a, b = torch.randn(2, 40, 4, 8, 8)
    same = relative_latent_error(a, a)
    assert [same[key] for key in ("value", "low", "high", "why_not")] == [0, 0, 0, None]
    found = relative_latent_error(a, b)
    assert found["value"] == pytest.approx(2, abs=0.1)
    assert found["low"] < found["value"] < found["high"]


def test_scale_and_shift_of_the_vae_change_nothing():
    dense, noise = torch.randn(2, 6, 4, 8, 8, dtype=torch.float64)
    pruned = dense + 0.1 * noise
    moved = relative_latent_error(3 * pruned + 1, 3 * dense + 1)
    assert moved["value"] == pytest.approx(relative_latent_error(pruned, dense)["value"])


def test_psnr_by_hand():
    dense = torch.full((2, 3, 16, 16), 100, dtype=torch.uint8)
    pruned = torch.stack(
        [dense[0] + 51, dense[1] + 5]
    )  # a fifth of the range: 10 log10(25); 5 / 255: 10 log10(51^2)
    assert psnr(pruned, dense)["per_prompt"] == pytest.approx(
        [10 * np.log10(25), 20 * np.log10(51)], rel=1e-5
    )


def test_equal_pictures_have_a_reason_instead_of_a_psnr():
    x = pictures(3)
    found = psnr(torch.stack([x[0], x[1], 255 - x[2]]), x)
    assert found["value"] is None
    assert "2 of 3 pictures are equal" in found["why_not"]
    assert ssim(x, x)["value"] == pytest.approx(1)


def test_psnr_and_ssim_are_torchmetrics_means_over_pictures():
    x, d = pictures(4), pictures(4, seed=1)
    peak = PeakSignalNoiseRatio(data_range=255.0, reduction="elementwise_mean", dim=(1, 2, 3))
    structure = StructuralSimilarityIndexMeasure(data_range=255.0)
    assert psnr(x, d)["value"] == pytest.approx(peak(x.float(), d.float()).item(), rel=1e-5)
    assert ssim(x, d)["value"] == pytest.approx(structure(x.float(), d.float()).item(), rel=1e-4)


@pytest.mark.parametrize("drawn", [200, 12])  # more and fewer than the 16 features
def test_fid_is_torchmetrics(drawn):
    x, real = features(drawn, 16, 0.3), features(150, 16, seed=2)
    metric = FrechetInceptionDistance(AsTheyAre(16), normalize=True).set_dtype(torch.float64)
    metric.update(x.double(), real=False)
    metric.update(real.double(), real=True)
    assert fid(x, real)["value"] == pytest.approx(metric.compute().item(), rel=1e-5)


def test_fid_by_hand():
    """Two Gaussians on a line: (m1 - m2)^2 + (s1 - s2)^2."""
    x, real = (
        torch.tensor([[1.0], [3.0], [5.0]]),
        torch.tensor([[0.0], [1.0], [2.0]]),
    )  # means 3 and 1, deviations 2 and 1
    assert fid(x, real)["value"] == pytest.approx(4 + 1)


def test_kid_is_torchmetrics_with_all_pictures():
    x, real = features(60, 16, 0.3), features(60, 16, seed=2)
    metric = KernelInceptionDistance(AsTheyAre(16), subsets=1, subset_size=60, normalize=True)
    metric.update(x.double(), real=False)
    metric.update(real.double(), real=True)
    assert kid(x, real)["value"] == pytest.approx(metric.compute()[0].item(), rel=1e-5)


@pytest.mark.slow
def test_kid_is_the_mean_of_torchmetrics_subsets():
    x, real = features(20, 8, 0.5), features(90, 8, seed=2)
    metric = KernelInceptionDistance(AsTheyAre(8), subsets=3000, subset_size=20, normalize=True)
    metric.update(x.double(), real=False)
    metric.update(real.double(), real=True)
    torch.manual_seed(0)
    mean, deviation = metric.compute()
    assert kid(x, real)["value"] == pytest.approx(mean.item(), abs=4 * deviation.item() / 3000**0.5)


@pytest.mark.parametrize("metric", [fid, kid])
def test_the_jackknife_error_is_the_spread_over_other_prompts(metric):
    real = features(500, 8, seed=99)
    found = [metric(features(40, 8, 0.3, seed=s), real) for s in range(40)]
    errors = [(f["high"] - f["value"]) / 1.96 for f in found]
    assert np.mean(errors) == pytest.approx(np.std([f["value"] for f in found]), rel=0.35)


@pytest.mark.parametrize("metric", [fid, kid])
def test_the_jackknife_groups_many_prompts_and_refuses_too_few(metric):
    real = features(50, 4, seed=2)
    assert len(metric(features(GROUPS + 40, 4), real)["per_prompt"]) == GROUPS
    assert "found 2 and 50" in metric(features(2, 4), real)["why_not"]


def test_the_bootstrap_of_a_mean_is_its_standard_error():
    values = np.random.default_rng(0).normal(size=400)
    found = mean_of(values)
    assert found["value"] == pytest.approx(values.mean())
    assert found["high"] - found["low"] == pytest.approx(2 * 1.96 * values.std() / 20, rel=0.1)


def test_noise_is_judged_prompt_by_prompt():
    rng = np.random.default_rng(0)
    hard = rng.normal(size=64)  # how hard a prompt is moves both runs alike
    best, slightly_worse, alike = (
        mean_of(hard),
        mean_of(hard + 0.1 + 0.01 * rng.normal(size=64)),
        mean_of(hard + 0.5 * rng.normal(size=64)),
    )
    assert slightly_worse["low"] < best["high"]  # their intervals overlap, and yet
    assert not inside_noise(slightly_worse, best)
    assert inside_noise(alike, best)
    assert near_best({"a": best, "b": slightly_worse, "c": alike}, False) == {"a", "c"} - {
        min("ac", key=lambda n: {"a": best, "c": alike}[n]["value"])
    }
    without = [{**figure, "per_prompt": None} for figure in (best, slightly_worse)]
    assert inside_noise(*without)  # then overlapping intervals decide


def test_a_reason_that_all_runs_share_is_one_line():
    runs = [
        {"name": name, "metrics": {"fid": not_run("no real pictures"), "psnr": figure}}
        for name, figure in (("a", not_run("equal")), ("b", mean_of(np.ones(3))))
    ]
    assert reasons({"runs": runs, "prompts": ["a"]}) == [
        "PSNR, dB of a: not run: equal",
        "FID: not run: no real pictures",
    ]
    assert measured_metrics({"runs": runs, "prompts": ["a"]}) == ["psnr"]


def test_metrics_of_distributions_are_hidden_for_few_pictures():
    runs = [{"name": "a", "metrics": {"fid": mean_of(np.ones(3)), "psnr": mean_of(np.ones(3))}}]
    few, enough = ({"runs": runs, "prompts": ["a"] * count} for count in (199, 200))
    assert measured_metrics(few) == ["psnr"]
    assert reasons(few) == [
        "FID: not shown: 199 pictures are too few, below 200 it says little; results.json has it"
    ]
    assert measured_metrics(enough) == ["psnr", "fid"]
    assert reasons(enough) == []
