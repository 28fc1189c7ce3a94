"""Attention slicing of a UNet with few heads left, and different numbers of them."""

import pytest
import torch

from ..conftest import PROMPTS, sd
from ..support.cut_heads import cut_


def latents(pipe):
    noise = torch.Generator().manual_seed(0)
    settings = {"num_inference_steps": 2, "height": 16, "width": 16, "output_type": "latent"}
    return pipe(PROMPTS[0], generator=noise, **settings).images


@pytest.mark.parametrize("size", ["auto", "max", 2])
def test_with_one_head_left_it_draws_the_same(size):
    pipe = sd()
    for _ in range(3):
        cut_(pipe.unet, "heads")
    attentions = [m for name, m in pipe.unet.named_modules() if name.endswith(("attn1", "attn2"))]
    assert {attention.heads for attention in attentions} == {1}
    expected = latents(pipe)
    pipe.enable_attention_slicing(size)
    assert {attention.processor.slice_size for attention in attentions} == {1}
    assert (latents(pipe) - expected).abs().max() <= 1e-4 * expected.abs().max()
    pipe.disable_attention_slicing()
    assert torch.equal(latents(pipe), expected)
