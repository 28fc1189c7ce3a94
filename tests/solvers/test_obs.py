"""Optimal Brain Surgeon against its definition, in float64."""

import itertools
from dataclasses import replace
from importlib import import_module

import pytest
import torch

from benchmarks.plain.solve import solve as column_by_column
from obsdiff.errors import NotPositiveDefinite
from obsdiff.solvers import SOLVERS
from obsdiff.solvers.obs import obs, obs_each
from obsdiff.solvers.problem import Target, layer_error, squared_error
from obsdiff.solvers.sweep import Plan, swept
from obsdiff.solvers.upper_factor import upper_factor
from tests.solvers.problems import best_kept, problem, seen

HALF = Target(0.5)


def by_definition(weight: torch.Tensor, hessian: torch.Tensor, kept: torch.Tensor) -> torch.Tensor:
    """The sweep by its definition: it fixes column after column, and re-solves all to the right."""
    row = weight.clone()
    for q in range(len(row)):
        row[q] = row[q] * kept[q]
        row = best_kept(weight, hessian, row, list(range(q + 1, len(row))))
    return row


def test_the_weights_of_a_whole_last_block_are_the_constrained_least_squares_optimum():
    w, h = problem(8, 160)
    kept = torch.rand(8, 160, generator=torch.Generator().manual_seed(1)) > 0.5
    kept[:, 128:] = True
    columns = iter([kept[:, :128], kept[:, 128:]])
    with upper_factor(h, 0.0, w.dtype) as factor:
        found = swept([w], factor, Plan(lambda s: ~next(columns).T, 128))
    for before, after in zip(w, found.weights[0], strict=True):
        torch.testing.assert_close(
            after, best_kept(before, h, after, list(range(128, 160))), rtol=1e-9, atol=1e-9
        )


@pytest.mark.parametrize("columns", [6, 33, 131])
def test_the_sweep_is_its_definition(columns):
    """Every column is solved for given those to its left, across strips and a block border."""
    w, h = problem(2, columns)
    (s,) = obs([w], seen(h), replace(HALF, damping=0.0))
    for before, after, kept in zip(w, s.weight, s.kept, strict=True):
        torch.testing.assert_close(after, by_definition(before, h, kept), rtol=1e-8, atol=1e-8)


@pytest.mark.slow
def test_a_row_of_six_against_all_subsets_of_its_size():
    """OBS chooses one of the best of the 20 ways to keep 3 of 6 columns in sweep order.

    Its reported loss is the true one: half of the increase of the row's error.
    """
    ranks = []
    for seed in range(20):
        w, h = problem(1, 6, seed=seed)
        (s,) = obs([w], seen(h), replace(HALF, damping=0.0))
        losses = {}
        for subset in itertools.combinations(range(6), 3):
            kept = torch.zeros(6, dtype=torch.bool)
            kept[list(subset)] = True
            d = by_definition(w[0], h, kept) - w[0]
            losses[subset] = (d @ h @ d / 2).item()
        chosen = losses[tuple(s.kept[0].nonzero().flatten().tolist())]
        assert s.loss == pytest.approx(chosen, rel=1e-9)
        ranks.append(sorted(losses.values()).index(chosen))
    assert sum(ranks) / len(ranks) < 3


@pytest.mark.parametrize("group", [None, (2, 4), (1, 4)])
def test_the_layer_error_is_below_magnitudes(group):
    for seed in range(5):
        w, h = problem(32, 192, seed=seed)
        target = Target(1 - group[0] / group[1], group) if group else HALF
        errors = {
            name: layer_error(w, SOLVERS[name]([w], seen(h), target)[0].weight, h)
            for name in ("obs", "magnitude")
        }
        assert errors["obs"] < errors["magnitude"]


def test_compensation_reduces_the_error_and_is_optional():
    w, h = problem(32, 192)
    repaired, bare = (
        obs([w], seen(h), HALF)[0],
        obs([w], seen(h), replace(HALF, compensate=False))[0],
    )
    assert torch.equal(bare.weight, torch.where(bare.kept, w, 0))
    assert layer_error(w, repaired.weight, h) < layer_error(w, bare.weight, h)


def test_matrices_that_share_an_input_are_pruned_as_if_alone():
    w, h = problem(30, 160)
    together = obs(list(w.split([10, 15, 5])), seen(h), HALF)
    alone = [obs([part], seen(h), HALF)[0] for part in w.split([10, 15, 5])]
    for a, b in zip(together, alone, strict=True):
        assert torch.equal(a.kept, b.kept)
        torch.testing.assert_close(a.weight, b.weight)


