"""The pretend accelerator itself: it raises where CUDA does, counts, and leaves nothing behind."""

import pytest
import torch

from .support.device_counts import LIBRARY
from .support.pretend_gpu import NAME, pretend_gpu


def test_devices_do_not_mix():
    with pretend_gpu():
        x = torch.randn(4, 4, device=NAME)
        for mixed in (lambda: x + torch.ones(4), lambda: x @ torch.ones(4, 4)):
            with pytest.raises(RuntimeError, match="same device"):
                mixed()
        with pytest.raises(RuntimeError, match="same device"):
            x[torch.tensor([0])] = torch.ones(1, 4)
        assert x[torch.tensor([3, 0])].shape == (2, 4)
        assert (x * 2.0 + torch.tensor(1.0)).device.type == NAME
        with pytest.raises(TypeError):
            x.numpy()


def test_numbers_are_those_of_the_cpu():
    x = torch.randn(5, 3)
    with pretend_gpu():
        y = x.to(NAME)
        y[1:] += 1
        assert torch.equal(y.cpu(), torch.cat([x[:1], x[1:] + 1]))
        assert torch.equal((y.T @ y).cpu(), y.cpu().T @ y.cpu())
        half = y.half()
        sums = torch.mm(half.T, half, out_dtype=torch.float32)
        assert (sums.dtype, sums.device.type) == (torch.float32, NAME)


def test_launches_waits_and_copies_are_counted():
    with pretend_gpu() as counts:
        x = torch.ones(8, device=NAME)
        assert (counts.launches.total(), counts.held) == (1, 32)
        x.view(2, 4).T.add_(1)
        assert counts.launches.total() == 2
        assert not counts.waits
        x.cpu()
        x.to("cpu", non_blocking=True)
        x.sum().item()
        torch.ones(8).pin_memory().to(NAME, non_blocking=True)
        x[torch.tensor([1])]
        x[x > 0]
        assert counts.waits.total() == 4
        assert (counts.to_host, counts.to_device) == (64, 32)
        assert counts.own_launches == 0
        torch.ones(2, 3) @ torch.ones(3, 4)
        assert counts.host_products == {LIBRARY: 24}
        peak = counts.peak
        del x
        assert counts.held == 0
        counts.clear()
        assert (peak > 0, counts.peak) == (True, 0)


def test_a_device_without_float64():
    with pretend_gpu(double=False):
        x = torch.ones(3, device=NAME)
        for double in (x.double, lambda: torch.zeros(2, dtype=torch.float64, device=NAME)):
            with pytest.raises(TypeError, match="float64"):
                double()
        with pytest.raises(TypeError, match="float64"):
            torch.ones(2, dtype=torch.float64).to(NAME)
        assert x.cpu().double().sum() == 3


def test_nothing_is_left_behind():
    with pretend_gpu(memory=1000):
        assert torch.accelerator.current_accelerator(check_available=True).type == NAME
        assert torch.get_device_module(NAME).mem_get_info() == (1000, 1000)
        x = torch.ones(3, device=NAME)
        assert torch.get_device_module(NAME).mem_get_info() == (988, 1000)
        del x
    assert not torch.accelerator.is_available()
    assert isinstance(torch.Generator(), torch.Generator)
    assert not torch.__future__.get_overwrite_module_params_on_conversion()
    weight = torch.ones(2, requires_grad=True)
    (weight * 3).sum().backward()
    assert weight.grad.tolist() == [3, 3]
