"""The baseline EcoDiff: what its masks cover, what they learn, what leaves."""

from types import SimpleNamespace

import pytest
import torch

from benchmarks.paper import learned_masks
from benchmarks.paper.learned_masks import (
    learned,
    leaving_first,
    masked,
    masked_groups,
    penalty,
    sampled,
    without,
)
from obsdiff.models.linear_view import layer_at, layer_shapes

from ..conftest import PROMPTS, sd, sd3

CALL = {"num_inference_steps": 2, "guidance_scale": 3.0, "height": 16, "width": 16}


def drawn(pipe) -> torch.Tensor:
    noise = torch.Generator().manual_seed(0)
    return pipe(PROMPTS[0], generator=noise, output_type="latent", **CALL).images


def denoiser_of(pipe):
    return getattr(pipe, "transformer", None) or pipe.unet


@pytest.mark.parametrize("make", [sd3, sd])
def test_masked_is_as_removed_and_the_price_is_what_leaves(make):
    torch.manual_seed(0)
    pipe = make()
    dense = denoiser_of(pipe)
    groups = masked_groups(dense)
    masks = {one.group.name: torch.linspace(0.05, 1, len(one.reads)) for one in groups}
    for mask in masks.values():  # no two alike
        mask += 0.01 * torch.rand(len(mask))
    whole = sum(p.numel() for p in dense.parameters())
    pruned, left = without(dense, groups, leaving_first(groups, masks, 0.1 * whole))
    gone = whole - sum(p.numel() for p in pruned.parameters())
    assert 0.1 * whole <= gone < 0.1 * whole + max(one.price for one in groups)
    least = torch.cat(list(masks.values())).sort().values
    threshold = least[sum(kind["removed"] for kind in left.values())]
    with masked(dense, groups, {name: (m >= threshold).float() for name, m in masks.items()}):
        expected = drawn(pipe)
    setattr(pipe, "transformer" if hasattr(pipe, "transformer") else "unet", pruned)
    torch.testing.assert_close(drawn(pipe), expected, rtol=1e-3, atol=1e-4)


def test_samples_lie_between_zero_and_one_and_grow_with_the_logits():
    torch.manual_seed(0)
    low, middle, high = (sampled(torch.full((2000,), value)) for value in (-3.0, 0.0, 3.0))
    assert low.min() == 0
    assert high.max() == 1
    assert low.mean() < 0.1 < 0.45 < middle.mean() < 0.55 < 0.9 < high.mean()


@pytest.mark.slow
def test_the_masks_of_items_that_nothing_reads_fall(monkeypatch):
    for name, value in {"PROMPTS": 4, "EPOCHS": 6, "PENALTY": 1e-3, "RATE": 0.3}.items():
        monkeypatch.setattr(learned_masks, name, value)
    pipe = sd3()
    dense = pipe.transformer
    groups = masked_groups(dense)
    idle = {}
    for one in groups:
        idle[one.group.name] = half = torch.arange(len(one.reads)) % 2 == 0
        for name in one.group.consumers:
            layer_at(dense, name).weight.data[:, one.reads[half].flatten()] = 0
            layer_at(dense, name).weight.data[:, one.reads[~half].flatten()] *= 3
    lab = SimpleNamespace(
        dense=dense, pipe=pipe, shapes=layer_shapes(dense), calibration=PROMPTS, settings=CALL
    )
    found = learned(lab)
    for name, logits in found.items():
        assert logits[idle[name]].mean() + 0.5 < logits[~idle[name]].mean()
    assert all(p.grad is None for p in dense.parameters())


def test_the_penalty_is_of_the_mean_masks():
    groups = masked_groups(sd3().transformer)
    masks = {one.group.name: torch.full((len(one.reads),), 0.5) for one in groups}
    assert float(penalty(groups, masks)) == pytest.approx(0.5 * (0.4 + 1) * 0.5)
