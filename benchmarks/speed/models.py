"""The pipelines that speed is measured on, in float32: an SD3 of random weights, and the built-in
models."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    FlowMatchEulerDiscreteScheduler,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
)
from tokenizers import pre_tokenizers
from transformers import CLIPTextConfig, CLIPTextModelWithProjection, CLIPTokenizer

from obsdiff import builtin_path
from obsdiff.pipelines.folder import open_folder
from obsdiff.pipelines.load import load_pipeline
from obsdiff.pipelines.prompt_files import read_prompts

TOKENS = 77  # of the CLIPs; the absent T5 adds 256 zero tokens
HEAD = 64
THINGS = ("red fox", "wooden boat", "clock", "bowl of apples", "tall lighthouse", "sleeping cat")
PLACES = ("in the snow", "on a lake", "beside a stone wall", "under a full moon")
PROMPTS = [f"a {thing} {place}" for thing in THINGS for place in PLACES]


def random_sd3(blocks: int, heads: int, side: int) -> StableDiffusion3Pipeline:
    """A latent of 16 x side x side: for side 32, 256 image and 77 + 256 text tokens, pictures of
    256 x 256."""
    torch.manual_seed(0)
    transformer = SD3Transformer2DModel(
        sample_size=side, patch_size=2, in_channels=16, out_channels=16, num_layers=blocks,
        attention_head_dim=HEAD, num_attention_heads=heads, joint_attention_dim=1024,
        caption_projection_dim=heads * HEAD, pooled_projection_dim=512, pos_embed_max_size=side,
        qk_norm="rms_norm",
    )  # fmt: skip
    vae = AutoencoderKL(
        block_out_channels=(32, 64, 128, 128), down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4, layers_per_block=2, latent_channels=16,
        norm_num_groups=8, sample_size=8 * side, scaling_factor=1.5305, shift_factor=0.0609,
    )  # fmt: skip
    clips = [text_encoder().eval() for _ in range(2)]
    words = tokenizer()
    return StableDiffusion3Pipeline(
        transformer.eval(),
        FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae.eval(),
        clips[0],
        words,
        clips[1],
        words,
        None,
        None,
    )


def text_encoder() -> CLIPTextModelWithProjection:
    return CLIPTextModelWithProjection(
        CLIPTextConfig(
            vocab_size=514, hidden_size=256, intermediate_size=1024, num_hidden_layers=4,
            num_attention_heads=4, max_position_embeddings=TOKENS,
            projection_dim=256, bos_token_id=512, eos_token_id=513, pad_token_id=513,
        )
    )  # fmt: skip


def tokenizer() -> CLIPTokenizer:
    """Every byte, alone and at a word's end, and the two special tokens."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = alphabet + [a + "</w>" for a in alphabet] + ["<|startoftext|>", "<|endoftext|>"]
    return CLIPTokenizer(
        vocab={t: i for i, t in enumerate(tokens)}, merges=[], model_max_length=TOKENS
    )


def sd3_8x768(shrink: int = 1) -> tuple[Any, list[str], dict[str, Any]]:
    """Pipeline, calibration prompts, size and guidance of the pictures; a small one if it is to be
    shrunk."""
    blocks, heads, side = (8, 12, 32) if shrink == 1 else (4, 2, 8)
    return (
        random_sd3(blocks, heads, side),
        PROMPTS,
        {"height": 8 * side, "width": 8 * side, "guidance_scale": 7.0},
    )


def emoji(model: str, guidance: float, shrink: int = 1) -> tuple[Any, list[str], dict[str, Any]]:
    """A built-in model, whole whatever `shrink`."""
    folder = builtin_path(model)
    prompts = read_prompts(folder / "calibration_prompts.txt")[: len(PROMPTS)]
    return (
        load_pipeline(open_folder(folder), dtype="float32")[0],
        prompts,
        {"height": 64, "width": 64, "guidance_scale": guidance},
    )


MODELS: dict[str, Callable[..., tuple[Any, list[str], dict[str, Any]]]] = {
    "sd3-8x768": sd3_8x768,
    "emoji-sd3": partial(emoji, "emoji-sd3", 4.0),
    "emoji-unet": partial(emoji, "emoji-unet", 3.0),
}
