"""A weight as two factors: the tail of the singular values, exact on few inputs, small ranks."""

import pytest
import torch

from obsdiff.errors import NotPositiveDefinite
from obsdiff.solvers.folding import balanced, energies, folded, least_rank
from obsdiff.solvers.rounding import Grid

OUTPUTS, INPUTS = 24, 10


def problem(inputs: int, decay: float = 0.5, seed: int = 0):
    """W (O, I), inputs (N, I) whose directions decay, and their mean of x x^T, in float64."""
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(OUTPUTS, INPUTS, generator=generator, dtype=torch.float64)
    rows = torch.randn(inputs, INPUTS, generator=generator, dtype=torch.float64)
    rows *= decay ** torch.arange(INPUTS)
    return weight, rows, rows.T @ rows / inputs


@pytest.mark.parametrize("rank", range(1, INPUTS + 1))
def test_the_error_is_the_tail_of_the_singular_values(rank):
    weight, rows, hessian = problem(40)
    up, down = folded(weight, hessian, rank)
    assert up.shape == (OUTPUTS, rank)
    error = energies(weight - up @ down, hessian).sum()
    tail = torch.linalg.svdvals(weight @ rows.T)[rank:].square().sum() / len(rows)
    torch.testing.assert_close(error, tail, rtol=1e-6, atol=1e-13)
    torch.testing.assert_close(up.T @ up, torch.eye(rank, dtype=torch.float64))


@pytest.mark.parametrize("inputs", [1, 3, 7])
def test_as_many_dimensions_as_inputs_are_exact_on_them(inputs):
    weight, rows, hessian = problem(inputs, decay=0.9)
    up, down = folded(weight, hessian, inputs)
    assert len(down) == inputs
    torch.testing.assert_close((rows @ down.T) @ up.T, rows @ weight.T, rtol=0, atol=1e-9)


def test_the_rank_is_the_smallest_whose_error_on_other_inputs_is_allowed():
    weight, _, hessian = problem(40)
    other = problem(40, seed=1)[2]
    wholes = [folded(weight, hessian, rank) for rank in range(1, INPUTS + 1)]
    errors = [energies(weight - u @ v, other).sum().item() for u, v in wholes]
    assert errors == sorted(errors, reverse=True)
    _, down = folded(weight, hessian, INPUTS)
    for allowed in (1e9, 2 * errors[3], errors[5] * 1.01, 0.0):
        enough = [rank for rank, error in enumerate(errors, 1) if error <= allowed]
        assert least_rank(weight, down, other, allowed) == min([*enough, INPUTS])


@pytest.mark.parametrize("where", ["weight", "hessian"])
def test_inf_and_nan_cannot_be_folded(where):
    weight, _, hessian = problem(40)
    {"weight": weight, "hessian": hessian}[where][0, 0] = torch.nan
    with pytest.raises(NotPositiveDefinite, match="inf or NaN"):
        folded(weight, hessian, 3)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("outputs", [1, 24, 1000])
def test_balanced_factors_have_the_same_product_in_every_bit(dtype, outputs):
    generator = torch.Generator().manual_seed(outputs)
    weight = torch.randn(outputs, INPUTS, generator=generator, dtype=torch.float64)
    factors = folded(weight, problem(40)[2], min(outputs, 4))
    up, down = (part.to(dtype) for part in factors)
    larger, smaller = balanced(up, down)
    assert torch.equal(larger @ smaller, up @ down)
    share = (larger / up).unique()
    assert len(share) == 1
    assert share.log2().item() == round(share.log2().item())
    assert 2**-0.5 <= larger.square().mean().sqrt() <= 2**0.5  # of factors whose columns are 1 long


def test_between_balanced_factors_nothing_is_larger_than_outputs_are():
    generator = torch.Generator().manual_seed(0)
    weight = 3e4 * torch.ones(1024, INPUTS, dtype=torch.float64)
    weight += torch.randn(1024, INPUTS, generator=generator)
    _, rows, hessian = problem(40)
    rows /= rows.sum(1, keepdim=True).abs().max()
    up, down = folded(weight, hessian, 4)
    outputs = rows @ weight.T
    assert (rows @ down.T).abs().max() > 16 * outputs.abs().max()
    up, down = balanced(up, down)
    size = outputs.square().mean(1).sqrt()  # of the outputs of an input
    assert ((rows @ down.T).abs().amax(1) <= 1.5 * size).all()
    half = (rows.half() @ down.half().T) @ up.half().T
    assert half.isfinite().all()
    torch.testing.assert_close(half.double(), outputs, rtol=0.02, atol=0.02 * outputs.abs().max())


def test_a_power_of_two_changes_no_code_of_8_bits():
    weight, _, hessian = problem(40)
    up, down = folded(weight, hessian, 8)
    for one, other in zip((up, down), balanced(up, down), strict=True):
        one, other = one[:, :8].float(), other[:, :8].float()
        grids = [Grid.even(part, 8, 4) for part in (one, other)]
        assert torch.equal(*(g.codes(part) for g, part in zip(grids, (one, other), strict=True)))
