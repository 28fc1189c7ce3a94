"""Tiny pipelines of the supported kinds, built from configs with random weights; nothing is
downloaded."""

import os

import pytest
import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    DDPMPipeline,
    DDPMScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    FluxPipeline,
    FluxTransformer2DModel,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
    UNet2DModel,
)
from tokenizers import pre_tokenizers
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    T5Config,
    T5EncoderModel,
)

PROMPTS = [
    "red apple",
    "green pear",
    "blue bird",
    "old house",
    "two cats",
    "a moon",
    "snow",
    "fish",
]


def pytest_configure(config) -> None:
    """One thread for every process of the tests and those they start: `make test` runs several."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))


def tokenizer(length: int = 24) -> CLIPTokenizer:
    """Every byte, alone and at a word's end, and the two special tokens; their ids are not 2."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = alphabet + [a + "</w>" for a in alphabet] + ["<|startoftext|>", "<|endoftext|>"]
    return CLIPTokenizer(
        vocab={t: i for i, t in enumerate(tokens)}, merges=[], model_max_length=length
    )


def text_config(width: int = 16, length: int = 24) -> CLIPTextConfig:
    return CLIPTextConfig(
        vocab_size=514, hidden_size=width, intermediate_size=2 * width, num_hidden_layers=2,
        num_attention_heads=2, max_position_embeddings=length, projection_dim=width,
        bos_token_id=512, eos_token_id=513, pad_token_id=513,
    )  # fmt: skip


def vae(channels: int = 4, shift: float | None = 0.0) -> AutoencoderKL:
    return AutoencoderKL(
        block_out_channels=(8, 16), down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2, layers_per_block=1, latent_channels=channels,
        norm_num_groups=4, sample_size=16, mid_block_add_attention=False, shift_factor=shift,
    )  # fmt: skip


def randomise(model: torch.nn.Module) -> torch.nn.Module:
    """Add noise to all parameters: biases and modulation of a fresh model are often zero."""
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.02 * torch.randn_like(p))
    return model.eval()


def sd3(layers: int = 3, dual: tuple[int, ...] = ()) -> StableDiffusion3Pipeline:
    """3 blocks of 4 heads of 8, 4 x 4 image tokens, 8 + 256 text tokens; the last block has no text
    output."""
    torch.manual_seed(0)
    transformer = SD3Transformer2DModel(
        sample_size=8, patch_size=2, in_channels=4, out_channels=4, num_layers=layers,
        attention_head_dim=8, num_attention_heads=4, joint_attention_dim=32,
        caption_projection_dim=32, pooled_projection_dim=32, pos_embed_max_size=8,
        qk_norm="rms_norm", dual_attention_layers=dual,
    )  # fmt: skip
    encoders = [CLIPTextModelWithProjection(text_config()) for _ in range(2)]
    return StableDiffusion3Pipeline(
        randomise(transformer),
        FlowMatchEulerDiscreteScheduler(shift=1.0),
        vae(),
        encoders[0],
        tokenizer(),
        encoders[1],
        tokenizer(),
        None,
        None,
    )


def sd() -> StableDiffusionPipeline:
    torch.manual_seed(0)
    unet = UNet2DConditionModel(
        sample_size=8, in_channels=4, out_channels=4, block_out_channels=(16, 32),
        layers_per_block=1, norm_num_groups=4, cross_attention_dim=16, attention_head_dim=4,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
    )  # fmt: skip
    scheduler = DDIMScheduler(clip_sample=False, steps_offset=1, set_alpha_to_one=False)
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


def ddpm(**changes) -> DDPMPipeline:
    """The unconditional UNet of google/ddpm-cifar10-32 with small widths: pixels of 8 x 8, one
    attention of one head a level."""
    torch.manual_seed(0)
    settings = {
        "sample_size": 8, "in_channels": 3, "out_channels": 3, "block_out_channels": (16, 32, 32),
        "layers_per_block": 1, "norm_num_groups": 8, "norm_eps": 1e-6, "attention_head_dim": None,
        "downsample_padding": 0, "flip_sin_to_cos": False, "freq_shift": 1,
        "down_block_types": ("DownBlock2D", "AttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
    }  # fmt: skip
    return DDPMPipeline(
        randomise(UNet2DModel(**settings | changes)), DDPMScheduler(num_train_timesteps=1000)
    )


def flux() -> FluxPipeline:
    torch.manual_seed(0)
    transformer = FluxTransformer2DModel(
        patch_size=1, in_channels=16, num_layers=2, num_single_layers=2, attention_head_dim=16,
        num_attention_heads=2, joint_attention_dim=16, pooled_projection_dim=16,
        guidance_embeds=True, axes_dims_rope=(4, 6, 6),
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
    scheduler = FlowMatchEulerDiscreteScheduler()
    return FluxPipeline(
        scheduler,
        vae(4, 0.1),
        CLIPTextModel(text_config()),
        tokenizer(),
        t5,
        tokenizer(),
        randomise(transformer),
    )


@pytest.fixture
def sd3_pipe() -> StableDiffusion3Pipeline:
    return sd3()


@pytest.fixture(scope="session")
def sd3_folder(tmp_path_factory) -> str:
    """The tiny SD3 pipeline on disk, in float16."""
    folder = tmp_path_factory.mktemp("models") / "sd3"
    sd3().to(torch.float16).save_pretrained(folder, safe_serialization=True)
    return str(folder)


@pytest.fixture
def prompts_file(tmp_path) -> str:
    file = tmp_path / "prompts.txt"
    file.write_text("\n".join(PROMPTS) + "\n", encoding="utf-8")
    return str(file)


def sdxl() -> StableDiffusionXLPipeline:
    """Two text encoders of 8 and 16 features, time ids, one and two transformer layers a block."""
    torch.manual_seed(0)
    unet = UNet2DConditionModel(
        sample_size=8, in_channels=4, out_channels=4, block_out_channels=(16, 32),
        layers_per_block=1, norm_num_groups=4, cross_attention_dim=24, attention_head_dim=(2, 4),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"), transformer_layers_per_block=(1, 2),
        use_linear_projection=True, addition_embed_type="text_time", addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=6 * 8 + 16,
    )  # fmt: skip
    encoders = CLIPTextModel(text_config(8)), CLIPTextModelWithProjection(text_config(16))
    scheduler = EulerDiscreteScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        steps_offset=1,
        timestep_spacing="leading",
    )
    return StableDiffusionXLPipeline(
        vae(),
        *encoders,
        tokenizer(),
        tokenizer(),
        randomise(unet),
        scheduler,
        add_watermarker=False,
    )
