"""Low bits: error feedback against nearest rounding and a plain loop, zeros, ranges."""

import itertools

import pytest
import torch

from obsdiff.solvers.problem import squared_error
from obsdiff.solvers.rounding import Grid, gptq, nearest

from .problems import problem


def plain_gptq(weight, kept, hessian, damping, grid):
    """GPTQ as the paper has it: the inverse's factor, and a repair of all columns that follow."""
    added = damping * hessian.diagonal().mean() * torch.eye(len(hessian), dtype=hessian.dtype)
    order = hessian.diagonal().argsort(descending=True)
    inverse = torch.linalg.inv(hessian + added)[order][:, order]
    factor = torch.linalg.cholesky(inverse, upper=True)
    left, found = weight[:, order], torch.zeros_like(weight)
    for i, q in enumerate(order):
        scale = grid.scale[:, q // grid.group].double()
        codes = (left[:, i] / scale).round().clamp(*grid.range)
        found[:, q] = codes * scale * kept[:, q]
        error = (left[:, i] - found[:, q]) / factor[i, i]
        left[:, i:] -= error[:, None] * factor[i, i:]
    return found


@pytest.mark.parametrize("bits", [4, 8])
def test_full_grids_use_the_code_without_a_counterpart(bits):
    """The largest weight of a group is on it, whatever its sign; 4 bits are 1/16 finer for that."""
    weight = torch.randn(64, 256, generator=torch.Generator().manual_seed(0)).double()
    even, full = (way(weight, bits, 64) for way in (Grid.even, Grid.full))
    codes = full.codes(weight).unflatten(1, (-1, 64))
    extreme = weight.unflatten(1, (-1, 64)).abs().argmax(2, keepdim=True)
    assert (codes.gather(2, extreme) == full.range[0]).all()
    assert (full.scale < 0).any()
    assert (full.scale > 0).any()
    shorter = (full.scale.abs() / even.scale).double()
    wanted = (2**bits - 1) / 2**bits
    torch.testing.assert_close(shorter, torch.full_like(shorter, wanted), atol=0, rtol=0.01)
    errors = [(weight - nearest(weight, grid)).square().mean() for grid in (even, full)]
    assert errors[1] / errors[0] == pytest.approx(wanted**2, abs=0.03)


@pytest.mark.parametrize(("bits", "group"), [(4, 64), (4, 32), (8, 64)])
def test_error_feedback_is_the_published_loop(bits, group):
    weight, hessian = problem(6, 192, 400)
    kept = torch.ones_like(weight, dtype=torch.bool)
    grid, before = Grid.full(weight, bits, group), hessian.clone()
    found, damping = gptq(weight, kept, hessian, 0.01, grid, passes=0)
    assert torch.equal(found, plain_gptq(weight, kept, before, 0.01, grid))
    assert torch.equal(hessian, before)
    assert damping == 0.01


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("bits", "group"), [(4, 16), (8, 48)])
def test_feedback_beats_nearest_and_descent_beats_both(bits, group, seed):
    weight, hessian = problem(12, 48, 200, seed)
    masks = torch.rand(weight.shape, generator=torch.Generator().manual_seed(seed)) < 0.6
    for kept in (torch.ones_like(masks), masks):
        pruned = weight * kept
        grid = Grid.full(pruned, bits, group)
        ways = {
            "nearest": nearest(pruned, grid),
            "feedback": gptq(pruned, kept, hessian, 0, grid, passes=0)[0],
            "descent": gptq(pruned, kept, hessian, 0, grid)[0],
            "from dense": gptq(pruned, kept, hessian, 0, grid, target=weight)[0],
        }
        errors = {way: squared_error(pruned, found, hessian) for way, found in ways.items()}
        assert errors["descent"] < min(errors["feedback"], errors["nearest"])
        assert errors["feedback"] < errors["nearest"] or kept is masks
        dense = {way: squared_error(weight, found, hessian) for way, found in ways.items()}
        assert dense["from dense"] <= dense["feedback"]
        for found in ways.values():
            assert not found[~kept].any()
            codes = grid.codes(found)
            assert grid.range[0] <= codes.min() <= codes.max() <= grid.range[1]
            torch.testing.assert_close(grid.values(codes, found), found)


def test_descent_ends_where_no_single_weight_can_move():
    weight, hessian = problem(3, 16, 60)
    kept = torch.ones_like(weight, dtype=torch.bool)
    grid = Grid.even(weight, 4, 16)
    found, _ = gptq(weight, kept, hessian, 0, grid, passes=50)
    codes, least = grid.codes(found).long(), squared_error(weight, found, hessian)
    for row, column, step in itertools.product(range(3), range(16), (-1, 1)):
        moved = codes.clone()
        moved[row, column] = (moved[row, column] + step).clamp(*grid.range)
        other = squared_error(weight, grid.values(moved, weight), hessian)
        assert other >= least * (1 - 1e-12)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("grids", [Grid.even, Grid.full])
def test_values_of_16_bits_have_their_codes(grids, bits, dtype):
    weight, _ = problem(32, 128)
    grid = grids(weight * 0.02, bits, 64)
    codes = grid.codes(weight * 0.02)
    stored = grid.values(codes, weight).to(dtype)
    assert torch.equal(grid.codes(stored), codes)


def test_groups_of_zeros_and_dead_inputs_are_rounded_by_themselves():
    weight, hessian = problem(4, 32, 100)
    hessian[5], hessian[:, 5] = 0, 0
    weight[:, 16:] = 0
    grid = Grid.full(weight, 4, 16)
    found, _ = gptq(weight, weight != 0, hessian, 0.01, grid)
    assert not found[:, 16:].any()
    torch.testing.assert_close(found[:, 5], nearest(weight, grid)[:, 5])


@pytest.mark.parametrize("scale", [1e-12, 1e12])
def test_the_size_of_the_inputs_does_not_count(scale):
    weight, hessian = problem(6, 48, 200)
    kept = torch.rand(weight.shape, generator=torch.Generator().manual_seed(0)) < 0.6
    pruned = (weight * kept).float()
    grid = Grid.full(pruned, 4, 16)
    found, scaled = (
        gptq(pruned, kept, h.float(), 0.01, grid, target=weight.float())[0]
        for h in (hessian, hessian * scale)
    )
    torch.testing.assert_close(scaled, found)
