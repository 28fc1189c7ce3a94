import pytest
import torch

from obsdiff.calibration.hessian import COUNTED_PER_COLUMN, Hessian, row_sums
from obsdiff.errors import RunStopped


def test_it_is_twice_the_weighted_mean():
    a, b = torch.randn(30, 6), torch.randn(50, 6)
    h = Hessian.zeros(6, dtype=torch.float64)
    h.update(a, 1.2)
    h.update(b, 0.8)
    expected = 2 * (1.2 * a.double().T @ a.double() + 0.8 * b.double().T @ b.double()) / 80
    torch.testing.assert_close(h.matrix(), expected)
    torch.testing.assert_close(h.x, 1.2 * a.double().sum(0) + 0.8 * b.double().sum(0))
    assert h.samples == 80


def test_mean_and_variance_by_hand():
    """Tokens 1 and 3 with weight 1.2, 5 with 0.8: 8.8 / 3.2 and 32 / 3.2 - 2.75^2.

    The Hessian divides by 3 instead.
    """
    h = Hessian.zeros(1, dtype=torch.float64)
    assert (h.mean().item(), h.variance().item()) == (0, 0)
    h.update(torch.tensor([[1.0], [3.0]]), 1.2)
    h.update(torch.tensor([[5.0]]), 0.8)
    assert h.mean().item() == pytest.approx(2.75)
    assert h.variance().item() == pytest.approx(2.4375)
    assert h.matrix().item() == pytest.approx(2 * 32 / 3)


def test_an_input_that_never_varies_has_no_variance_whatever_the_weights():
    h = Hessian.zeros(2, dtype=torch.float64)
    for alpha in (1.2, 1.1, 0.9):
        h.update(torch.tensor([[3.0, 1.0], [3.0, -1.0]]), alpha)
    assert h.variance().tolist() == pytest.approx([0, 1], abs=1e-12)
    assert (h.variance() >= 0).all()


def test_the_sums_of_parts_are_those_of_the_whole():
    x = torch.randn(40, 5, dtype=torch.float64)
    whole, parts = (Hessian.zeros(5, dtype=torch.float64) for _ in range(2))
    whole.update(x)
    parts.update(x[:13])
    parts.update(x[13:])
    for quantity in (Hessian.matrix, Hessian.mean, Hessian.variance):
        torch.testing.assert_close(quantity(parts), quantity(whole))
    assert (parts.samples, parts.distinct) == (whole.samples, whole.distinct) == (40, 40)


def test_repeated_tokens_are_counted_once():
    h = Hessian.zeros(8)
    rows = torch.randn(7, 8)
    h.update(torch.cat([rows, rows, torch.zeros(100, 8)]))
    h.update(rows)
    assert h.samples == 121
    assert h.distinct == 8


def test_counting_stops_when_it_is_enough():
    h = Hessian.zeros(2)
    h.update(torch.randn(500, 2))
    assert h.distinct == COUNTED_PER_COLUMN * 2


def test_half_precision_inputs_are_summed_in_full():
    x = torch.full((4096, 1), 30.0, dtype=torch.float16)
    h = Hessian.zeros(1)
    h.update(x)
    assert h.xx.item() == 4096 * 900
    assert h.xx.dtype == torch.float32


@pytest.mark.parametrize("columns", [5, 300, 700])
def test_images_add_up_to_the_same_whatever_the_batch(columns):
    """Up to rounding, and both triangles of H."""
    x = torch.randn(4, 80, columns)
    whole, parts = Hessian.zeros(columns), Hessian.zeros(columns)
    whole.update(x, 0.9)
    for image in x.flip(0):
        parts.update(image.unsqueeze(0), 0.9)
    torch.testing.assert_close(whole.xx, parts.xx, rtol=1e-5, atol=1e-4)
    rows = x.flatten(0, 1).double()
    torch.testing.assert_close(
        whole.matrix().double(), 2 * 0.9 * rows.T @ rows / 320, rtol=1e-4, atol=1e-6
    )
    torch.testing.assert_close(whole.matrix(), whole.matrix().T)


def test_equal_rows_have_equal_sums_wherever_they_are():
    x = torch.randn(600, 37)
    x[300:] = x[:300]
    sums = row_sums(x)
    assert torch.equal(sums[:300], sums[300:])
    assert torch.equal(row_sums(x[17:18]), sums[17:18])
    assert len(sums.unique()) == 300


def test_tokens_that_represent_others_count_as_many_times():
    x, whole, part = torch.randn(10, 4), Hessian.zeros(4), Hessian.zeros(4)
    whole.update(x.repeat(3, 1), 0.9)
    part.update(x, 0.9, 30)
    torch.testing.assert_close(part.matrix(), whole.matrix())
    torch.testing.assert_close(part.mean(), whole.mean())
    torch.testing.assert_close(part.variance(), whole.variance())
    assert (part.samples, part.kept, part.distinct) == (30, 10, 10)
    assert (whole.samples, whole.kept, whole.distinct) == (30, 30, 10)
    assert part.alpha == pytest.approx(whole.alpha)


def test_no_token_adds_nothing():
    h = Hessian.zeros(3)
    h.update(torch.empty(0, 3))
    assert (h.samples, h.kept, h.distinct) == (0, 0, 0)


def test_sums_of_two_hessians_are_those_of_all_tokens():
    x = torch.randn(50, 6)
    whole, parts = Hessian.zeros(6), [Hessian.zeros(6) for _ in range(2)]
    whole.update(x[:20], 0.9 * 2)
    whole.update(x[20:], 1.1)
    parts[0].update(x[:20], 0.9)
    parts[1].update(x[20:], 1.1)
    total = Hessian.zeros(6)
    total.add_(parts[0], 2.0)
    total.add_(parts[1])
    torch.testing.assert_close(total.matrix(), whole.matrix())
    torch.testing.assert_close(total.variance(), whole.variance())
    assert (total.samples, total.kept, total.distinct) == (50, 50, 50)


@pytest.mark.parametrize("columns", [2, 7, 256, 300, 1100])
def test_taken_it_is_the_same_matrix_and_the_sums_are_released(columns):
    h = Hessian.zeros(columns)
    h.update(torch.randn(40, columns), 1.1)
    expected, mean = h.matrix(), h.mean()
    found = h.take_()
    assert torch.equal(found, expected)
    assert h.packed.numel() == 0
    assert torch.equal(h.mean(), mean)
    assert (h.columns, h.samples) == (columns, 40)
    with pytest.raises(RuntimeError):
        h.variance()


def test_what_is_shared_is_not_taken():
    h = Hessian.zeros(3)
    h.update(torch.randn(4, 3))
    h.shared = True
    assert torch.equal(h.take_(), h.take_())
    assert h.variance().shape == (3,)


def test_a_full_disk_is_one_line_and_no_dead_process(tmp_path, monkeypatch):
    def full(*_args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.posix_fallocate", full, raising=False)
    with pytest.raises(RunStopped, match=r"00000001 can't be written: .*No space left on device"):
        Hessian.mapped(8, tmp_path / "00000001")
