"""Weights of a tiny diffusers pipeline under the names of the models' authors, as single-file
checkpoints have them."""

import re

import torch
from torch import Tensor

RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "time_emb_proj": "emb_layers.1",
}
UNET = {
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "conv_in": "input_blocks.0.0",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}
SD3 = {
    "pos_embed.pos_embed": "pos_embed", "pos_embed.proj": "x_embedder.proj",
    "time_text_embed.timestep_embedder.linear_1": "t_embedder.mlp.0",
    "time_text_embed.timestep_embedder.linear_2": "t_embedder.mlp.2",
    "time_text_embed.text_embedder.linear_1": "y_embedder.mlp.0",
    "time_text_embed.text_embedder.linear_2": "y_embedder.mlp.2",
    "norm_out.linear": "final_layer.adaLN_modulation.1", "proj_out": "final_layer.linear",
}  # fmt: skip
SD3_BLOCK = {
    "attn.norm_added_q": "context_block.attn.ln_q", "attn.norm_added_k": "context_block.attn.ln_k",
    "attn.norm_q": "x_block.attn.ln_q", "attn.norm_k": "x_block.attn.ln_k",
    "attn.to_add_out": "context_block.attn.proj", "attn.to_out.0": "x_block.attn.proj",
    "norm1_context.linear": "context_block.adaLN_modulation.1",
    "norm1.linear": "x_block.adaLN_modulation.1", "ff_context.net.0.proj": "context_block.mlp.fc1",
    "ff_context.net.2": "context_block.mlp.fc2", "ff.net.0.proj": "x_block.mlp.fc1",
    "ff.net.2": "x_block.mlp.fc2",
}  # fmt: skip


def stable_diffusion(pipe) -> dict[str, Tensor]:
    """UNet, VAE and text encoder of a StableDiffusionPipeline in the layout of CompVis."""
    text = {
        "text_model." + name.removeprefix("text_model."): w
        for name, w in pipe.text_encoder.state_dict().items()
    }
    parts = {
        "model.diffusion_model.": {
            ldm_unet(name, pipe.unet): w for name, w in pipe.unet.state_dict().items()
        },
        "first_stage_model.": {
            ldm_vae(name, len(pipe.vae.config.block_out_channels)): w
            for name, w in pipe.vae.state_dict().items()
        },
        "cond_stage_model.transformer.": text,
    }
    return {
        prefix + name: w.contiguous() for prefix, part in parts.items() for name, w in part.items()
    }


def ldm_unet(name: str, unet) -> str:
    each = unet.config.layers_per_block + 1
    found = re.fullmatch(r"(down|up)_blocks\.(\d+)\.(\w+)\.(\d+)\.(.+)", name)
    if name.startswith("mid_block"):
        kind, i, rest = re.fullmatch(r"mid_block\.(\w+)\.(\d+)\.(.+)", name).groups()
        if kind == "resnets":
            return f"middle_block.{2 * int(i)}.{resnet(rest)}"
        return f"middle_block.1.{rest}"
    if not found:
        return replaced(name, UNET)
    side, block, kind, i, rest = found[1], int(found[2]), found[3], int(found[4]), found[5]
    if kind == "downsamplers":
        return f"input_blocks.{(block + 1) * each}.0.{rest.replace('conv', 'op')}"
    if kind == "upsamplers":
        slot = 2 if hasattr(unet.up_blocks[block], "attentions") else 1
        return f"output_blocks.{(block + 1) * each - 1}.{slot}.{rest}"
    place = (
        f"input_blocks.{1 + block * each + i}"
        if side == "down"
        else f"output_blocks.{block * each + i}"
    )
    return f"{place}.0.{resnet(rest)}" if kind == "resnets" else f"{place}.1.{rest}"


def resnet(name: str) -> str:
    return replaced(name, RESNET | {"conv_shortcut": "skip_connection"})


def ldm_vae(name: str, levels: int) -> str:
    name = name.replace("conv_norm_out", "norm_out").replace("conv_shortcut", "nin_shortcut")
    name = re.sub(r"mid_block\.resnets\.(\d)", lambda m: f"mid.block_{int(m[1]) + 1}", name)
    name = re.sub(r"down_blocks\.(\d)\.resnets", r"down.\1.block", name)
    name = re.sub(r"down_blocks\.(\d)\.downsamplers\.0", r"down.\1.downsample", name)
    name = re.sub(r"up_blocks\.(\d)\.resnets", lambda m: f"up.{levels - 1 - int(m[1])}.block", name)
    return re.sub(
        r"up_blocks\.(\d)\.upsamplers\.0", lambda m: f"up.{levels - 1 - int(m[1])}.upsample", name
    )


def sd3_transformer(model) -> dict[str, Tensor]:
    """An SD3 transformer in the layout of Stability AI, q, k and v in one matrix."""
    weights, found = model.state_dict(), {}
    last = f"transformer_blocks.{len(model.transformer_blocks) - 1}.norm1_context"
    for name, w in weights.items():
        if name.startswith((last, "norm_out")):  # shift and scale are the other way round
            w = torch.cat(w.chunk(2)[::-1])
        block = re.fullmatch(r"transformer_blocks\.(\d+)\.(.+)", name)
        if not block:
            found[replaced(name, SD3)] = w
        elif fused := re.fullmatch(r"attn\.(to_|add_)(q|k|v)(_proj)?\.(weight|bias)", block[2]):
            stream = "x_block" if fused[1] == "to_" else "context_block"
            three = [
                weights[name.replace(f"{fused[1]}{fused[2]}", f"{fused[1]}{x}")] for x in "qkv"
            ]
            found[f"joint_blocks.{block[1]}.{stream}.attn.qkv.{fused[4]}"] = torch.cat(three)
        else:
            found[f"joint_blocks.{block[1]}.{replaced(block[2], SD3_BLOCK)}"] = w
    return {"model.diffusion_model." + name: w.contiguous() for name, w in found.items()}


def replaced(name: str, table: dict[str, str]) -> str:
    """The name, its beginning replaced by the first entry that fits."""
    for ours, theirs in table.items():
        if name == ours or name.startswith(ours + "."):
            return theirs + name.removeprefix(ours)
    return name
