"""Assemble the trained parts, in float16, in obsdiff-emoji/obsdiff_emoji: emoji-sd3, a plain
StableDiffusion3Pipeline, or emoji-unet, a plain StableDiffusionPipeline with emoji-sd3's
autoencoder and first text encoder.

    python -m training.assemble [emoji-sd3|emoji-unet]        # seconds

diffusers loads a StableDiffusion3Pipeline from a folder only if all three text encoders are there.
The third one here is a T5 of 28 thousand parameters whose last norm has weight zero: its output is
256 zero tokens, as the pipeline feeds them without the encoder, and as the transformer was trained.
"""

import argparse
import json
import random
import shutil
from pathlib import Path

import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    FlowMatchEulerDiscreteScheduler,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
    StableDiffusionPipeline,
    UNet2DConditionModel,
)
from transformers import (
    CLIPModel,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    T5Config,
    T5EncoderModel,
    T5Tokenizer,
)

from obsdiff.pipelines.builtin import BUILTINS, builtin_path

from .clip import OUT as CLIP
from .data import load
from .mmdit import CONFIG
from .mmdit import OUT as TRANSFORMER
from .unet import OUT as UNET
from .unet import SCHEDULE, SHARED
from .vae import OUT as VAE

SETTINGS = {"num_inference_steps": 25, "height": 64, "width": 64}
GUIDANCE = {"emoji-sd3": 4.0, "emoji-unet": 3.0}
CALIBRATION, EVALUATION = 200, 128
NUM_PROMPTS = {
    "emoji-sd3": 24,
    "emoji-unet": 100,
}  # 60 image tokens per column of the widest layers; one word per column of the text's


def silent_encoder() -> tuple[T5EncoderModel, T5Tokenizer]:
    """A T5 encoder with zero outputs, and its tokenizer."""
    tokenizer = T5Tokenizer(
        vocab=[("<pad>", 0.0), ("</s>", 0.0), ("<unk>", -1.0), ("\u2581", -2.0)], extra_ids=0
    )
    config = T5Config(
        vocab_size=len(tokenizer),
        d_model=CONFIG["joint_attention_dim"],
        d_kv=8,
        d_ff=8,
        num_layers=1,
        num_heads=1,
    )
    encoder = T5EncoderModel(config)
    torch.nn.init.zeros_(encoder.encoder.final_layer_norm.weight)
    return encoder.eval(), tokenizer


def sd3_pipeline() -> StableDiffusion3Pipeline:
    """The trained pipeline in float32."""
    encoder, t5_tokenizer = silent_encoder()
    clip_tokenizer = CLIPTokenizer.from_pretrained(CLIP / "tokenizer")
    return StableDiffusion3Pipeline(
        transformer=SD3Transformer2DModel.from_pretrained(TRANSFORMER).eval(),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=1.0),
        vae=AutoencoderKL.from_pretrained(VAE).eval(),
        text_encoder=CLIPTextModelWithProjection.from_pretrained(CLIP / "text_encoder").eval(),
        tokenizer=clip_tokenizer,
        text_encoder_2=CLIPTextModelWithProjection.from_pretrained(CLIP / "text_encoder_2").eval(),
        tokenizer_2=clip_tokenizer,
        text_encoder_3=encoder,
        tokenizer_3=t5_tokenizer,
    )


def unet_pipeline() -> StableDiffusionPipeline:
    """The trained pipeline in float32. DDIM, epsilon; no safety checker."""
    return StableDiffusionPipeline(
        vae=AutoencoderKL.from_pretrained(SHARED / "vae", torch_dtype=torch.float32).eval(),
        text_encoder=CLIPTextModel.from_pretrained(
            SHARED / "text_encoder", dtype=torch.float32
        ).eval(),
        tokenizer=CLIPTokenizer.from_pretrained(SHARED / "tokenizer"),
        unet=UNet2DConditionModel.from_pretrained(UNET).eval(),
        scheduler=DDIMScheduler(**SCHEDULE),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def settings_of(model: str) -> dict[str, float]:
    """Recommended settings of the pipeline's call."""
    return {
        "num_inference_steps": SETTINGS["num_inference_steps"],
        "guidance_scale": GUIDANCE[model],
    } | SETTINGS


def save_clips() -> None:
    """Save the CLIPs of the metrics beside the pipelines."""
    models = builtin_path("emoji-clip").parent
    for name in ("clip", "judge"):
        if (CLIP / name).exists():
            CLIPModel.from_pretrained(CLIP / name).to(torch.float16).save_pretrained(
                models / f"emoji-{name}", safe_serialization=True
            )
            CLIPTokenizer.from_pretrained(CLIP / "tokenizer").save_pretrained(
                models / f"emoji-{name}"
            )


def save_prompts(folder: Path) -> None:
    """Captions of known names, drawn at random: the same for both pipelines."""
    _, rows = load()
    known = sorted({row["caption"] for row in rows if not row["held_out"]})
    chosen = random.Random(11).sample(known, CALIBRATION + EVALUATION)
    (folder / "calibration_prompts.txt").write_text("\n".join(chosen[:CALIBRATION]) + "\n")
    (folder / "evaluation_prompts.txt").write_text("\n".join(chosen[CALIBRATION:]) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", nargs="?", default="emoji-sd3", choices=BUILTINS)
    model = parser.parse_args().model
    folder = builtin_path(model)
    card = (folder / "README.md").read_text() if (folder / "README.md").exists() else None
    shutil.rmtree(folder, ignore_errors=True)
    made = sd3_pipeline() if model == "emoji-sd3" else unet_pipeline()
    made.to(torch.float16).save_pretrained(folder, safe_serialization=True)
    for file in folder.glob("*/config.json"):  # without the local paths of the parts
        config = {
            key: value
            for key, value in json.loads(file.read_text()).items()
            if key != "_name_or_path"
        }
        file.write_text(json.dumps(config, indent=2) + "\n")
    if card:
        (folder / "README.md").write_text(card)
    save_prompts(folder)
    (folder / "builtin.json").write_text(
        json.dumps(
            {"settings": settings_of(model), "calibration": {"num_prompts": NUM_PROMPTS[model]}},
            indent=1,
        )
        + "\n"
    )
    if model == "emoji-sd3":
        save_clips()
    size = sum(f.stat().st_size for f in folder.rglob("*") if f.is_file())
    print(f"{folder.name}: {size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
