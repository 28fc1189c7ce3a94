"""Folders of models as large as the public ones, with random bfloat16 weights, written shard by
shard: the whole model is never in memory.

The denoiser has the public config. Text encoders and VAE are tiny, so the denoiser dominates.
"""

import json
import math
from collections.abc import Iterator
from pathlib import Path

import torch
from diffusers import (
    AutoencoderKL,
    FlowMatchEulerDiscreteScheduler,
    FluxPipeline,
    FluxTransformer2DModel,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
)
from safetensors.torch import save_file
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    T5Config,
    T5EncoderModel,
)

from tests.conftest import tokenizer

from .sizes import FLUX_DEV, SD3_MEDIUM

SHARD = 2**30  # bytes


def write_weights(folder: Path, model: torch.nn.Module) -> int:
    """Random weights for a model on the meta device, as its pipeline's loader expects them; returns
    their number. Matrices have entries of variance 1 / columns, norms are ones."""
    folder.mkdir(parents=True, exist_ok=True)
    parts = list(shards(model))
    index, names = (
        {},
        [
            f"diffusion_pytorch_model-{i + 1:05}-of-{len(parts):05}.safetensors"
            for i in range(len(parts))
        ],
    )
    generator = torch.Generator().manual_seed(0)
    for name, part in zip(names, parts, strict=True):
        save_file(
            {key: filled(key, shape, generator) for key, shape in part.items()}, folder / name
        )
        index |= dict.fromkeys(part, name)
    total = sum(math.prod(shape) for part in parts for shape in part.values())
    text = json.dumps({"metadata": {"total_size": 2 * total}, "weight_map": index})
    (folder / "diffusion_pytorch_model.safetensors.index.json").write_text(text)
    model.save_config(folder)
    return total


def shards(model: torch.nn.Module) -> Iterator[dict[str, torch.Size]]:
    """The shapes of a model's tensors, a gigabyte at a time."""
    part, size = {}, 0
    for key, tensor in model.state_dict().items():
        if part and size + 2 * tensor.numel() > SHARD:
            yield part
            part, size = {}, 0
        part[key] = tensor.shape
        size += 2 * tensor.numel()
    yield part


def filled(key: str, shape: torch.Size, generator: torch.Generator) -> torch.Tensor:
    if len(shape) < 2:
        return (torch.ones if "norm" in key and key.endswith("weight") else torch.zeros)(
            shape, dtype=torch.bfloat16
        )
    return torch.randn(shape, generator=generator, dtype=torch.bfloat16).div_(
        math.prod(shape[1:]) ** 0.5
    )


def clip(hidden: int, projection: int) -> CLIPTextConfig:
    return CLIPTextConfig(
        vocab_size=514, hidden_size=hidden, intermediate_size=hidden, num_hidden_layers=1,
        num_attention_heads=2, max_position_embeddings=77, projection_dim=projection,
        bos_token_id=512, eos_token_id=513, pad_token_id=513,
    )  # fmt: skip


def vae(channels: int) -> AutoencoderKL:
    """Two levels: latents of half the picture's side."""
    kinds = {
        "down_block_types": ("DownEncoderBlock2D",) * 2,
        "up_block_types": ("UpDecoderBlock2D",) * 2,
    }
    return AutoencoderKL(
        block_out_channels=(8, 8),
        layers_per_block=1,
        latent_channels=channels,
        norm_num_groups=4,
        shift_factor=0.0,
        **kinds,
    )


def t5(width: int) -> T5EncoderModel:
    return T5EncoderModel(
        T5Config(
            vocab_size=514,
            d_model=width,
            d_kv=8,
            d_ff=8,
            num_layers=1,
            num_heads=1,
            pad_token_id=513,
            eos_token_id=513,
        )
    )


def sd3_medium(folder: Path) -> int:
    with torch.device("meta"):
        transformer = SD3Transformer2DModel(**SD3_MEDIUM)
    encoders = [CLIPTextModelWithProjection(clip(32, 1024)) for _ in range(2)]
    pipe = StableDiffusion3Pipeline(
        None,
        FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae(16),
        encoders[0],
        tokenizer(77),
        encoders[1],
        tokenizer(77),
        t5(4096),
        tokenizer(77),
    )
    return write(folder, pipe, transformer)


def flux_dev(folder: Path) -> int:
    with torch.device("meta"):
        transformer = FluxTransformer2DModel(**FLUX_DEV)
    pipe = FluxPipeline(
        FlowMatchEulerDiscreteScheduler(),
        vae(16),
        CLIPTextModel(clip(768, 768)),
        tokenizer(77),
        t5(4096),
        tokenizer(77),
        None,
    )
    return write(folder, pipe, transformer)


def write(folder: Path, pipe, transformer: torch.nn.Module) -> int:
    """Write the pipeline's folder, with new weights of the transformer."""
    pipe.to(torch.bfloat16).save_pretrained(folder, safe_serialization=True)
    total = write_weights(folder / "transformer", transformer)
    index = json.loads((folder / "model_index.json").read_text())
    (folder / "model_index.json").write_text(
        json.dumps(index | {"transformer": ["diffusers", type(transformer).__name__]}, indent=2)
    )
    return total


MODELS = {"sd3-medium": sd3_medium, "flux-dev": flux_dev}
