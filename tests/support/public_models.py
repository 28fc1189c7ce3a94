"""Public models: the configs of their denoisers, and folders of configs without weights."""

import json

SD3_MEDIUM = {
    "_class_name": "SD3Transformer2DModel",
    "attention_head_dim": 64,
    "caption_projection_dim": 1536,
    "in_channels": 16,
    "joint_attention_dim": 4096,
    "num_attention_heads": 24,
    "num_layers": 24,
    "out_channels": 16,
    "patch_size": 2,
    "pooled_projection_dim": 2048,
    "pos_embed_max_size": 192,
    "sample_size": 128,
}
SD35_LARGE = SD3_MEDIUM | {
    "num_layers": 38,
    "num_attention_heads": 38,
    "caption_projection_dim": 2432,
    "qk_norm": "rms_norm",
}
SDXL = {
    "_class_name": "UNet2DConditionModel",
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "attention_head_dim": [5, 10, 20],
    "block_out_channels": [320, 640, 1280],
    "cross_attention_dim": 2048,
    "in_channels": 4,
    "out_channels": 4,
    "layers_per_block": 2,
    "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
    "projection_class_embeddings_input_dim": 2816,
    "sample_size": 128,
    "transformer_layers_per_block": [1, 2, 10],
    "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
    "use_linear_projection": True,
}
# sizes of public text encoders and VAEs; everything else as transformers and diffusers default
CLIP_L = {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12}
CLIP_G = {"hidden_size": 1280, "intermediate_size": 5120, "num_hidden_layers": 32}
T5_XXL = {
    "d_model": 4096,
    "d_ff": 10240,
    "d_kv": 64,
    "num_heads": 64,
    "num_layers": 24,
    "vocab_size": 32128,
    "feed_forward_proj": "gated-gelu",
    "is_encoder_decoder": False,
    "use_cache": False,
}
VAE = {
    "_class_name": "AutoencoderKL",
    "block_out_channels": [128, 256, 512, 512],
    "latent_channels": 16,
    "layers_per_block": 2,
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
}
FLUX_DEV = {
    "_class_name": "FluxTransformer2DModel",
    "attention_head_dim": 128,
    "guidance_embeds": True,
    "in_channels": 64,
    "joint_attention_dim": 4096,
    "num_attention_heads": 24,
    "num_layers": 19,
    "num_single_layers": 38,
    "patch_size": 1,
    "pooled_projection_dim": 768,
}
CLIP = ("transformers", "CLIPTextModelWithProjection")
ENCODERS = {
    "SDXL": {"text_encoder": (CLIP, CLIP_L), "text_encoder_2": (CLIP, CLIP_G)},
    "SD3": {
        "text_encoder": (CLIP, CLIP_L),
        "text_encoder_2": (CLIP, CLIP_G),
        "text_encoder_3": (("transformers", "T5EncoderModel"), T5_XXL),
    },
    "FLUX": {
        "text_encoder": (("transformers", "CLIPTextModel"), CLIP_L),
        "text_encoder_2": (("transformers", "T5EncoderModel"), T5_XXL),
    },
}
MODELS = {
    "SDXL": ("StableDiffusionXLPipeline", "unet", SDXL, ENCODERS["SDXL"]),
    "SD3-medium": ("StableDiffusion3Pipeline", "transformer", SD3_MEDIUM, ENCODERS["SD3"]),
    "SD3.5-large": ("StableDiffusion3Pipeline", "transformer", SD35_LARGE, ENCODERS["SD3"]),
    "FLUX.1-dev": ("FluxPipeline", "transformer", FLUX_DEV, ENCODERS["FLUX"]),
}


def folder_of(place, pipeline, component, model, encoders):
    """Write the configs of a pipeline without weights."""
    parts = {component: (("diffusers", model["_class_name"]), model)} | encoders
    parts["vae"] = (("diffusers", "AutoencoderKL"), VAE)
    for name, (_, config) in parts.items():
        (place / name).mkdir(parents=True)
        (place / name / "config.json").write_text(json.dumps(config))
    (place / "tokenizer").mkdir()
    (place / "tokenizer" / "tokenizer_config.json").write_text('{"model_max_length": 77}')
    index = {"_class_name": pipeline} | {name: list(kind) for name, (kind, _) in parts.items()}
    (place / "model_index.json").write_text(json.dumps(index))
    return str(place)
