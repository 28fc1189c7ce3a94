"""Shapes of a denoiser's call: latents, text tokens and arguments, from configs alone.

FAMILIES has the facts that a pipeline fixes and its configs do not state; ARGUMENTS (with frames:
VIDEO_ARGUMENTS) has for each denoiser class the function that makes the arguments of one forward.
A class needs an entry there only for the predictions of `inspect` and `plan` and for budgets in
multiply-accumulates; prune needs none.

height, width: of the latents, h x w, unless they are stated to be of the picture; L text tokens.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from .own_names import CLASS_PREFIX
from .structure import Tap

Config = Mapping[str, Any]
CallArguments = dict[str, Any]  # keyword arguments of a denoiser's forward

CLIP_TOKENS = 77  # of a tokenizer that states no model_max_length
LONGEST_TEXT = 100_000  # transformers writes 1e30 for a tokenizer without a limit
VAE_LEVELS = 4  # of an autoencoder whose config does not list them
TIME_IDS = 6  # SDXL's time_ids: original, crop and target size
FLUX_PACKING = 2
QWEN_PACKING = 2


@dataclass(frozen=True)
class Family:
    """Facts of a family of pipelines.

    Attributes:
        prefixes: beginnings of the pipelines' class names.
        text_tokens: text tokens of one prompt; None if the tokenizer's config states them.
        more_text_tokens: text tokens beside those of the first tokenizer.
        longest_text: text tokens of the longest prompt, if those of a prompt are its own.
        packing: side of the square of latents that the pipeline packs into one token; None if the
            denoiser's patch_size states it.
        in_pixels: the denoiser works on pixels, without an autoencoder.
        side: side of the latents of a picture whose size is not given; None if the denoiser's
            config states it.
        guided_apart: guidance is a second call of the denoiser, not a larger batch.
    """

    prefixes: tuple[str, ...]
    text_tokens: int | None = None
    more_text_tokens: int = 0
    longest_text: int | None = None
    packing: int | None = None
    in_pixels: bool = False
    side: int | None = None
    guided_apart: bool = False


OTHER = Family(("",))
FAMILIES = (
    Family(("Flux",), text_tokens=512, packing=FLUX_PACKING, side=128),
    Family(("QwenImage",), longest_text=512, side=128, guided_apart=True),
    Family(("Chroma", "HiDreamImage"), side=128),
    Family(("Wan",), text_tokens=512, guided_apart=True),
    # the third text encoder has 256 tokens, zeros if it is missing
    Family(("StableDiffusion3",), more_text_tokens=256),
    Family(("DDPM", "DDIM", "IF"), in_pixels=True),
    OTHER,
)


def family_of(pipeline: str) -> Family:
    """Return the first family whose prefixes match a pipeline's class name."""
    return next(family for family in FAMILIES if pipeline.startswith(family.prefixes))


def text_tokens(pipeline: str, tokenizer: Config | None) -> int | None:
    """Count the text tokens of one prompt.

    Args:
        pipeline: the pipeline's class name.
        tokenizer: its tokenizer_config.json; None if there is none.

    Returns:
        Text tokens; None if unknown.
    """
    family = family_of(pipeline)
    if family.text_tokens is not None:
        return family.text_tokens
    length = None if tokenizer is None else tokenizer.get("model_max_length", CLIP_TOKENS)
    if not isinstance(length, int) or not 0 < length < LONGEST_TEXT:
        return None
    return length + family.more_text_tokens


def pixels_per_latent(pipeline: str, vae: Config | None) -> int:
    """Return the pixels for each latent along a side.

    Args:
        pipeline: the pipeline's class name.
        vae: the config.json of its autoencoder; None if there is none.
    """
    if family_of(pipeline).in_pixels:
        return 1
    stated = (vae or {}).get("scale_factor_spatial")
    if isinstance(stated, int) and stated > 0:
        return stated
    levels = (vae or {}).get("block_out_channels", [0] * VAE_LEVELS)
    return 2 ** (len(levels) - 1)


