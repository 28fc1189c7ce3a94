"""Noise that is the same on every device, and random states that are left as they were."""

import torch

from obsdiff.runtime.random_state import noise, random_state_kept


def test_noise_is_drawn_on_the_cpu_from_its_seed_alone():
    generator = noise(3)
    assert generator.device == torch.device("cpu")
    assert torch.equal(torch.rand(4, generator=generator), torch.rand(4, generator=noise(3)))
    assert not torch.equal(torch.rand(4, generator=noise(3)), torch.rand(4, generator=noise(4)))


def test_the_random_state_is_kept_after_errors_too():
    torch.manual_seed(0)
    wanted = torch.rand(3)
    torch.manual_seed(0)
    with random_state_kept():
        torch.rand(100)
    assert torch.equal(torch.rand(3), wanted)
