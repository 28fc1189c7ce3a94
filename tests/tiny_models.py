"""One tiny model of every denoiser class of diffusers: a config, and the arguments of one forward call.

Structures are whole (streams, refiners, experts, gates), widths are small: 4 heads of 16 where nothing else is asked for. TINY maps a
class name to (config, arguments); arguments are made by a function, with random tensors from torch's seed. NOT_PRUNED says of the
classes that are no denoisers why not; LEFT_OUT and FLOAT32 name what is special.
"""

from typing import Any

import torch
from torch import Tensor

B, TEXT, SIDE = 1, 6, 8  # pictures, text tokens, height and width of the latents
HEADS = {"num_attention_heads": 4, "attention_head_dim": 16}


def x(*shape: int) -> Tensor:
    """Latents, or hidden states of any kind."""
    return torch.randn(*shape)


def t(*shape: int) -> Tensor:
    """Time steps."""
    return torch.full(shape or (B,), 500.0)


def ones(*shape: int, dtype: torch.dtype = torch.bool) -> Tensor:
    return torch.ones(*shape, dtype=dtype)


def ids(rows: int, axes: int = 3) -> Tensor:
    """Positions of packed tokens."""
    return torch.arange(rows * axes, dtype=torch.float32).view(rows, axes) % 5


# FLUX and its kin: packed image tokens beside text
FLUX = HEADS | {
    "num_layers": 1,
    "num_single_layers": 2,
    "in_channels": 16,
    "joint_attention_dim": 24,
    "axes_dims_rope": (4, 6, 6),
}


def flux(**more: Any) -> dict[str, Any]:
    found = {
        "hidden_states": x(B, 16, 16),
        "encoder_hidden_states": x(B, TEXT, 24),
        "timestep": t() / 1000,
        "img_ids": ids(16),
        "txt_ids": ids(TEXT),
    }
    return found | more


# Wan and its kin: video latents, text by cross attention
WAN = HEADS | {
    "in_channels": 4,
    "out_channels": 4,
    "text_dim": 24,
    "freq_dim": 32,
    "ffn_dim": 48,
    "num_layers": 2,
    "rope_max_seq_len": 32,
}


def wan(channels: int = 4, **more: Any) -> dict[str, Any]:
    return {
        "hidden_states": x(B, channels, 2, SIDE, SIDE),
        "timestep": t().long(),
        "encoder_hidden_states": x(B, TEXT, 24),
    } | more


COGVIDEO = HEADS | {
    "in_channels": 4, "out_channels": 4, "time_embed_dim": 32, "text_embed_dim": 24, "num_layers": 2, "sample_width": 8, "sample_height": 8,
    "sample_frames": 5, "max_text_seq_length": TEXT,
}  # fmt: skip


def cogvideo() -> dict[str, Any]:
    return {
        "hidden_states": x(B, 2, 4, SIDE, SIDE),
        "encoder_hidden_states": x(B, TEXT, 24),
        "timestep": t().long(),
    }


COGVIEW = HEADS | {
    "in_channels": 4, "out_channels": 4, "num_layers": 2, "text_embed_dim": 24, "time_embed_dim": 32, "condition_dim": 16, "pos_embed_max_size": 8, "sample_size": 8,
}  # fmt: skip


def cogview() -> dict[str, Any]:
    sizes = {
        name: torch.tensor([[8.0, 8.0]]) for name in ("original_size", "target_size", "crop_coords")
    }
    return {
        "hidden_states": x(B, 4, SIDE, SIDE),
        "encoder_hidden_states": x(B, TEXT, 24),
        "timestep": t().long(),
    } | sizes


HUNYUAN_VIDEO = HEADS | {
    "in_channels": 4, "out_channels": 4, "num_layers": 1, "num_single_layers": 1, "num_refiner_layers": 1, "patch_size": 2, "text_embed_dim": 24,
    "pooled_projection_dim": 12, "rope_axes_dim": (4, 6, 6),
}  # fmt: skip


def hunyuan_video(**more: Any) -> dict[str, Any]:
    return {
        "hidden_states": x(B, 4, 2, SIDE, SIDE), "timestep": t().long(), "encoder_hidden_states": x(B, TEXT, 24), "guidance": t(),
        "encoder_attention_mask": ones(B, TEXT, dtype=torch.long), "pooled_projections": x(B, 12),
    } | more  # fmt: skip


LTX2 = HEADS | {
    "in_channels": 8, "out_channels": 8, "cross_attention_dim": 64, "audio_in_channels": 8, "audio_out_channels": 8, "audio_num_attention_heads": 4,
    "audio_attention_head_dim": 8, "audio_cross_attention_dim": 32, "num_layers": 2, "caption_channels": 24,
}  # fmt: skip


def ltx2() -> dict[str, Any]:
    return {
        "hidden_states": x(B, 2 * 4 * 4, 8), "audio_hidden_states": x(B, 5, 8), "encoder_hidden_states": x(B, TEXT, 24),
        "audio_encoder_hidden_states": x(B, TEXT, 24), "timestep": t(B), "encoder_attention_mask": ones(B, TEXT, dtype=torch.long),
        "audio_encoder_attention_mask": ones(B, TEXT, dtype=torch.long), "num_frames": 2, "height": 4, "width": 4, "fps": 25.0, "audio_num_frames": 5,
    }  # fmt: skip


JOY = {
    "in_channels": 4,
    "hidden_size": 64,
    "num_attention_heads": 4,
    "text_dim": 24,
    "num_layers": 2,
    "rope_dim_list": [4, 6, 6],
}
UNET = {
    "in_channels": 4, "out_channels": 4, "block_out_channels": (16, 32), "layers_per_block": 1, "norm_num_groups": 4, "cross_attention_dim": 24,
    "attention_head_dim": 4, "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"), "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
}  # fmt: skip
UNET_3D = UNET | {
    "down_block_types": ("CrossAttnDownBlock3D", "DownBlock3D"),
    "up_block_types": ("UpBlock3D", "CrossAttnUpBlock3D"),
}
LUMINA = {
    "in_channels": 4,
    "hidden_size": 64,
    "num_layers": 2,
    "num_attention_heads": 4,
    "num_kv_heads": 2,
    "multiple_of": 16,
}


