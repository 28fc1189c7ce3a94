"""How zeros are shared out: against trying everything, and the formulas by hand."""

import math

import pytest
import torch

from obsdiff.allocation.alpha_pruning import by_spectrum, tail_exponent
from obsdiff.allocation.equal_price import GRID, by_loss, interpolated
from obsdiff.allocation.owl import SWING, by_outliers, outlier_ratio
from obsdiff.config.choices import MOST_ALLOCATED


def test_what_a_config_takes_is_what_the_grid_ends_with():
    assert MOST_ALLOCATED["unstructured"] == GRID[-1]


SIZES = torch.tensor([100.0, 300.0, 50.0, 200.0])


def curves(scales: list[float]) -> torch.Tensor:
    """Errors that grow as exp(6 p), times a scale for each tap."""
    return torch.tensor(scales, dtype=torch.float64)[:, None] * torch.expm1(
        6 * torch.tensor(GRID, dtype=torch.float64)
    )


def share_of(shares: torch.Tensor) -> float:
    return ((shares * SIZES).sum() / SIZES.sum()).item()


@pytest.mark.parametrize("share", [0.05, 0.3, 0.5, 0.83, 0.9])
def test_all_together_have_the_share(share):
    values = torch.tensor([1.0, 2.0, 5.0, 3.0])
    for found in (
        by_loss(curves([1, 2, 5, 3]), SIZES, share),
        by_outliers(values, SIZES, share),
        by_spectrum(values, SIZES, share),
    ):
        assert share_of(found) == pytest.approx(share, abs=1e-6)
        assert ((found >= 0) & (found <= GRID[-1])).all()


def test_equal_taps_get_equal_shares():
    for found in (
        by_loss(curves([2] * 4), SIZES[:1].expand(4), 0.5),
        by_outliers(torch.ones(4), SIZES, 0.5),
        by_spectrum(torch.ones(4), SIZES, 0.5),
    ):
        torch.testing.assert_close(
            found, torch.full((4,), 0.5, dtype=torch.float64), atol=0.01, rtol=0
        )


def test_no_allocation_on_a_grid_is_better():
    errors, tries = curves([1, 8, 3, 0.2]), torch.linspace(0, 0.9, 19, dtype=torch.float64)
    found = by_loss(errors, SIZES, 0.5)
    at = interpolated(errors, tries)
    ways = torch.cartesian_prod(*[torch.arange(len(tries))] * 4)
    sizes = torch.tensor(SIZES, dtype=torch.float64)
    enough = ways[tries[ways] @ sizes >= 0.5 * sizes.sum()]
    best = at[torch.arange(4), enough].sum(1).min().item()
    mine = sum(interpolated(errors[i : i + 1], found[i : i + 1]).item() for i in range(4))
    assert mine <= best * 1.001


def test_a_tap_that_costs_nothing_gives_most():
    found = by_loss(curves([1, 1, 0, 1]), SIZES, 0.5)
    assert found[2] == GRID[-1]
    assert share_of(by_loss(curves([1, 1, 1, 1]), SIZES, 0.5)) > share_of(
        found * torch.tensor([1, 1, 0, 1])
    )


def test_interpolation_meets_the_grid():
    errors = curves([1, 3])
    torch.testing.assert_close(
        interpolated(errors, torch.tensor(GRID, dtype=torch.float64)), errors
    )
    assert (
        interpolated(errors, torch.linspace(0, 0.9, 50, dtype=torch.float64)).diff(dim=1) > 0
    ).all()


def test_outliers_keep_more_by_at_most_the_swing():
    found = by_outliers(torch.tensor([0.0, 0.01, 0.02]), torch.ones(3), 0.5)
    assert found.tolist() == pytest.approx([0.5 + SWING, 0.5, 0.5 - SWING], abs=1e-6)


def test_outlier_ratio_counts():
    weight = torch.ones(10, 10)
    weight[0, 0] = 100.0
    assert outlier_ratio(weight, torch.eye(10)) == pytest.approx(0.01)
    assert outlier_ratio(
        torch.ones(10, 10), torch.diag(torch.tensor([10000.0] + [1.0] * 9))
    ) == pytest.approx(0.1)


def test_heavy_tails_have_small_exponents():
    g = torch.Generator().manual_seed(0)
    q, r = (torch.linalg.qr(torch.randn(200, 200, generator=g))[0] for _ in range(2))
    powers = {
        a: q @ torch.diag(torch.arange(1, 201.0) ** (-0.5 / (a - 1))) @ r for a in (2.0, 4.0)
    }  # the i-th eigenvalue of a density x^-a falls as i^(-1 / (a - 1))
    found = {a: tail_exponent(w) for a, w in powers.items()}
    for a, exponent in found.items():
        assert exponent == pytest.approx(a, rel=0.15)
    assert by_spectrum(torch.tensor(list(found.values())), torch.ones(2), 0.5).diff().item() > 0


@pytest.mark.parametrize("seed", range(60))
def test_rounding_leads_to_no_share_that_a_config_would_refuse(seed):
    g = torch.Generator().manual_seed(seed)
    taps = 1 + seed % 30
    errors = (
        torch.rand(taps, 9, generator=g, dtype=torch.float64).cumsum(1)
        * 10 ** (2 * torch.randn(taps, 1, generator=g, dtype=torch.float64))
    ).square()
    sizes = torch.randint(1, 10000, (taps,), generator=g).double()
    for share in (0.0, 0.77, 0.89, 0.9):
        found = by_loss(errors, sizes, share)
        assert (found @ sizes / sizes.sum()).item() == pytest.approx(share, abs=1e-9)
        assert found.min() >= 0
        assert found.max() <= GRID[-1]


def test_what_has_no_spectrum_does_not_stretch_the_scale():
    """A matrix with one row, or with rows of zeros: zero eigenvalues are no tail."""
    g = torch.Generator().manual_seed(0)
    half = torch.randn(64, 64, generator=g)
    half[30:] = 0
    assert tail_exponent(half) == pytest.approx(tail_exponent(half[:30]), rel=1e-3)
    assert (
        tail_exponent(torch.randn(1, 8, generator=g))
        == tail_exponent(torch.zeros(4, 4))
        == math.inf
    )
    exponents = torch.tensor([2.0, 3.0, math.inf])
    assert (
        by_spectrum(exponents, torch.ones(3), 0.5).tolist()
        == by_spectrum(torch.tensor([2.0, 3.0, 3.0]), torch.ones(3), 0.5).tolist()
    )
    assert by_spectrum(torch.full((2,), math.inf), torch.ones(2), 0.5).tolist() == pytest.approx(
        [0.5, 0.5]
    )
