"""Activations counted without data: by hand, by a growing batch, and with fused attention."""

import pytest
import torch
from torch import nn

from obsdiff.models.activation_memory import activation_bytes, held_by_call
from obsdiff.models.meta_device import build_on_meta, example_inputs

from ..conftest import flux, sd, sd3


class TwoLayers(nn.Module):
    """(B, 3) -> (B, 50) -> (B, 7), the middle one held until the end."""

    def __init__(self):
        super().__init__()
        self.up, self.down = nn.Linear(3, 50, bias=False), nn.Linear(50, 7, bias=False)

    def forward(self, x):
        return self.down(self.up(x))


def test_what_is_held_together_by_hand():
    model = TwoLayers().to("meta")
    assert activation_bytes(model, {"x": torch.empty(1, 3)}) == 4 * (3 + 50 + 7)
    assert activation_bytes(model, {"x": torch.empty(1, 3)}, images=5) == 5 * 4 * (3 + 50 + 7)
    nn.Module.to(model, torch.float16)
    assert activation_bytes(model, {"x": torch.empty(1, 3)}) == 2 * (3 + 50 + 7)


def test_a_block_is_there_while_it_computes():
    """The largest block, `up`, computes before the most activations are there."""
    model = nn.Sequential(
        nn.Linear(30, 5, bias=False), nn.Linear(5, 100, bias=False), nn.ReLU()
    ).to("meta")
    held = held_by_call(model, {"input": torch.empty(1, 30)}, blocks=model)
    up, wide, relu = 150 + 30 + 5, 500 + 30 + 5 + 100, 30 + 100 + 100
    assert held.peak == 4 * relu
    assert held.peak_in_turn == 4 * max(up, wide)
    assert held_by_call(model, {"input": torch.empty(1, 30)}).peak_in_turn == held.peak


@pytest.mark.parametrize("make", [sd3, sd, flux])
@pytest.mark.slow
def test_a_batch_holds_as_much_as_its_pictures(make):
    pipe = make()
    denoiser = getattr(pipe, "transformer", None) or pipe.unet
    model = build_on_meta(dict(denoiser.config) | {"_class_name": type(denoiser).__name__})
    inputs = example_inputs(model, 8, 8, 24)
    one, two, three = (activation_bytes(model, inputs, n) for n in (1, 2, 3))
    assert 0 < one < two < three
    assert three - two == pytest.approx(two - one, rel=0.05)


def test_fused_attention_does_not_hold_the_weights_of_all_pairs():
    denoiser = sd3().transformer
    model = build_on_meta(dict(denoiser.config) | {"_class_name": type(denoiser).__name__})
    inputs = example_inputs(model, 8, 8, 2000)
    fused, plain = (activation_bytes(model, inputs, fused=f) for f in (True, False))
    assert plain - fused > 4 * 4 * 2000 * 2000 / 2  # 4 heads, float32