def allegro_positions() -> tuple:
    """Rotary frequencies of 2 x 4 x 4 patches, as Allegro's pipeline makes them."""
    from diffusers.models.embeddings import get_3d_rotary_pos_embed_allegro

    *freqs, grid_t, grid_h, grid_w = get_3d_rotary_pos_embed_allegro(
        24, ((0, 0), (4, 4)), (4, 4), 2
    )
    places = torch.cartesian_prod(*(grid.long() for grid in (grid_t, grid_h, grid_w)))
    return tuple(freqs), tuple(places.T.reshape(3, 1, -1).contiguous())


def cosmos3() -> dict[str, Any]:
    """A prompt of 6 tokens, then one video of 2 x 4 x 4 patches."""
    patches = 2 * 4 * 4
    image = torch.arange(TEXT, TEXT + patches)
    return {
        "input_ids": torch.arange(TEXT), "text_indexes": torch.arange(TEXT), "position_ids": ids(TEXT + patches).T, "und_len": TEXT,
        "sequence_length": TEXT + patches, "vision_tokens": [x(1, 4, 2, SIDE, SIDE)], "vision_token_shapes": [(2, 4, 4)], "vision_sequence_indexes": image,
        "vision_mse_loss_indexes": image, "vision_timesteps": t(patches), "vision_noisy_frame_indexes": [torch.arange(2)],
    }  # fmt: skip


def minimax_h3() -> dict[str, Any]:
    """Text, video and audio tokens in one sequence."""
    text, video, audio = (
        torch.arange(TEXT),
        torch.arange(TEXT, TEXT + 16),
        torch.arange(TEXT + 16, TEXT + 20),
    )
    tags = torch.tensor([1] * len(text) + [0] * len(video) + [2] * len(audio))
    return {
        "hidden_states": x(B, 16, 16), "audio_hidden_states": x(B, 4, 4), "encoder_hidden_states": x(B, TEXT, 24), "timestep": torch.tensor([0.0, 0.5]),
        "timestep_indices": (tags != 1).long(), "token_tags": tags, "position_ids": ids(len(tags)), "video_indices": video, "audio_indices": audio,
        "text_indices": text,
    }  # fmt: skip


def proteina() -> dict[str, Any]:
    """Five residues, unconditioned."""
    mask = ones(B, 5)
    conditioning = {"is_in_context_conditioning": ~mask, "supports_local_latent": mask}
    return {
        "bb_ca": x(B, 5, 3), "local_latents": x(B, 5, 8), "bb_ca_time": t() / 1000, "local_latents_time": t() / 1000, "padding_mask": mask,
        "token_type": torch.zeros(B, 5, dtype=torch.long), "atom37_mask": ones(B, 5, 37), "conditioning": conditioning,
    }  # fmt: skip


def wan_animate_2() -> dict[str, Any]:
    """The pass over the reference, which fills the cache."""
    from diffusers.models.transformers.transformer_wan_animate_2 import WanAnimate2KVCache

    return {
        "hidden_states": [x(2, 2, SIDE, SIDE)], "timestep": t(), "encoder_hidden_states": [x(TEXT, 24)], "condition_latents": [x(2, 2, SIDE, SIDE)],
        "kv_cache": WanAnimate2KVCache(2), "kv_cache_mode": "extract", "seq_len": 32, "encoder_hidden_states_image": x(B, 3, 1280),
        "offset_grid_sizes": torch.tensor([[2, 4, 4]]),
    }  # fmt: skip


def picture(**more: Any) -> dict[str, Any]:
    return {
        "hidden_states": x(B, 4, SIDE, SIDE),
        "timestep": t(),
        "encoder_hidden_states": x(B, TEXT, 24),
    } | more


def sample(**more: Any) -> dict[str, Any]:
    return {
        "sample": x(B, 4, SIDE, SIDE),
        "timestep": t(),
        "encoder_hidden_states": x(B, TEXT, 24),
    } | more


