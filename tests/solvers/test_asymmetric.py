"""The target weight of asymmetric calibration, against least squares over all tokens."""

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from obsdiff import solvers
from obsdiff.calibration.calibrated_input import CalibratedInput
from obsdiff.calibration.hessian import Hessian
from obsdiff.calibration.packages import work_bytes
from obsdiff.config import PruningConfig
from obsdiff.errors import NotPositiveDefinite
from obsdiff.layerwise.problem import targets_of
from obsdiff.models.structure import Tap
from obsdiff.solvers.asymmetric import asymmetric

from ..support.tensor_memory import peak_of

ROWS, COLUMNS, TOKENS = 6, 20, 80


def problem() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """A weight (O, I), the inputs in the dense model (T, I), those in the pruned one (T, I)."""
    make = torch.Generator().manual_seed(0)
    w, dense, noise = (
        torch.randn(*shape, generator=make, dtype=torch.float64)
        for shape in ((ROWS, COLUMNS), (TOKENS, COLUMNS), (TOKENS, COLUMNS))
    )
    mixed = 0.8 * dense + 0.3 * dense.roll(1, 1) + 0.2 * noise
    return w, dense, mixed


def sums(dense: torch.Tensor, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    return 2 * x.T @ x / len(x), 2 * (dense - x).T @ x / len(x)


def test_it_is_the_least_squares_fit_to_the_dense_outputs():
    w, dense, x = problem()
    (found,), _ = asymmetric([w], *sums(dense, x), 0.0)
    best = torch.linalg.lstsq(x, dense @ w.T).solution.T
    torch.testing.assert_close(found, best, rtol=1e-9, atol=1e-9)


def test_damping_pulls_it_towards_the_weight():
    w, dense, x = problem()
    hessian, cross = sums(dense, x)
    d = 0.1 * hessian.diagonal().mean()
    stacked = torch.cat([x * (2 / TOKENS) ** 0.5, d.sqrt() * torch.eye(COLUMNS, dtype=w.dtype)])
    wanted = torch.cat([dense @ w.T * (2 / TOKENS) ** 0.5, d.sqrt() * w.T])
    (found,), _ = asymmetric([w], hessian, cross, 0.1)
    torch.testing.assert_close(
        found, torch.linalg.lstsq(stacked, wanted).solution.T, rtol=1e-9, atol=1e-9
    )


def test_the_error_against_the_dense_outputs_is_the_error_against_the_target_and_a_constant():
    w, dense, x = problem()
    (target,), _ = asymmetric([w], *sums(dense, x), 0.0)
    constants = []
    for seed in range(3):
        sparse = w * (torch.rand(w.shape, generator=torch.Generator().manual_seed(seed)) > 0.5)
        constants.append(
            ((dense @ w.T - x @ sparse.T) ** 2).sum() - ((x @ (target - sparse).T) ** 2).sum()
        )
    torch.testing.assert_close(constants[0].expand(3), torch.stack(constants))
    assert constants[0] > 0


def test_without_a_difference_the_weights_do_not_change():
    w, dense, _ = problem()
    hessian, cross = sums(dense, dense)
    found, _ = asymmetric([w, w.bfloat16()], hessian, cross, 0.01)
    for before, after in zip([w, w.bfloat16()], found, strict=True):
        assert torch.equal(before.double(), after)
        assert after.dtype == torch.float64
    assert asymmetric([w], hessian.float(), cross.float(), 0.01)[0][0].dtype == torch.float64


def test_half_precision_does_not_round_the_target():
    w, dense, x = problem()
    hessian, cross = sums(dense, x)
    exact, found = (
        asymmetric([v], hessian, cross.clone(), 0.01)[0][0]
        for v in (w.bfloat16().double(), w.bfloat16())
    )
    torch.testing.assert_close(found, exact)


def test_weights_on_a_gpu_are_moved_to_the_hessians_device(monkeypatch):
    """Fake tensors have a device but no data."""
    monkeypatch.setattr(
        solvers.asymmetric, "inverse_factor", lambda hessian, damping: (hessian, None, damping)
    )
    with FakeTensorMode():
        (found,), _ = asymmetric(
            [torch.empty(ROWS, COLUMNS, device="cuda")],
            torch.empty(COLUMNS, COLUMNS),
            torch.empty(COLUMNS, COLUMNS),
            0.01,
        )
    assert found.device.type == "cpu"


def test_a_raised_damping_is_returned():
    """With 20 tokens H is singular in 64 columns: the first damping fails in float32."""
    x = torch.randn(20, 64, generator=torch.Generator().manual_seed(0))
    _, damping = asymmetric([torch.ones(2, 64)], *sums(1.1 * x, x), 1e-9)
    assert damping > 1e-9


def test_a_hessian_that_is_not_finite_is_refused():
    w, dense, x = problem()
    hessian, cross = sums(dense, x)
    with pytest.raises(NotPositiveDefinite, match="inf or NaN"):
        asymmetric([w], hessian * float("inf"), cross, 0.01)


@pytest.mark.slow
@pytest.mark.parametrize(("rows", "columns"), [(512, 256), (128, 2304)])
def test_it_needs_no_more_memory_than_is_planned_for_solving(rows, columns):
    config = PruningConfig(calibration="replay", asymmetric=True)
    w, x = torch.randn(rows, columns), torch.randn(columns + 200, columns)
    calibrated = CalibratedInput(Hessian.zeros(columns), cross=torch.zeros(columns, columns))
    calibrated.hessian.update(x, 1.0)
    calibrated.update_cross(x, 1.0, 1.1 * x)
    hessian = calibrated.take_()
    peak = peak_of(lambda: targets_of([w], calibrated, hessian, config.damping))
    assert calibrated.cross is None
    assert (
        4 * rows * columns < peak < work_bytes([Tap(("x",), "ffn")], {"x": (rows, columns)}, config)
    )
