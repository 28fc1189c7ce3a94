"""The paper's models: the block structure of their public configs, layer for layer, with small
widths and random weights.

Hugging Face repositories of the configs: stable-diffusion-v1-5/stable-diffusion-v1-5,
stabilityai/stable-diffusion-2-1, stable-diffusion-xl-base-1.0, stable-diffusion-3-medium-diffusers,
stable-diffusion-3.5-medium, stable-diffusion-3.5-large, black-forest-labs/FLUX.1-dev and
FLUX.1-schnell.
"""

import torch
from diffusers import (
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    FluxPipeline,
    FluxTransformer2DModel,
    LCMScheduler,
    PNDMScheduler,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from transformers import CLIPTextModel, CLIPTextModelWithProjection, T5Config, T5EncoderModel

from ..conftest import randomise, text_config, tokenizer, vae

NOISE = {
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "steps_offset": 1,
}


def sd_unet(heads, **more) -> UNet2DConditionModel:
    """Four levels of two layers, the deepest without attention: 6 + 1 + 9 transformer blocks."""
    return UNet2DConditionModel(
        sample_size=8, block_out_channels=(16, 16, 32, 32), layers_per_block=2, norm_num_groups=4,
        cross_attention_dim=16, attention_head_dim=heads,
        down_block_types=("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
        up_block_types=("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3, **more,
    )  # fmt: skip


def sd(unet, scheduler) -> StableDiffusionPipeline:
    return StableDiffusionPipeline(
        vae(),
        CLIPTextModel(text_config()),
        tokenizer(),
        randomise(unet),
        scheduler,
        None,
        None,
        requires_safety_checker=False,
    )


def sd15(scheduler=None) -> StableDiffusionPipeline:
    torch.manual_seed(0)
    return sd(
        sd_unet(4), scheduler or PNDMScheduler(skip_prk_steps=True, set_alpha_to_one=False, **NOISE)
    )


def sd21(prediction: str = "v_prediction", scheduler=DDIMScheduler) -> StableDiffusionPipeline:
    torch.manual_seed(0)
    unet = sd_unet(
        [2, 2, 4, 4], use_linear_projection=True
    )  # public: [5, 10, 20, 20], a head of 64 at every level
    return sd(unet, scheduler(prediction_type=prediction, **NOISE))


def sdxl(scheduler=None) -> StableDiffusionXLPipeline:
    """Three levels, of which two have attention, of 2 and 10 transformer blocks each; two text
    encoders, sizes as conditions."""
    torch.manual_seed(0)
    unet = UNet2DConditionModel(
        sample_size=8, block_out_channels=(16, 16, 32), layers_per_block=2, norm_num_groups=4,
        cross_attention_dim=32, attention_head_dim=[2, 2, 4],
        transformer_layers_per_block=[1, 2, 10], use_linear_projection=True,
        addition_embed_type="text_time", addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=16 + 6 * 8,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    )  # fmt: skip
    encoders = CLIPTextModel(text_config()), CLIPTextModelWithProjection(text_config())
    scheduler = scheduler or EulerDiscreteScheduler(timestep_spacing="leading", **NOISE)
    return StableDiffusionXLPipeline(
        vae(),
        *encoders,
        tokenizer(),
        tokenizer(),
        randomise(unet),
        scheduler,
        add_watermarker=False,
    )


def sdxl_distilled() -> StableDiffusionXLPipeline:
    return sdxl(LCMScheduler(original_inference_steps=50, **NOISE))


def sd3(layers: int, heads: int, **more) -> StableDiffusion3Pipeline:
    torch.manual_seed(0)
    transformer = SD3Transformer2DModel(
        sample_size=8, in_channels=4, out_channels=4, num_layers=layers, attention_head_dim=8,
        num_attention_heads=heads, joint_attention_dim=32, caption_projection_dim=8 * heads,
        pooled_projection_dim=32, pos_embed_max_size=8, **more,
    )  # fmt: skip
    encoders = [CLIPTextModelWithProjection(text_config()) for _ in range(2)]
    scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0)
    return StableDiffusion3Pipeline(
        randomise(transformer),
        scheduler,
        vae(),
        encoders[0],
        tokenizer(),
        encoders[1],
        tokenizer(),
        None,
        None,
    )


def sd3_medium() -> StableDiffusion3Pipeline:
    return sd3(24, 3)


def sd35_medium() -> StableDiffusion3Pipeline:
    return sd3(24, 3, qk_norm="rms_norm", dual_attention_layers=tuple(range(13)))


def sd35_large() -> StableDiffusion3Pipeline:
    return sd3(38, 4, qk_norm="rms_norm")


def flux(guidance: bool) -> FluxPipeline:
    torch.manual_seed(0)
    transformer = FluxTransformer2DModel(
        in_channels=16, num_layers=19, num_single_layers=38, attention_head_dim=8,
        num_attention_heads=3, joint_attention_dim=16, pooled_projection_dim=16,
        guidance_embeds=guidance, axes_dims_rope=(2, 2, 4),
    )  # fmt: skip
    t5 = T5EncoderModel(
        T5Config(
            vocab_size=514,
            d_model=16,
            d_kv=8,
            d_ff=32,
            num_layers=1,
            num_heads=2,
            pad_token_id=513,
            eos_token_id=513,
        )
    ).eval()
    scheduler = FlowMatchEulerDiscreteScheduler(
        shift=3.0 if guidance else 1.0, use_dynamic_shifting=guidance
    )
    return FluxPipeline(
        scheduler,
        vae(4, 0.1),
        CLIPTextModel(text_config()),
        tokenizer(),
        t5,
        tokenizer(),
        randomise(transformer),
    )


def flux_dev() -> FluxPipeline:
    return flux(True)


def flux_schnell() -> FluxPipeline:
    return flux(False)


def dpm(pipe: StableDiffusionPipeline) -> StableDiffusionPipeline:
    pipe.scheduler = DPMSolverMultistepScheduler.from_config(pipe.scheduler.config)
    return pipe
