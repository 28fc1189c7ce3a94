import pytest
import torch

from obsdiff.metrics import relative_latent_error


def test_its_definition_by_hand():
    dense = torch.tensor([[1.0, 3.0], [5.0, 7.0]])  # mean 4, squared deviations 9 1 1 9: mean 5
    pruned = dense + torch.tensor([[1.0, 1.0], [0.0, 2.0]])  # squared differences 1 1 0 4: mean 1.5
    assert relative_latent_error(pruned, dense)["value"] == pytest.approx(1.5 / 5)


def test_the_same_picture_is_zero_and_an_unrelated_one_about_two():
    a, b = torch.randn(2, 40, 4, 8, 8)
    assert relative_latent_error(a, a) == {"value": 0.0, "low": 0.0, "high": 0.0, "why_not": None}
    found = relative_latent_error(a, b)
    assert found["value"] == pytest.approx(2, abs=0.1)
    assert found["low"] < found["value"] < found["high"]


def test_scale_and_shift_of_the_vae_change_nothing():
    dense, noise = torch.randn(2, 6, 4, 8, 8, dtype=torch.float64)
    pruned = dense + 0.1 * noise
    moved = relative_latent_error(3 * pruned + 1, 3 * dense + 1)
    assert moved["value"] == pytest.approx(relative_latent_error(pruned, dense)["value"])
