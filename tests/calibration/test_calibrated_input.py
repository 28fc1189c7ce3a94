"""The sums of one input: Hessian, held-out Hessian and cross sums, and the order of the inputs."""

import pytest
import torch

from obsdiff.calibration.calibrated_input import CalibratedInput
from obsdiff.calibration.hessian import Hessian
from obsdiff.runtime.distributed import Ranks

COLUMNS, ORDER = 6, torch.tensor([2, 0, 1, 5, 4, 3])


def summed(seed: int = 0, tokens: int = 9, weight: float = 1.5) -> Hessian:
    found = Hessian.zeros(COLUMNS)
    x = torch.randn(tokens, COLUMNS, generator=torch.Generator().manual_seed(seed))
    found.update(x, weight)
    return found


def test_it_reads_what_its_hessian_sums():
    calibrated, alone = CalibratedInput(Hessian.zeros(COLUMNS)), Hessian.zeros(COLUMNS)
    g = torch.Generator().manual_seed(0)
    for weight in (1.2, 0.8):
        x = torch.randn(2, 70, COLUMNS, generator=g)
        calibrated.hessian.update(x, weight)
        alone.update(x, weight)
    for quantity in ("matrix", "diagonal", "mean", "variance"):
        assert torch.equal(getattr(calibrated, quantity)(), getattr(alone, quantity)())
    assert calibrated.tokens_per_column == alone.distinct / COLUMNS > 1
    assert calibrated.cross is None
    assert calibrated.take_held_out_() is None


@pytest.mark.parametrize("shape", [(40,), (4, 10)])
def test_cross_sums_are_those_of_the_difference_to_the_dense_inputs(shape):
    g = torch.Generator().manual_seed(0)
    cross = torch.zeros(COLUMNS, COLUMNS, dtype=torch.float64)
    calibrated = CalibratedInput(Hessian.zeros(COLUMNS, dtype=torch.float64), cross=cross)
    expected = torch.zeros_like(cross)
    for weight in (1.2, 0.8):
        x, dense = (
            torch.randn(*shape, COLUMNS, generator=g, dtype=torch.float64) for _ in range(2)
        )
        calibrated.hessian.update(x, weight)
        calibrated.update_cross(x, weight, dense)
        rows, others = x.view(-1, COLUMNS), dense.view(-1, COLUMNS)
        expected += weight * (others - rows).T @ rows
    torch.testing.assert_close(calibrated.cross, expected)
    where = calibrated.cross.data_ptr()
    taken = calibrated.take_cross_()
    torch.testing.assert_close(taken, 2 * expected / 80)
    assert taken.data_ptr() == where
    assert calibrated.cross is None


def test_dense_inputs_without_cross_sums_are_an_error():
    with pytest.raises(AssertionError):
        CalibratedInput(Hessian.zeros(2)).update_cross(torch.ones(3, 2), 1.0, torch.ones(3, 2))


def test_in_another_order_every_quantity_is_reordered_and_the_sums_stay():
    calibrated = CalibratedInput(summed(), summed(1))
    before = calibrated.hessian.xx.clone()
    square, apart = calibrated.matrix(), calibrated.held_out.matrix()
    mean, variance = calibrated.mean(), calibrated.variance()
    other = calibrated.reordered(ORDER)
    assert torch.equal(other.matrix(), square[ORDER][:, ORDER])
    assert torch.equal(other.diagonal(), square.diagonal()[ORDER])
    assert torch.equal(other.mean(), mean[ORDER])
    assert torch.equal(other.variance(), variance[ORDER])
    assert other.tokens_per_column == calibrated.tokens_per_column
    assert other.hessian is calibrated.hessian
    assert other.held_out is calibrated.held_out
    assert calibrated.order is None
    assert torch.equal(calibrated.hessian.xx, before)
    assert torch.equal(other.take_held_out_(), apart[ORDER][:, ORDER])
    assert torch.equal(other.take_(), square[ORDER][:, ORDER])
    assert not torch.equal(square[ORDER][:, ORDER], square)


def test_taking_the_matrices_releases_the_memory_of_the_sums():
    calibrated = CalibratedInput(summed(), summed(1))
    both = calibrated.hessian, calibrated.held_out
    expected = [h.matrix() for h in both]
    taken = calibrated.take_(), calibrated.take_held_out_()
    for matrix, wanted, hessian in zip(taken, expected, both, strict=True):
        assert torch.equal(matrix, wanted)
        assert hessian.packed.numel() == 0
    assert calibrated.mean().shape == (COLUMNS,)


@pytest.mark.parametrize("apart", [False, True])
def test_shared_sums_are_not_used_up(apart):
    calibrated = CalibratedInput(summed(), summed(1) if apart else None)
    calibrated.share()
    square = calibrated.matrix()
    for _ in range(2):
        assert torch.equal(calibrated.take_(), square)
        assert torch.equal(calibrated.reordered(ORDER).take_(), square[ORDER][:, ORDER])
        if apart:
            assert torch.equal(calibrated.take_held_out_(), calibrated.held_out.matrix())
    assert calibrated.hessian.shared
    assert (calibrated.held_out is not None and calibrated.held_out.shared) is apart


@pytest.mark.parametrize("owner", [None, 0, 1])
def test_one_process_keeps_its_sums(owner):
    calibrated = CalibratedInput(summed(), cross=torch.ones(COLUMNS, COLUMNS))
    before = calibrated.hessian.xx.clone()
    calibrated.reduce_(Ranks(), owner)
    assert torch.equal(calibrated.hessian.xx, before)
    assert torch.equal(calibrated.cross, torch.ones(COLUMNS, COLUMNS))