def latent_side(pipeline: str, denoiser: Config) -> int | None:
    """Return the side of the latents of a picture whose size is not given; None if not known.

    Args:
        pipeline: the pipeline's class name.
        denoiser: the config.json of its denoiser.
    """
    stated = denoiser.get("sample_size")
    return stated if isinstance(stated, int) else family_of(pipeline).side


def has_arguments(denoiser: Config) -> bool:
    """Return whether the arguments of a denoiser's forward are known here, by its config.json."""
    return str(denoiser.get("_class_name")).removeprefix(CLASS_PREFIX) in {
        *ARGUMENTS,
        *VIDEO_ARGUMENTS,
    }


def latents_per_token(pipeline: str, denoiser: Config) -> int:
    """Return the side of the square of latents that one image token has at full resolution.

    Args:
        pipeline: the pipeline's class name.
        denoiser: the config.json of its denoiser.
    """
    packing = family_of(pipeline).packing
    patch = denoiser.get("patch_size", 1) if packing is None else packing
    return patch if isinstance(patch, int) else 1


def video_patch(denoiser: Config) -> tuple[int, int]:
    """Return frames and side of the latents of one image token of a model of videos, else 1, 1."""
    patch = denoiser.get("patch_size")
    if isinstance(patch, list | tuple) and len(patch) == 3:
        frames, *_, side = patch
        if all(isinstance(each, int) and each > 0 for each in (frames, side)):
            return frames, side
    return 1, 1


def halvings(layer: str, denoiser: Config) -> int:
    """Count how often a UNet has halved the latents in a layer's output; 0 in a transformer.

    Args:
        layer: the layer's name, such as down_blocks.1.attentions.0.proj_in.
        denoiser: the config.json of the denoiser.
    """
    first, *rest = layer.split(".")
    depth = len(denoiser.get("block_out_channels", [0])) - 1
    if first == "mid_block":
        return depth
    if not rest or not rest[0].isdecimal():
        return 0
    block = int(rest[0])
    sampled = {"downsamplers": 1, "upsamplers": -1}.get(rest[1], 0) if len(rest) > 1 else 0
    return sampled + {"down_blocks": block, "up_blocks": depth - block}.get(first, 0)


