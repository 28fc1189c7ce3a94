"""Tokens and arguments of a denoiser's call, from configs alone."""

import pytest
import torch

from obsdiff.models.activation_memory import held_by_call
from obsdiff.models.call_shapes import (
    ARGUMENTS,
    UNCONDITIONAL,
    guidance_passes,
    halvings,
    latents_per_token,
    pixels_per_latent,
    reads_text,
    tap_tokens,
    text_tokens,
)
from obsdiff.models.meta_device import build_on_meta, example_inputs, forward_macs
from obsdiff.models.structure import Tap

from ..conftest import ddpm, flux, sd, sd3
from ..support.lanes import first_quick
from ..tiny_models import TINY

VAE = {"block_out_channels": [128, 256, 512, 512]}
SDXL = {"block_out_channels": [320, 640, 1280]}


@pytest.mark.parametrize(
    ("pipeline", "tokenizer", "tokens"),
    [
        ("FluxPipeline", {"model_max_length": 77}, 512),
        ("FluxPipeline", None, 512),
        ("StableDiffusion3Pipeline", {"model_max_length": 77}, 77 + 256),
        ("StableDiffusion3Pipeline", None, None),
        ("StableDiffusionPipeline", {"model_max_length": 24}, 24),
        ("StableDiffusionPipeline", {}, 77),
        ("PixArtSigmaPipeline", {"model_max_length": int(1e30)}, None),
        ("PixArtSigmaPipeline", {"model_max_length": 0}, None),
        ("PixArtSigmaPipeline", {"model_max_length": "77"}, None),
        ("DDPMPipeline", None, None),
    ],
)
def test_text_tokens_of_a_prompt(pipeline, tokenizer, tokens):
    assert text_tokens(pipeline, tokenizer) == tokens


@pytest.mark.parametrize(
    ("pipeline", "vae", "pixels"),
    [
        ("StableDiffusion3Pipeline", VAE, 8),
        ("StableDiffusionPipeline", {"block_out_channels": [64, 128]}, 2),
        ("StableDiffusionPipeline", {}, 8),
        ("StableDiffusionPipeline", None, 8),
        ("DDPMPipeline", None, 1),
        ("IFPipeline", None, 1),
    ],
)
def test_pixels_for_each_latent(pipeline, vae, pixels):
    assert pixels_per_latent(pipeline, vae) == pixels


@pytest.mark.parametrize(
    ("pipeline", "denoiser", "side"),
    [
        ("FluxPipeline", {"patch_size": 1}, 2),
        ("StableDiffusion3Pipeline", {"patch_size": 2}, 2),
        ("StableDiffusionPipeline", {}, 1),
        ("HunyuanVideoPipeline", {"patch_size": [1, 2, 2]}, 1),
    ],
)
def test_latents_for_each_image_token(pipeline, denoiser, side):
    assert latents_per_token(pipeline, denoiser) == side


@pytest.mark.parametrize(
    ("layer", "level"),
    [
        ("down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q", 1),
        ("down_blocks.0.downsamplers.0.conv", 1),
        ("down_blocks.0.resnets.0.conv1", 0),
        ("mid_block.attentions.0.proj_in", 2),
        ("up_blocks.0.attentions.0.proj_in", 2),
        ("up_blocks.0.upsamplers.0.conv", 1),
        ("up_blocks.2.resnets.0.conv1", 0),
        ("conv_in", 0),
        ("time_embedding.linear_1", 0),
    ],
)
def test_a_layers_level_in_a_unet(layer, level):
    assert halvings(layer, SDXL) == level


def test_a_transformer_has_one_level():
    assert halvings("transformer_blocks.3.attn.to_q", {"patch_size": 2}) == 0


@pytest.mark.parametrize(
    ("pipeline", "denoiser", "layer", "stream", "tokens"),
    [
        ("StableDiffusion3Pipeline", {"patch_size": 2}, "transformer_blocks.0.q", "image", 64 * 64),
        ("StableDiffusion3Pipeline", {"patch_size": 2}, "transformer_blocks.0.q", "text", 333),
        ("FluxPipeline", {}, "single_transformer_blocks.0.proj_mlp", "joint", 64 * 64 + 333),
        ("StableDiffusionXLPipeline", SDXL, "mid_block.attentions.0.q", "image", 32 * 32),
    ],
)
def test_tokens_that_a_tap_reads(pipeline, denoiser, layer, stream, tokens):
    """At 1024 x 1024, with 333 text tokens."""
    tap = Tap((layer,), "attention", stream)
    assert tap_tokens(tap, pipeline, denoiser, (128, 128), 333) == tokens


@pytest.mark.parametrize("stream", ["text", "joint"])
def test_unknown_text_tokens_leave_a_taps_tokens_unknown(stream):
    tap = Tap(("blocks.0.q",), "attention", stream)
    assert tap_tokens(tap, "PixArtSigmaPipeline", {}, (16, 16), None) is None


@pytest.mark.parametrize(
    ("denoiser", "scale", "passes"),
    [({}, 7.0, 2), ({}, 1.0, 1), ({}, None, 1), ({"guidance_embeds": True}, 3.5, 1)],
)
def test_guidance_needs_a_second_pass(denoiser, scale, passes):
    assert guidance_passes(denoiser, scale) == passes


@pytest.mark.parametrize("make", first_quick([sd3, flux, sd, ddpm]))
def test_a_forward_accepts_its_arguments_at_any_size(make):
    """Text and latents of the given size are in the arguments, and the model runs with them."""
    pipe = make()
    dense = getattr(pipe, "transformer", None) or pipe.unet
    config = dict(dense.config) | {"_class_name": type(dense).__name__}
    model = build_on_meta(config)
    small, large = (example_inputs(model, side, side, 5) for side in (8, 16))
    assert forward_macs(model, large).total > forward_macs(model, small).total > 0
    tensors = [x for x in large.values() if isinstance(x, torch.Tensor)]
    assert all(x.device.type == "meta" for x in tensors)
    with_text = "encoder_hidden_states" in large
    pruned = config | {"_class_name": f"Pruned{type(dense).__name__}"}
    assert with_text == reads_text(config) == reads_text(pruned)
    assert not with_text or large["encoder_hidden_states"].shape[:2] == (1, 5)


@pytest.mark.parametrize("cls", ["QwenImageTransformer2DModel", "WanTransformer3DModel"])
def test_arguments_have_the_shapes_of_a_real_call(cls):
    """Of 8 x 8 latents, two frames of them in a video; the model runs on the meta device, too."""
    config, inputs = TINY[cls]
    call, model = inputs(), build_on_meta(config | {"_class_name": cls})
    text = call["encoder_hidden_states"].shape[1]
    made = example_inputs(model, 8, 8, text, 2)
    for name, value in made.items():
        found = value.shape[1:] if isinstance(value, torch.Tensor) else value
        assert found == (call[name].shape[1:] if isinstance(value, torch.Tensor) else call[name])
    larger = example_inputs(model, 16, 16, text, 2)
    assert forward_macs(model, larger).total > forward_macs(model, made).total > 0
    assert held_by_call(model, larger, 4).peak > held_by_call(model, made, 4).peak > 0


def test_every_class_without_text_has_arguments():
    assert set(UNCONDITIONAL) < set(ARGUMENTS)