@pytest.mark.parametrize("stacked", [0, 3, 100], ids=["alone", "by threes", "all at once"])
@pytest.mark.parametrize("group", [None, (2, 4)])
def test_several_targets_from_one_factor_are_solved_as_if_alone(stacked, group, monkeypatch):
    w, h = problem(30, 160)
    weights = list(w.split([10, 15, 5]))
    monkeypatch.setattr(import_module(obs.__module__), "STACKED", stacked * w.numel())
    targets = [Target(share / 10, group) for share in range(1, 9)]
    found = list(obs_each(weights, seen(h), targets))
    assert len(found) == len(targets)
    for solutions, target in zip(found, targets, strict=True):
        for a, b in zip(solutions, obs(weights, seen(h), target), strict=True):
            assert torch.equal(a.kept, b.kept)
            torch.testing.assert_close(a.weight, b.weight)
            assert (a.loss, a.squared_error) == pytest.approx((b.loss, b.squared_error))


def test_targets_of_one_sweep_differ_in_their_shares_alone():
    w, h = problem(8, 64)
    with pytest.raises(ValueError, match="differ in their shares alone"):
        list(obs_each([w], seen(h), [HALF, replace(HALF, group=(2, 4))]))


def test_dead_inputs_lose_their_weights():
    w, h = problem(8, 64)
    dead = torch.tensor([3, 40])
    h[dead] = 0
    h[:, dead] = 0
    (s,) = obs([w], seen(h), HALF)
    assert (s.weight[:, dead] == 0).all()
    assert s.weight.isfinite().all()


def test_a_rank_deficient_hessian_is_damped_until_it_can_be_factored():
    w, _ = problem(8, 64)
    x = torch.randn(10, 64, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    h = 2 * x.T @ x
    (s,) = obs([w], seen(h), HALF)
    assert s.weight.isfinite().all()
    assert layer_error(w, s.weight, h) < 0.1
    (shifted,) = obs([w], seen(h - 0.02 * h.diagonal().mean() * torch.eye(64)), HALF)
    assert shifted.damping == pytest.approx(0.1)  # one step up the ladder, and recorded


def test_a_hessian_that_the_damping_ladder_cannot_repair_is_an_error():
    w, h = problem(8, 64)
    with pytest.raises(NotPositiveDefinite, match=r"0\.01 to 10"):
        obs([w], seen(-h), HALF)
    h[0, 0] = float("inf")
    with pytest.raises(NotPositiveDefinite, match="inf or NaN"):
        obs([w], seen(h), HALF)


@pytest.mark.parametrize("group", [None, (2, 4)])
def test_the_plain_algorithm_in_float64_has_the_same_mask_and_error(group):
    """99.9 % of the mask and the layer error within 0.5 %, with a Hessian of either precision.

    Both algorithms prune with the same Hessian, obs in float32.
    """
    w, h = problem(128, 512)
    plain = column_by_column(w, h, 0.5, group)
    for hessian in (h, h.float()):
        (s,) = obs([w.float()], seen(hessian), Target(0.5, group))
        assert (s.kept != (plain != 0)).double().mean() < 1e-3
        assert layer_error(w, s.weight, h) == pytest.approx(layer_error(w, plain, h), rel=5e-3)


def test_float32_agrees_with_float64():
    w, h = problem(64, 320)
    exact, quick = obs([w], seen(h), HALF)[0], obs([w.float()], seen(h.float()), HALF)[0]
    assert (exact.kept != quick.kept).double().mean() < 1e-3
    assert layer_error(w, quick.weight, h) == pytest.approx(
        layer_error(w, exact.weight, h), rel=1e-3
    )


@pytest.mark.parametrize("group", [None, (2, 4)])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-9), (torch.float32, 1e-4)])
def test_its_squared_error_is_that_of_the_weight(group, dtype, tolerance):
    w, h = problem(40, 320)
    solutions = obs([w.to(dtype), 3 * w.to(dtype)], seen(h.to(dtype)), Target(0.5, group))
    for s, before in zip(solutions, (w, 3 * w), strict=True):
        expected = squared_error(before, s.weight, h)
        assert s.squared_error == pytest.approx(expected, rel=tolerance)


def test_the_squared_error_is_unknown_without_repair_rounded_or_below_the_damping():
    w, h = problem(8, 64)
    unknown = [
        obs([w], seen(h), replace(HALF, compensate=False)),
        obs([w.bfloat16()], seen(h.float()), HALF),
        obs([w], seen(h * 1e-6 + torch.eye(64)), replace(HALF, damping=1e6)),
    ]
    assert [s.squared_error for (s,) in unknown] == [None] * 3