def tap_tokens(
    tap: Tap,
    pipeline: str,
    denoiser: Config,
    latents: tuple[int, int],
    text: int | None,
    frames: int = 1,
) -> int | None:
    """Count the tokens that a tap reads in one forward for one picture.

    Args:
        tap: the layers that read the tokens.
        pipeline: the pipeline's class name.
        denoiser: the config.json of its denoiser.
        latents: height and width of the latents.
        text: text tokens, None if unknown.
        frames: frames of latents.

    Returns:
        Tokens; None (or 0) if the tap reads text and its number is unknown.
    """
    each, patch = video_patch(denoiser)
    side = latents_per_token(pipeline, denoiser) * patch * 2 ** halvings(tap.layers[0], denoiser)
    image = (latents[0] // side) * (latents[1] // side) * (frames // each)
    return {"image": image, "text": text, "joint": text and image + text}[tap.stream]


def guidance_passes(denoiser: Config, guidance_scale: float | None) -> int:
    """Return the forwards of one denoising step: 2 with classifier-free guidance, else 1.

    Args:
        denoiser: the config.json of the denoiser; one with guidance embeddings needs one pass.
        guidance_scale: the pipeline's setting.
    """
    guided = guidance_scale is not None and guidance_scale > 1
    return 2 if guided and not denoiser.get("guidance_embeds") else 1


def reads_text(denoiser: Config) -> bool:
    """Return whether a denoiser reads text.

    Args:
        denoiser: its config.json, dense or pruned.
    """
    return str(denoiser.get("_class_name")).removeprefix(CLASS_PREFIX) not in UNCONDITIONAL


def joint_arguments(config: Config, height: int, width: int, text: int) -> CallArguments:
    """SD3 and SD3.5: latents (1, C, h, w), text (1, L, D), pooled text (1, P), time step (1,)."""
    return {
        "hidden_states": torch.empty(1, config["in_channels"], height, width),
        "encoder_hidden_states": torch.empty(1, text, config["joint_attention_dim"]),
        "pooled_projections": torch.empty(1, config["pooled_projection_dim"]),
        "timestep": torch.empty(1),
    }


def flux_arguments(config: Config, height: int, width: int, text: int) -> CallArguments:
    """FLUX: packed latents (1, T, C) and their positions (T, 3), text (1, L, D) and its (L, 3)."""
    image = (height // FLUX_PACKING) * (width // FLUX_PACKING)
    return {
        "hidden_states": torch.empty(1, image, config["in_channels"]),
        "encoder_hidden_states": torch.empty(1, text, config["joint_attention_dim"]),
        "pooled_projections": torch.empty(1, config["pooled_projection_dim"]),
        "timestep": torch.empty(1),
        "img_ids": torch.empty(image, 3),
        "txt_ids": torch.empty(text, 3),
        "guidance": torch.empty(1) if config.get("guidance_embeds") else None,
    }


def unet_arguments(config: Config, height: int, width: int, text: int) -> CallArguments:
    """SD and SDXL: latents (1, C, h, w), time step (1,), text (1, L, D); SDXL: pooled text, too."""
    arguments: CallArguments = {
        "sample": torch.empty(1, config["in_channels"], height, width),
        "timestep": torch.empty(1),
        "encoder_hidden_states": torch.empty(1, text, config["cross_attention_dim"]),
    }
    if config.get("addition_embed_type") == "text_time":
        embedded = config["projection_class_embeddings_input_dim"]
        pooled = embedded - TIME_IDS * config["addition_time_embed_dim"]
        arguments["added_cond_kwargs"] = {
            "text_embeds": torch.empty(1, pooled),
            "time_ids": torch.empty(1, TIME_IDS),
        }
    return arguments


def unconditional_arguments(config: Config, height: int, width: int, text: int) -> CallArguments:
    """DDPM: latents or pixels (1, C, h, w), time step (1,)."""
    return {
        "sample": torch.empty(1, config["in_channels"], height, width),
        "timestep": torch.empty(1),
    }


def qwen_arguments(config: Config, height: int, width: int, text: int) -> CallArguments:
    """Qwen-Image: packed latents (1, T, C) and their grid, text (1, L, D), time step (1,)."""
    rows, columns = height // QWEN_PACKING, width // QWEN_PACKING
    return {
        "hidden_states": torch.empty(1, rows * columns, config["in_channels"]),
        "encoder_hidden_states": torch.empty(1, text, config["joint_attention_dim"]),
        "timestep": torch.empty(1),
        "img_shapes": [[(1, rows, columns)]],
    }


def wan_arguments(config: Config, height: int, width: int, text: int, frames: int) -> CallArguments:
    """Wan: latents (1, C, f, h, w), text (1, L, D), time step (1,)."""
    return {
        "hidden_states": torch.empty(1, config["in_channels"], frames, height, width),
        "encoder_hidden_states": torch.empty(1, text, config["text_dim"]),
        "timestep": torch.empty(1),
    }


ARGUMENTS: dict[str, Callable[[Config, int, int, int], CallArguments]] = {
    "SD3Transformer2DModel": joint_arguments,
    "FluxTransformer2DModel": flux_arguments,
    "UNet2DConditionModel": unet_arguments,
    "UNet2DModel": unconditional_arguments,
    "QwenImageTransformer2DModel": qwen_arguments,
}
VIDEO_ARGUMENTS: dict[str, Callable[[Config, int, int, int, int], CallArguments]] = {
    "WanTransformer3DModel": wan_arguments,
}
UNCONDITIONAL = ("UNet2DModel",)
