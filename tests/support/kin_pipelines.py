"""Tiny pipelines of other families, with their own text encoders and VAEs: classes, pictures,
video, sound."""

import torch
from diffusers import (
    AutoencoderKLCogVideoX,
    AutoencoderKLWan,
    AutoencoderOobleck,
    CogVideoXDDIMScheduler,
    CogVideoXPipeline,
    DDIMScheduler,
    DiTPipeline,
    DPMSolverMultistepScheduler,
    EDMDPMSolverMultistepScheduler,
    FlowMatchEulerDiscreteScheduler,
    PixArtSigmaPipeline,
    StableAudioPipeline,
    StableAudioProjectionModel,
    WanPipeline,
)
from transformers import T5Config, T5EncoderModel, UMT5Config, UMT5EncoderModel

from ..conftest import randomise, tokenizer, vae
from ..coverage_of_models import build

SMALL_T5 = {
    "vocab_size": 514,
    "d_model": 24,
    "d_kv": 8,
    "d_ff": 32,
    "num_layers": 1,
    "num_heads": 2,
    "pad_token_id": 513,
    "eos_token_id": 513,
}


def t5() -> T5EncoderModel:
    return T5EncoderModel(T5Config(**SMALL_T5)).eval()


def dit() -> DiTPipeline:
    return DiTPipeline(
        build("DiTTransformer2DModel", num_embeds_ada_norm=1000, out_channels=8)[0],
        vae(),
        DDIMScheduler(),
    )


def pixart_sigma() -> PixArtSigmaPipeline:
    return PixArtSigmaPipeline(
        tokenizer(),
        t5(),
        vae(),
        build("PixArtTransformer2DModel", use_additional_conditions=False, out_channels=8)[0],
        DPMSolverMultistepScheduler(),
    )


def cogvideox() -> CogVideoXPipeline:
    """Five frames of 64 x 64 pixels: two of 8 x 8 latents."""
    video = AutoencoderKLCogVideoX(
        block_out_channels=(8, 8, 8, 8), latent_channels=4, layers_per_block=1, norm_num_groups=2,
        sample_height=64, sample_width=64,
    )  # fmt: skip
    return CogVideoXPipeline(
        tokenizer(), t5(), video, build("CogVideoXTransformer3DModel")[0], CogVideoXDDIMScheduler()
    )


def wan() -> WanPipeline:
    """Five frames of 64 x 64 pixels: two of 8 x 8 latents. Guidance is a second denoiser call in
    every step."""
    text = UMT5EncoderModel(UMT5Config(**SMALL_T5)).eval()
    video = AutoencoderKLWan(
        base_dim=4,
        z_dim=4,
        dim_mult=[1, 1, 1, 1],
        num_res_blocks=1,
        latents_mean=[0.0] * 4,
        latents_std=[1.0] * 4,
    )
    return WanPipeline(
        tokenizer(),
        text,
        randomise(video),
        FlowMatchEulerDiscreteScheduler(shift=3.0),
        build("WanTransformer3DModel")[0],
    )


def stable_audio() -> StableAudioPipeline:
    """Ten latents of sound."""
    torch.manual_seed(0)
    sound = AutoencoderOobleck(
        encoder_hidden_size=8,
        downsampling_ratios=[2, 4],
        channel_multiples=[1, 1],
        decoder_channels=8,
        decoder_input_channels=8,
        audio_channels=2,
        sampling_rate=8,
    )
    projection = StableAudioProjectionModel(
        text_encoder_dim=24, conditioning_dim=24, min_value=0, max_value=32
    )
    transformer = build("StableAudioDiTModel", global_states_input_dim=48)[0]
    return StableAudioPipeline(
        sound,
        t5(),
        projection,
        tokenizer(),
        transformer,
        EDMDPMSolverMultistepScheduler(prediction_type="v_prediction"),
    )
