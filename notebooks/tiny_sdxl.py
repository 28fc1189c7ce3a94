"""An SDXL of random weights that a CPU prunes in seconds, to try a notebook before the real one."""

from pathlib import Path

import torch
from diffusers import (
    AutoencoderKL,
    EulerDiscreteScheduler,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

import obsdiff


def tiny_sdxl(folder: str | Path) -> Path:
    """Write the pipeline, with the tokenizer and text encoders of the built-in emoji-sd3.

    Args:
        folder: the folder to write.

    Returns:
        The folder.
    """
    texts = obsdiff.builtin_path("emoji-sd3")
    torch.manual_seed(0)
    encoder = CLIPTextModelWithProjection.from_pretrained(texts / "text_encoder").float()
    width, pooled = encoder.config.hidden_size, encoder.config.projection_dim
    unet = UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(32, 64),
        norm_num_groups=8,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        transformer_layers_per_block=(1, 2),
        attention_head_dim=(4, 8),
        cross_attention_dim=2 * width,  # both encoders' hidden states side by side
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=pooled + 6 * 8,  # six sizes
    )
    vae = AutoencoderKL(
        block_out_channels=(8, 8, 8, 8),
        norm_num_groups=4,
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
    )
    pipe = StableDiffusionXLPipeline(
        vae,
        CLIPTextModel.from_pretrained(texts / "text_encoder").float(),
        encoder,
        CLIPTokenizer.from_pretrained(texts / "tokenizer"),
        CLIPTokenizer.from_pretrained(texts / "tokenizer"),
        unet,
        EulerDiscreteScheduler(timestep_spacing="leading", beta_schedule="scaled_linear"),
        add_watermarker=False,
    )
    pipe.save_pretrained(folder)
    return Path(folder)