TINY = {
    "AceStepTransformer1DModel": (
        {"hidden_size": 64, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16,
         "in_channels": 24, "audio_acoustic_hidden_dim": 8, "encoder_hidden_size": 24},
        lambda: {"hidden_states": x(B, 8, 8), "timestep": t() / 1000, "timestep_r": t() / 1000, "encoder_hidden_states": x(B, TEXT, 24), "context_latents": x(B, 8, 16)},
    ),
    "AllegroTransformer3DModel": (
        HEADS | {"attention_head_dim": 24, "num_layers": 2, "cross_attention_dim": 96, "sample_height": 8, "sample_width": 8, "sample_frames": 2, "caption_channels": 24},
        lambda: {"hidden_states": x(B, 4, 2, SIDE, SIDE), "encoder_hidden_states": x(B, TEXT, 24), "timestep": t().long(),
                 "attention_mask": ones(B, 2, SIDE, SIDE, dtype=torch.float), "encoder_attention_mask": ones(B, TEXT, dtype=torch.float),
                 "image_rotary_emb": allegro_positions()},
    ),
    "AnyFlowFARTransformer3DModel": (WAN | {"chunk_partition": (1, 1)}, lambda: wan(hidden_states=x(B, 2, 4, SIDE, SIDE), timestep=t(B, 2), r_timestep=t(B, 2), chunk_partition=[1, 1])),
    "AnyFlowTransformer3DModel": (WAN, lambda: wan(hidden_states=x(B, 2, 4, SIDE, SIDE), timestep=t(B, 2), r_timestep=t(B, 2))),
    "AudioLDM2UNet2DConditionModel": (UNET | {"cross_attention_dim": (24, 24)}, sample),
    "AuraFlowTransformer2DModel": (
        HEADS | {"sample_size": 8, "num_mmdit_layers": 1, "num_single_dit_layers": 2, "joint_attention_dim": 24, "caption_projection_dim": 64, "pos_embed_max_size": 64},
        lambda: picture(timestep=t() / 1000),
    ),
    "BriaFibo2Transformer2DModel": (
        {"in_channels": 4, "dim": 64, "n_layers": 2, "n_refiner_layers": 1, "n_heads": 4, "cap_feat_dim": 24, "injection_layer_ids": (1,), "perceiver_num_layers": 1,
         "min_num_gist_tokens": 4, "max_num_gist_tokens": 8, "gist_step": 2, "gist_min_text_len": 4, "gist_max_text_len": 16, "axes_dims": (4, 6, 6), "axes_lens": (64, 32, 32)},
        lambda: picture(encoder_hidden_states=x(B, 2, TEXT, 24)),
    ),
    "BriaFiboTransformer2DModel": (FLUX | {"text_encoder_dim": 24, "num_single_layers": 1}, lambda: flux(text_encoder_layers=[x(B, TEXT, 24) for _ in range(2)])),
    "BriaTransformer2DModel": (FLUX, flux),
    "ChromaTransformer2DModel": (FLUX | {"approximator_num_channels": 8, "approximator_hidden_dim": 16, "approximator_layers": 1}, flux),
    "ChronoEditTransformer3DModel": (WAN | {"rope_temporal_skip_len": 2}, wan),
    "CogVideoXTransformer3DModel": (COGVIDEO, cogvideo),
    "CogView3PlusTransformer2DModel": (COGVIEW, cogview),
    "CogView4Transformer2DModel": (COGVIEW | {"rope_axes_dim": (8, 8)}, cogview),
    "ConsisIDTransformer3DModel": (COGVIDEO, cogvideo),
    "Cosmos3OmniTransformer": (
        {"head_dim": 16, "hidden_size": 64, "intermediate_size": 48, "latent_channel": 4, "patch_latent_dim": 16, "num_attention_heads": 4, "num_hidden_layers": 2,
         "num_key_value_heads": 2, "vocab_size": 32, "rope_axes_dim": (4, 2, 2)},
        lambda: cosmos3(),
    ),
    "CosmosTransformer3DModel": (
        HEADS | {"in_channels": 4, "out_channels": 4, "num_layers": 2, "mlp_ratio": 2, "text_embed_dim": 24, "adaln_lora_dim": 8, "max_size": (4, 16, 16), "crossattn_proj_in_channels": 24, "encoder_hidden_states_channels": 24, "concat_padding_mask": False, "extra_pos_embed_type": None},
        lambda: {"hidden_states": x(B, 4, 2, SIDE, SIDE), "timestep": t(), "encoder_hidden_states": x(B, TEXT, 24)},
    ),
    "DiTTransformer2DModel": (
        HEADS | {"in_channels": 4, "num_layers": 2, "sample_size": 8, "num_embeds_ada_norm": 10, "norm_num_groups": 4},
        lambda: {"hidden_states": x(B, 4, SIDE, SIDE), "timestep": t().long(), "class_labels": torch.tensor([3])},
    ),
    "DreamLiteTransformer2DModel": (
        HEADS | {"in_channels": 64, "num_layers": 2, "norm_num_groups": 4, "cross_attention_dim": 24},
        lambda: {"hidden_states": x(B, 64, 4, 4), "encoder_hidden_states": x(B, TEXT, 24)},
    ),
    "DreamLiteUNetModel": (
        {"in_channels": 4, "out_channels": 4, "block_out_channels": (16, 32, 32), "layers_per_block": 1, "norm_num_groups": 4, "cross_attention_dim": 24, "attention_head_dim": 4, "num_kv_heads": 2},
        lambda: {"sample": x(B, 4, 16, 16), "timestep": t(), "encoder_hidden_states": x(B, TEXT, 24)},
    ),
    "EasyAnimateTransformer3DModel": (
        HEADS | {"in_channels": 4, "out_channels": 4, "patch_size": 2, "sample_width": 8, "sample_height": 8, "num_layers": 2, "mmdit_layers": 1, "time_embed_dim": 32, "text_embed_dim": 24},
        lambda: {"hidden_states": x(B, 4, 2, SIDE, SIDE), "timestep": t(), "encoder_hidden_states": x(B, TEXT, 24)},
    ),
    "ErnieImageTransformer2DModel": (
        {"hidden_size": 64, "num_attention_heads": 4, "num_layers": 2, "ffn_hidden_size": 48, "in_channels": 8, "out_channels": 8, "text_in_dim": 24, "rope_axes_dim": (4, 6, 6)},
        lambda: {"hidden_states": x(B, 8, 4, 4), "timestep": t(), "text_bth": x(B, TEXT, 24), "text_lens": torch.tensor([TEXT])},
    ),
    "Flux2Transformer2DModel": (
        FLUX | {"axes_dims_rope": (4, 4, 4, 4), "mlp_ratio": 2.0, "timestep_guidance_channels": 16},
        lambda: flux(img_ids=ids(16, 4), txt_ids=ids(TEXT, 4), guidance=t()),
    ),
    "Flux3Transformer2DModel": (
        FLUX | {"cond_in_channels": 16, "axes_dims_rope": (4, 4, 4, 4), "mlp_ratio": 2.0, "timestep_channels": 16, "num_layers": 1},
        lambda: flux(img_ids=ids(16, 4), txt_ids=ids(TEXT, 4), image_cond_hidden_states=x(B, 16, 16), image_cond_ids=ids(16, 4)),
    ),
    "FluxTransformer2DModel": (FLUX | {"pooled_projection_dim": 12, "guidance_embeds": True}, lambda: flux(pooled_projections=x(B, 12), guidance=t())),
    "GlmImageTransformer2DModel": (
        HEADS | {"in_channels": 4, "out_channels": 4, "num_layers": 2, "text_embed_dim": 24, "time_embed_dim": 32, "condition_dim": 16, "prior_vq_quantizer_codebook_size": 16},
        lambda: {"hidden_states": x(B, 4, SIDE, SIDE), "encoder_hidden_states": x(B, TEXT, 24), "prior_token_id": torch.arange(16)[None], "prior_token_drop": torch.zeros(B, 16, dtype=torch.bool),
                 "timestep": t().long(), "target_size": torch.tensor([[8.0, 8.0]]), "crop_coords": torch.tensor([[0.0, 0.0]])},
    ),
    "HeliosTransformer3DModel": (
        {k: v for k, v in WAN.items() if k != "rope_max_seq_len"} | {"rope_dim": (4, 6, 6), "has_multi_term_memory_patch": False, "zero_history_timestep": False, "guidance_cross_attn": False},
        wan,
    ),
    "HiDreamImageTransformer2DModel": (
        HEADS | {"patch_size": 2, "in_channels": 4, "num_layers": 2, "num_single_layers": 1, "caption_channels": [24, 24], "text_emb_dim": 12, "num_routed_experts": 2, "num_activated_experts": 1,
                 "axes_dims_rope": (8, 4, 4), "max_resolution": (16, 16), "llama_layers": [0, 1, 1]},
        lambda: {"hidden_states": x(B, 4, SIDE, SIDE), "timesteps": t(), "encoder_hidden_states_t5": x(B, TEXT, 24), "encoder_hidden_states_llama3": x(2, B, TEXT, 24), "pooled_embeds": x(B, 12)},
    ),
    "HunyuanDiT2DModel": (
        HEADS | {"in_channels": 4, "patch_size": 2, "sample_size": 8, "hidden_size": 64, "num_layers": 2, "mlp_ratio": 2, "cross_attention_dim": 24, "cross_attention_dim_t5": 24, "pooled_projection_dim": 16, "text_len": TEXT, "text_len_t5": TEXT},
        lambda: picture(text_embedding_mask=ones(B, TEXT), encoder_hidden_states_t5=x(B, TEXT, 24), text_embedding_mask_t5=ones(B, TEXT),
                        image_meta_size=torch.tensor([[8, 8, 8, 8, 0, 0]]), style=torch.tensor([0]), image_rotary_emb=(x(16, 16), x(16, 16))),
    ),
    "HunyuanImageTransformer2DModel": (
        HEADS | {"in_channels": 4, "out_channels": 4, "num_layers": 1, "num_single_layers": 2, "num_refiner_layers": 1, "text_embed_dim": 24, "patch_size": (2, 2), "rope_axes_dim": (8, 8), "text_embed_2_dim": 12},
        lambda: {"hidden_states": x(B, 4, SIDE, SIDE), "timestep": t(), "encoder_hidden_states": x(B, TEXT, 24), "encoder_attention_mask": ones(B, TEXT, dtype=torch.long),
                 "encoder_hidden_states_2": x(B, TEXT, 12), "encoder_attention_mask_2": ones(B, TEXT, dtype=torch.long)},
    ),
    "HunyuanVideo15Transformer3DModel": (
        HEADS | {"in_channels": 4, "out_channels": 4, "num_layers": 2, "num_refiner_layers": 1, "text_embed_dim": 24, "text_embed_2_dim": 12, "image_embed_dim": 16, "rope_axes_dim": (4, 6, 6), "target_size": 16, "task_type": "t2v"},
        lambda: {"hidden_states": x(B, 4, 1, 4, 4), "timestep": t(), "encoder_hidden_states": x(B, TEXT, 24), "encoder_attention_mask": ones(B, TEXT, dtype=torch.long),
                 "encoder_hidden_states_2": x(B, TEXT, 12), "encoder_attention_mask_2": ones(B, TEXT, dtype=torch.long), "image_embeds": torch.zeros(B, 3, 16)},
    ),
    "HunyuanVideoFramepackTransformer3DModel": (
        HUNYUAN_VIDEO | {"has_image_proj": True, "image_proj_dim": 16, "has_clean_x_embedder": True},
        lambda: hunyuan_video(image_embeds=x(B, 3, 16), indices_latents=torch.arange(2), latents_clean=x(B, 4, 2, SIDE, SIDE), indices_latents_clean=torch.arange(2),
                              latents_history_2x=x(B, 4, 2, SIDE, SIDE), indices_latents_history_2x=torch.arange(2), latents_history_4x=x(B, 4, 4, SIDE, SIDE), indices_latents_history_4x=torch.arange(4)),
    ),
    "HunyuanVideoTransformer3DModel": (HUNYUAN_VIDEO, hunyuan_video),
    "I2VGenXLUNet": (
        UNET_3D | {"num_attention_heads": 4},
        lambda: {"sample": x(B, 4, 2, SIDE, SIDE), "timestep": t(), "fps": torch.tensor([8]), "image_latents": x(B, 4, 2, SIDE, SIDE), "image_embeddings": x(B, 24), "encoder_hidden_states": x(B, TEXT, 24)},
    ),
    "Ideogram4Transformer2DModel": (
        HEADS | {"in_channels": 8, "num_layers": 2, "intermediate_size": 48, "adaln_dim": 16, "llm_features_dim": 24, "mrope_section": (4, 2, 2)},
        lambda: {"hidden_states": x(B, 10, 8), "timestep": t() / 1000, "encoder_hidden_states": x(B, 10, 24), "position_ids": ids(10)[None].long(), "segment_ids": torch.zeros(B, 10, dtype=torch.long),
                 "indicator": torch.tensor([[3] * 4 + [2] * 6])},
    ),
    "JoyImageEditPlusTransformer3DModel": (JOY, lambda: {"hidden_states": x(B, 32, 4, 1, 2, 2), "timestep": t(), "encoder_hidden_states": x(B, TEXT, 24), "encoder_hidden_states_mask": ones(B, TEXT), "shape_list": [[(2, 4, 4)]]}),
    "JoyImageEditTransformer3DModel": (JOY, lambda: {"hidden_states": x(B, 1, 4, 2, SIDE, SIDE), "timestep": t(), "encoder_hidden_states": x(B, TEXT, 24)}),
    "Kandinsky3UNet": (
        {"time_embedding_dim": 32, "groups": 4, "attention_head_dim": 4, "layers_per_block": 2, "block_out_channels": (16, 32), "cross_attention_dim": 24, "encoder_hid_dim": 24},
        lambda: sample(encoder_attention_mask=ones(B, TEXT, dtype=torch.float)),
    ),
    "Kandinsky5Transformer3DModel": (
        {"in_text_dim": 24, "in_text_dim2": 12, "time_dim": 32, "model_dim": 64, "ff_dim": 48, "num_text_blocks": 1, "num_visual_blocks": 2, "axes_dims": (4, 6, 6)},
        lambda: {"hidden_states": x(B, 2, SIDE, SIDE, 4), "encoder_hidden_states": x(B, TEXT, 24), "timestep": t(), "pooled_projections": x(B, 12),
                 "visual_rope_pos": [torch.arange(2), torch.arange(4), torch.arange(4)], "text_rope_pos": torch.arange(TEXT)},
    ),
    "Kandinsky6SRTransformer3DModel": (
        {"in_visual_dim": 4, "out_visual_dim": 8, "time_dim": 32, "model_dim": 64, "ff_dim": 48, "num_visual_blocks": 2, "axes_dims": (4, 6, 6)},
        lambda: {"hidden_states": x(B, 2, SIDE, SIDE, 9), "timestep": t()},
    ),
    "Kandinsky6Transformer3DModel": (
        {"in_visual_dim": 4, "out_visual_dim": 4, "in_text_dim": 24, "in_text_dim2": 12, "time_dim": 32, "model_dim": 64, "ff_dim": 48, "num_text_blocks": 1, "num_visual_blocks": 2, "axes_dims": (4, 6, 6), "in_audio_dim": 4, "out_audio_dim": 4},
        lambda: {"hidden_states": x(B, 2, SIDE, SIDE, 9), "encoder_hidden_states": x(B, TEXT, 24), "pooled_projections": x(B, 12), "timestep": t(), "audio_hidden_states": x(B, 5, 4)},
    ),
    "Krea2Transformer2DModel": (
        HEADS | {"in_channels": 8, "num_layers": 2, "num_key_value_heads": 2, "intermediate_size": 48, "timestep_embed_dim": 32, "text_hidden_dim": 32, "num_text_layers": 3, "text_num_attention_heads": 2, "text_num_key_value_heads": 2,
                 "text_intermediate_size": 48, "num_layerwise_text_blocks": 1, "num_refiner_text_blocks": 1, "axes_dims_rope": (4, 6, 6)},
        lambda: {"hidden_states": x(B, 16, 8), "encoder_hidden_states": x(B, TEXT, 3, 32), "timestep": t() / 1000, "position_ids": ids(TEXT + 16)},
    ),
    "LTX2VideoTransformer3DModel": (LTX2, ltx2),
    "LTXVideoTransformer3DModel": (
        HEADS | {"in_channels": 8, "out_channels": 8, "cross_attention_dim": 64, "num_layers": 2, "caption_channels": 24},
        lambda: {"hidden_states": x(B, 32, 8), "encoder_hidden_states": x(B, TEXT, 24), "timestep": t(), "encoder_attention_mask": ones(B, TEXT), "num_frames": 2, "height": 4, "width": 4},
    ),
    "LatteTransformer3DModel": (
        HEADS | {"in_channels": 4, "out_channels": 4, "num_layers": 2, "cross_attention_dim": 64, "attention_bias": True, "sample_size": 8, "patch_size": 2, "activation_fn": "gelu-approximate", "num_embeds_ada_norm": 1000,
                 "norm_type": "ada_norm_single", "norm_elementwise_affine": False, "caption_channels": 24, "video_length": 2},
        lambda: {"hidden_states": x(B, 4, 2, SIDE, SIDE), "timestep": t().long(), "encoder_hidden_states": x(B, TEXT, 24)},
    ),
    "LongCatAudioDiTTransformer": (
        {"dit_dim": 64, "dit_depth": 2, "dit_heads": 4, "dit_text_dim": 24, "latent_dim": 8},
        lambda: {"hidden_states": x(B, 10, 8), "encoder_hidden_states": x(B, TEXT, 24), "encoder_attention_mask": ones(B, TEXT), "timestep": t() / 1000, "attention_mask": ones(B, 10), "latent_cond": x(B, 10, 8)},
    ),
    "LongCatImageTransformer2DModel": (FLUX | {"pooled_projection_dim": 12}, flux),
    "Lumina2Transformer2DModel": (LUMINA | {"sample_size": 8, "num_refiner_layers": 1, "axes_dim_rope": (4, 6, 6), "axes_lens": (32, 16, 16), "cap_feat_dim": 24}, lambda: picture(encoder_attention_mask=ones(B, TEXT))),
    "LuminaNextDiT2DModel": (LUMINA | {"sample_size": 8, "cross_attention_dim": 24}, lambda: picture(encoder_mask=ones(B, TEXT), image_rotary_emb=torch.polar(torch.ones(16, 16, 8), x(16, 16, 8)), cross_attention_kwargs={})),
    "MiniMaxH3Transformer3DModel": (
        HEADS | {"hidden_size": 48, "num_layers": 2, "num_refiner_layers": 1, "ffn_dim": 48, "in_channels": 4, "audio_in_channels": 4, "text_dim": 24, "freq_dim": 32, "time_embed_hidden_dim": 32, "time_embed_dim": 16, "rope_freq_dim": 2},
        lambda: minimax_h3(),
    ),
    "MiniMaxMusic3RVQDepthDecoder": (
        {"hidden_size": 64, "num_layers": 2, "num_attention_heads": 4, "intermediate_size": 48, "audio_vocab_size": 16, "num_codebooks": 3},
        lambda: {"inputs_embeds": x(B, 3, 64)},
    ),
    "MiniMaxMusic3Transformer1DModel": (
        HEADS | {"in_channels": 8, "condition_dim": 24, "num_layers": 2, "ff_inner_dim": 48, "rotary_dim": 8, "fourier_embedding_dim": 32},
        lambda: {"hidden_states": x(B, 8, 10), "timestep": t() / 1000, "encoder_hidden_states": x(B, 10, 24)},
    ),
    "MochiTransformer3DModel": (
        HEADS | {"attention_head_dim": 12, "num_layers": 2, "pooled_projection_dim": 24, "in_channels": 4, "text_embed_dim": 24, "time_embed_dim": 32, "max_sequence_length": TEXT},
        lambda: {"hidden_states": x(B, 4, 2, SIDE, SIDE), "encoder_hidden_states": x(B, TEXT, 24), "timestep": t(), "encoder_attention_mask": ones(B, TEXT)},
    ),
    "MotifVideoTransformer3DModel": (
        HEADS | {"in_channels": 4, "out_channels": 4, "num_layers": 1, "num_single_layers": 2, "num_decoder_layers": 1, "text_embed_dim": 24, "rope_axes_dim": (4, 6, 6),
                 "enable_text_cross_attention_dual": True, "enable_text_cross_attention_single": True},
        lambda: {"hidden_states": x(B, 4, 2, SIDE, SIDE), "timestep": t(), "encoder_hidden_states": x(B, TEXT, 24), "encoder_attention_mask": ones(B, TEXT, dtype=torch.long)},
    ),
    "NucleusMoEImageTransformer2DModel": (
        HEADS | {"in_channels": 16, "out_channels": 4, "num_layers": 5, "num_key_value_heads": 2, "joint_attention_dim": 24, "axes_dims_rope": (4, 6, 6), "num_experts": 2, "moe_intermediate_dim": 24, "capacity_factors": 2.0},
        lambda: {"hidden_states": x(B, 16, 16), "img_shapes": [(1, 4, 4)], "encoder_hidden_states": x(B, TEXT, 24), "encoder_hidden_states_mask": ones(B, TEXT), "timestep": t() / 1000},
    ),
    "OmniGenTransformer2DModel": (
        {"hidden_size": 64, "num_attention_heads": 4, "num_key_value_heads": 4, "intermediate_size": 48, "num_layers": 2, "pad_token_id": 0, "vocab_size": 32, "max_position_embeddings": 64, "original_max_position_embeddings": 64,
         "rope_scaling": {"long_factor": [1.0] * 8, "short_factor": [1.0] * 8}, "pos_embed_max_size": 8, "time_step_dim": 32},
        lambda: {"hidden_states": x(B, 4, SIDE, SIDE), "timestep": t(), "input_ids": torch.arange(TEXT)[None], "input_img_latents": [], "input_image_sizes": {},
                 "attention_mask": ones(B, TEXT + 17, TEXT + 17, dtype=torch.float), "position_ids": torch.arange(TEXT + 17)[None]},
    ),
    "OvisImageTransformer2DModel": (FLUX | {"out_channels": 16}, flux),
    "PRXTransformer2DModel": ({"in_channels": 4, "context_in_dim": 24, "hidden_size": 64, "mlp_ratio": 2.0, "num_heads": 4, "depth": 2, "axes_dim": [8, 8]}, lambda: picture(timestep=t() / 1000, attention_mask=ones(B, TEXT))),
    "PixArtTransformer2DModel": (
        HEADS | {"attention_head_dim": 12, "num_layers": 2, "norm_num_groups": 4, "cross_attention_dim": 48, "sample_size": 8, "caption_channels": 24, "use_additional_conditions": True},
        lambda: picture(timestep=t().long(), added_cond_kwargs={"resolution": torch.tensor([[8.0, 8.0]]), "aspect_ratio": torch.tensor([[1.0]])}),
    ),
    "PriorTransformer": (HEADS | {"num_layers": 2, "embedding_dim": 24, "num_embeddings": TEXT}, lambda: {"hidden_states": x(B, 24), "timestep": t(), "proj_embedding": x(B, 24), "encoder_hidden_states": x(B, TEXT, 24)}),
    "QwenImage21Transformer2DModel": (
        HEADS | {"in_channels": 16, "out_channels": 16, "num_layers": 2, "context_in_dim": 24, "axes_dims_rope": (4, 6, 6)},
        lambda: {"hidden_states": x(B, 16, 16), "encoder_hidden_states": x(B, TEXT, 24), "timestep": t() / 1000, "img_shapes": [[(1, 4, 4)]], "img_mask": torch.tensor([[False] * TEXT + [True] * 4]), "encoder_hidden_states_mask": ones(B, TEXT)},
    ),
    "QwenImageTransformer2DModel": (
        HEADS | {"in_channels": 16, "out_channels": 4, "num_layers": 2, "joint_attention_dim": 24, "axes_dims_rope": (4, 6, 6)},
        lambda: {"hidden_states": x(B, 16, 16), "encoder_hidden_states": x(B, TEXT, 24), "encoder_hidden_states_mask": ones(B, TEXT), "timestep": t() / 1000, "img_shapes": [[(1, 4, 4)]]},
    ),
    "RFD4ProteinaTransformer": (
        {"nlayers": 2, "token_dim": 64, "nheads": 4, "dim_cond": 16, "pair_repr_dim": 16, "latent_dim": 8, "token_type_emb_dim": 8, "cath_emb_dim": 8, "t_emb_dim": 16, "seq_sep_dim": 16, "tri_mult_c": 8,
         "feats_seq": ("xt_bb_ca", "xt_local_latents"), "feats_cond_seq": ("time_emb_bb_ca", "time_emb_local_latents"), "feats_pair_repr": ("xt_bb_ca_pair_dists",)},
        proteina,
    ),
    "SD3Transformer2DModel": (
        HEADS | {"sample_size": 8, "in_channels": 4, "out_channels": 4, "num_layers": 3, "joint_attention_dim": 24, "caption_projection_dim": 64, "pooled_projection_dim": 12, "pos_embed_max_size": 8, "qk_norm": "rms_norm", "dual_attention_layers": (0,)},
        lambda: picture(pooled_projections=x(B, 12)),
    ),
    "SanaTransformer2DModel": (
        HEADS | {"in_channels": 4, "out_channels": 4, "num_layers": 2, "num_cross_attention_heads": 4, "cross_attention_head_dim": 16, "cross_attention_dim": 64, "caption_channels": 24, "sample_size": 8},
        picture,
    ),
    "SanaVideoTransformer3DModel": (
        HEADS | {"in_channels": 4, "out_channels": 4, "num_layers": 2, "num_cross_attention_heads": 4, "cross_attention_head_dim": 16, "cross_attention_dim": 64, "caption_channels": 24, "sample_size": 8, "rope_max_seq_len": 32},
        wan,
    ),
    "SanaWMLTX2RefinerTransformer3DModel": (
        LTX2,
        lambda: {"hidden_states": x(B, 32, 8), "encoder_hidden_states": x(B, TEXT, 24), "timestep": t(B, 32), "video_rotary_emb": (x(B, 32, 64), x(B, 32, 64))},
    ),
    "SanaWMTransformer3DModel": (
        {"in_channels": 4, "num_layers": 2, "hidden_size": 64, "num_attention_heads": 4, "softmax_every_n": 2, "linear_head_dim": 16, "chunk_plucker_channels": 6, "chunk_plucker_post_attn_blocks": 2, "caption_channels": 24, "image_size": 8},
        lambda: wan(timestep=t(B, 1, 2), encoder_hidden_states=x(B, 1, TEXT, 24), mask=ones(B, TEXT)),
    ),
    "SkyReelsV2Transformer3DModel": (WAN, wan),
    "StableAudio3DiTModel": (
        {"io_channels": 8, "embed_dim": 64, "depth": 2, "num_heads": 4, "cond_token_dim": 24, "global_cond_dim": 12, "local_add_cond_dim": 5, "timestep_features_dim": 32, "num_memory_tokens": 4},
        lambda: {"hidden_states": x(B, 8, 10), "timestep": t() / 1000, "encoder_hidden_states": x(B, TEXT, 24), "global_hidden_states": x(B, 12), "local_add_cond": x(B, 5, 10)},
    ),
    "StableAudioDiTModel": (
        {"sample_size": 10, "in_channels": 8, "num_layers": 2, "attention_head_dim": 16, "num_attention_heads": 4, "num_key_value_attention_heads": 2, "out_channels": 8, "cross_attention_dim": 32, "time_proj_dim": 32,
         "global_states_input_dim": 24, "cross_attention_input_dim": 24},
        lambda: {"hidden_states": x(B, 8, 10), "timestep": t(), "encoder_hidden_states": x(B, TEXT, 24), "global_hidden_states": x(B, 1, 24), "rotary_embedding": (x(11, 8), x(11, 8))},
    ),
    "StableCascadeUNet": (
        {"in_channels": 4, "out_channels": 4, "timestep_ratio_embedding_dim": 16, "conditioning_dim": 32, "block_out_channels": (32, 32), "num_attention_heads": (4, 4), "down_num_layers_per_block": (1, 1), "up_num_layers_per_block": (1, 1),
         "clip_text_in_channels": 24, "clip_text_pooled_in_channels": 24, "clip_image_in_channels": 12, "clip_seq": 2},
        lambda: {"sample": x(B, 4, SIDE, SIDE), "timestep_ratio": t() / 1000, "clip_text_pooled": x(B, 1, 24), "clip_text": x(B, TEXT, 24), "clip_img": x(B, 1, 12)},
    ),
    "T5FilmDecoder": (
        {"input_dims": 8, "targets_length": 10, "d_model": 64, "num_layers": 2, "num_heads": 4, "d_kv": 16, "d_ff": 48},
        lambda: {"encodings_and_masks": [(x(B, 5, 64), ones(B, 5, dtype=torch.float))], "decoder_input_tokens": x(B, 10, 8), "decoder_noise_time": t() / 1000},
    ),
    "Transformer2DModel": (
        HEADS | {"in_channels": 64, "num_layers": 2, "norm_num_groups": 4, "cross_attention_dim": 24},
        lambda: {"hidden_states": x(B, 64, 4, 4), "encoder_hidden_states": x(B, TEXT, 24)},
    ),
    "TransformerTemporalModel": (HEADS | {"in_channels": 64, "num_layers": 2, "norm_num_groups": 4}, lambda: {"hidden_states": x(3, 64, 4, 4), "num_frames": 3}),
    "UNet1DModel": ({"sample_size": 16, "in_channels": 2, "out_channels": 2, "block_out_channels": (32, 32, 64), "extra_in_channels": 64}, lambda: {"sample": x(B, 2, 256), "timestep": t()}),
    "UNet2DConditionModel": (UNET, sample),
    "UNet2DModel": (
        {"sample_size": 8, "block_out_channels": (16, 32), "layers_per_block": 1, "norm_num_groups": 4, "attention_head_dim": 4, "down_block_types": ("DownBlock2D", "AttnDownBlock2D"), "up_block_types": ("AttnUpBlock2D", "UpBlock2D")},
        lambda: {"sample": x(B, 3, SIDE, SIDE), "timestep": t()},
    ),
    "UNet3DConditionModel": (UNET_3D, lambda: sample(sample=x(B, 4, 2, SIDE, SIDE))),
    "UNetMotionModel": (
        {k: v for k, v in UNET.items() if k != "attention_head_dim"} | {"num_attention_heads": 4, "motion_num_attention_heads": 4, "down_block_types": ("CrossAttnDownBlockMotion", "DownBlockMotion"), "up_block_types": ("UpBlockMotion", "CrossAttnUpBlockMotion")},
        lambda: sample(sample=x(B, 4, 2, SIDE, SIDE), encoder_hidden_states=x(2 * B, TEXT, 24)),
    ),
    "UNetSpatioTemporalConditionModel": (
        {"in_channels": 4, "out_channels": 4, "block_out_channels": (32, 64), "layers_per_block": 1, "cross_attention_dim": 24, "num_attention_heads": (4, 4), "addition_time_embed_dim": 8, "projection_class_embeddings_input_dim": 24, "num_frames": 2,
         "down_block_types": ("CrossAttnDownBlockSpatioTemporal", "DownBlockSpatioTemporal"), "up_block_types": ("UpBlockSpatioTemporal", "CrossAttnUpBlockSpatioTemporal")},
        lambda: {"sample": x(B, 2, 4, SIDE, SIDE), "timestep": t(), "encoder_hidden_states": x(B, 1, 24), "added_time_ids": x(B, 3)},
    ),
    "UVit2DModel": (
        {"hidden_size": 64, "cond_embed_dim": 24, "micro_cond_encode_dim": 8, "micro_cond_embed_dim": 40, "encoder_hidden_size": 24, "vocab_size": 20, "codebook_size": 16, "in_channels": 32, "block_out_channels": 32, "num_res_blocks": 1,
         "block_num_heads": 4, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48, "sample_size": 8},
        lambda: {"input_ids": torch.arange(16).view(B, 4, 4), "encoder_hidden_states": x(B, TEXT, 24), "pooled_text_emb": x(B, 24), "micro_conds": torch.ones(B, 5)},
    ),
    "UniDiffuserModel": (
        {"text_dim": 24, "clip_img_dim": 12, "num_text_tokens": TEXT, "num_attention_heads": 4, "attention_head_dim": 16, "in_channels": 4, "out_channels": 4, "num_layers": 2, "sample_size": 8, "patch_size": 2, "activation_fn": "gelu", "norm_num_groups": 4,
         "attention_bias": True, "norm_type": "layer_norm", "block_type": "unidiffuser", "use_patch_pos_embed": False, "use_timestep_embedding": False},
        lambda: {"latent_image_embeds": x(B, 4, SIDE, SIDE), "image_embeds": x(B, 1, 12), "prompt_embeds": x(B, TEXT, 24), "timestep_img": t(), "timestep_text": t()},
    ),
    "WanAnimate2Transformer3DModel": (
        {"text_len": TEXT, "in_dim": 4, "dim": 64, "ffn_dim": 48, "freq_dim": 32, "text_dim": 24, "out_dim": 4, "num_heads": 4, "num_layers": 2},
        wan_animate_2,
    ),
    "WanAnimateTransformer3DModel": (
        WAN | {"in_channels": 12, "latent_channels": 4, "image_dim": 16, "added_kv_proj_dim": 64, "num_layers": 2, "motion_encoder_size": 16, "motion_style_dim": 16, "motion_dim": 4, "motion_encoder_dim": 16, "face_encoder_hidden_dim": 32,
               "face_encoder_num_heads": 4, "inject_face_latents_blocks": 2, "motion_encoder_channel_sizes": {"4": 16, "8": 16, "16": 16}},
        lambda: wan(12, encoder_hidden_states=x(B, 512, 24), encoder_hidden_states_image=x(B, 3, 16), pose_hidden_states=x(B, 4, 1, SIDE, SIDE), face_pixel_values=x(B, 3, 4, 16, 16)),
    ),
    "WanTransformer3DModel": (WAN, wan),
    "WanVACETransformer3DModel": (WAN | {"vace_layers": [0], "vace_in_channels": 6}, lambda: wan(control_hidden_states=x(B, 6, 2, SIDE, SIDE))),
    "ZImageTransformer2DModel": (
        {"in_channels": 4, "dim": 48, "n_layers": 2, "n_refiner_layers": 1, "n_heads": 4, "n_kv_heads": 4, "cap_feat_dim": 24, "axes_dims": [4, 4, 4], "axes_lens": [64, 32, 32]},
        lambda: {"x": [x(4, 1, SIDE, SIDE)], "t": t() / 1000, "cap_feats": [x(TEXT, 24)]},
    ),
}  # fmt: skip

# layers that a class has and its forward leaves out: all audio; without camera positions what reads them
LEFT_OUT = {
    "SanaWMLTX2RefinerTransformer3DModel": ("*audio*",),
    "SanaWMTransformer3DModel": ("*_cam",),
}
# classes that make float32 tensors on their way, so that they do not run in float64
FLOAT32 = ("Kandinsky5Transformer3DModel", "MotifVideoTransformer3DModel")
NOT_PRUNED = {
    "MotionAdapter": "no denoiser: weights that UNetMotionModel takes over, without a forward of its own"
}
