"""Products of an accelerator, added to a triangle that may rest elsewhere."""

import pytest
import torch
from torch.overrides import TorchFunctionMode

from obsdiff.calibration import products
from obsdiff.calibration.calibrated_input import CalibratedInput
from obsdiff.calibration.hessian import Hessian
from obsdiff.calibration.packed import bands
from obsdiff.calibration.packed_layout import WIDE, packed_size, wide_band
from obsdiff.calibration.products import operands, sums_in_place, sums_wide, wide_bands
from obsdiff.runtime.precision import product_precision

from ..support.pretend_gpu import NAME, pretend_gpu


@pytest.mark.parametrize("columns", [5, 300, 700])
@pytest.mark.parametrize("resting", [None, "wide", "cpu", "file"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_sums_of_an_accelerator_are_those_of_the_cpu(columns, resting, dtype, tmp_path):
    tokens, there = torch.randn(2, 60, columns).to(dtype), Hessian.zeros(columns)
    there.update(tokens, 0.9, 200)
    with pretend_gpu() as counts:
        here = (
            Hessian.mapped(columns, tmp_path / "sums", NAME)
            if resting == "file"
            else Hessian.zeros(columns, NAME, band=wide_band(columns))
            if resting == "wide"
            else Hessian.zeros(columns, NAME, resting=resting)
        )
        here.update(tokens.to(NAME), 0.9, 200)
        assert here.packed.device.type == ("cpu" if resting in ("cpu", "file") else NAME)
        for read in ("matrix", "diagonal", "mean", "variance"):
            found, expected = getattr(here, read)(), getattr(there, read)()
            assert found.device.type == NAME
            torch.testing.assert_close(found.cpu(), expected, rtol=1e-5, atol=1e-5)
        assert (here.samples, here.kept, here.distinct) == (200, 120, 120)
        assert here.take_().device.type == NAME
    assert not counts.host_products


def test_half_precision_tokens_are_multiplied_as_they_are():
    with pretend_gpu():
        half = torch.randn(4, 3, device=NAME).half()
        assert sums_wide(str(half.device), half.dtype)
        assert sums_in_place(str(half.device), half.dtype)
        assert operands(half, torch.float32) is half
        assert operands(half, torch.float64).dtype == torch.float64
    assert not sums_wide("cpu", torch.float16)
    assert operands(torch.ones(2, 2).half(), torch.float32).dtype == torch.float32


class Precisions(TorchFunctionMode):
    """Notes the precision of a GPU's products that are added to a matrix."""

    def __init__(self):
        self.seen = set()

    def __torch_function__(self, function, types, args=(), kwargs=None):
        if function is torch.Tensor.addmm_:
            self.seen.add((args[1].dtype, product_precision("cuda")))
        return function(*args, **kwargs or {})


@pytest.mark.parametrize(
    ("dtype", "precision"),
    [(torch.bfloat16, "tf32"), (torch.float16, "tf32"), (torch.float32, "ieee")],
)
def test_half_precision_is_multiplied_in_tf32_where_torch_sums_it_in_itself(
    dtype, precision, monkeypatch
):
    """torch 2.7 and before; TF32 holds all numbers of half precision, but not of float32."""
    monkeypatch.setattr(products, "sums_wide", lambda *_: False)
    with pretend_gpu(), Precisions() as watched:
        hessian = Hessian.zeros(300, NAME, band=wide_band(300))
        hessian.update(torch.ones(4, 300, device=NAME, dtype=dtype))
        assert (hessian.matrix() == 2).all()
    assert watched.seen == {(torch.float32, precision)}
    assert product_precision("cuda") == "ieee"


def test_wide_bands_are_all_bands_in_turn():
    columns = 2 * WIDE + 300
    packed = torch.empty(packed_size(columns), device="meta")
    found = list(wide_bands(packed, columns))
    assert [part[-1][1].stop - part[0][1].start for part in found] == [WIDE, WIDE, 300]
    assert [rows for part in found for _, rows in part] == [r for _, r in bands(packed, columns)]


@pytest.mark.parametrize("resting", [None, "cpu"])
def test_cross_sums_of_an_accelerator_are_those_of_the_cpu(resting):
    x, dense = torch.randn(50, 6), torch.randn(50, 6)
    there = CalibratedInput(Hessian.zeros(6), cross=torch.zeros(6, 6))
    there.update_cross(x, 0.9, dense, 100)
    with pretend_gpu() as counts:
        hessian = Hessian.zeros(6, NAME, resting=resting)
        here = CalibratedInput(hessian, cross=hessian.packed.new_zeros(6, 6))
        here.update_cross(x.to(NAME), 0.9, dense.to(NAME), 100)
        torch.testing.assert_close(here.cross.cpu(), there.cross)
    assert not counts.host_products


def test_sums_in_bands_of_other_widths_are_added():
    x = torch.randn(30, 700)
    narrow, wide = Hessian.zeros(700), Hessian.zeros(700, band=wide_band(700))
    narrow.update(x)
    wide.update(x)
    wide.add_(narrow, 2.0)
    torch.testing.assert_close(wide.xx, 3 * narrow.xx)
    torch.testing.assert_close(wide.matrix(), wide.matrix().T)


@pytest.mark.parametrize(
    ("columns", "dtype", "launches"),
    [(1536, torch.bfloat16, 2), (6144, torch.bfloat16, 3), (1536, torch.float32, 2)],
)
def test_an_update_is_a_launch_a_band_and_one_for_the_sum(columns, dtype, launches, monkeypatch):
    monkeypatch.setattr(Hessian, "counted_all", True)
    with pretend_gpu() as counts:
        hessian = Hessian.zeros(columns, NAME, band=wide_band(columns))
        rows = torch.ones(2, columns, device=NAME, dtype=dtype)
        hessian.update(rows)  # tries what the device can
        counts.clear()
        hessian.update(rows)
        assert counts.launches.total() == launches + 1
        assert not counts.waits
