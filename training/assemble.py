"""Assemble the trained parts, in float16, in obsdiff-emoji/obsdiff_emoji: emoji-sd3, a plain
StableDiffusion3Pipeline, or emoji-unet, a plain StableDiffusionPipeline with emoji-sd3's
autoencoder.

    python -m training.assemble [emoji-sd3|emoji-unet]        # seconds

Four sets of prompts come with both. Three are of names that the models were trained on and share no
caption: for calibration, for tuning (every decision about settings is made on these alone), for
evaluation (no decision ever sees them). The fourth is of held-out names.
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
    T5EncoderModel,
    T5Tokenizer,
)

from obsdiff.pipelines.builtin import BUILTINS, builtin_path

from .clip import OUT as CLIP
from .data import load
from .mmdit import OUT as TRANSFORMER
from .unet import OUT as UNET
from .unet import SCHEDULE
from .vae import OUT as VAE

SETTINGS = {"num_inference_steps": 25, "height": 64, "width": 64}
GUIDANCE = {"emoji-sd3": 4.0, "emoji-unet": 3.0}
VERSION = 3  # of both models; the records of prunings name it
CALIBRATION, TUNING, EVALUATION, HELD_OUT = 200, 64, 128, 64
NUM_PROMPTS = {
    "emoji-sd3": 24,
    "emoji-unet": 100,
}  # 60 image tokens per column of the widest layers; one word per column of the text's


def sd3_pipeline() -> StableDiffusion3Pipeline:
    """The trained pipeline in float32."""
    clip_tokenizer = CLIPTokenizer.from_pretrained(CLIP / "tokenizer")
    return StableDiffusion3Pipeline(
        transformer=SD3Transformer2DModel.from_pretrained(TRANSFORMER).eval(),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=1.0),
        vae=AutoencoderKL.from_pretrained(VAE, torch_dtype=torch.float32).eval(),
        text_encoder=CLIPTextModelWithProjection.from_pretrained(
            CLIP / "text_encoder", dtype=torch.float32
        ).eval(),
        tokenizer=clip_tokenizer,
        text_encoder_2=CLIPTextModelWithProjection.from_pretrained(
            CLIP / "text_encoder_2", dtype=torch.float32
        ).eval(),
        tokenizer_2=clip_tokenizer,
        text_encoder_3=T5EncoderModel.from_pretrained(TRANSFORMER / "text_encoder_3").eval(),
        tokenizer_3=T5Tokenizer.from_pretrained(TRANSFORMER / "tokenizer_3"),
    )


def unet_pipeline() -> StableDiffusionPipeline:
    """The trained pipeline in float32. DDIM, epsilon; no safety checker."""
    return StableDiffusionPipeline(
        vae=AutoencoderKL.from_pretrained(VAE, torch_dtype=torch.float32).eval(),
        text_encoder=CLIPTextModel.from_pretrained(UNET / "text_encoder").eval(),
        tokenizer=CLIPTokenizer.from_pretrained(CLIP / "tokenizer"),
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
    """The sets of prompts, drawn at random: the same for both pipelines. Version 1 reported its
    first 64 evaluation prompts, and settings were chosen on some of them: these are for tuning now,
    and the others are not used."""
    _, rows = load()
    known = sorted({row["caption"] for row in rows if not row["held_out"]})
    first = random.Random(11).sample(known, CALIBRATION + 128)
    unseen = sorted(set(known) - set(first))
    held_out = sorted({row["caption"] for row in rows if row["held_out"]})
    for kind, prompts in {
        "calibration": first[:CALIBRATION],
        "tuning": first[CALIBRATION : CALIBRATION + TUNING],
        "evaluation": random.Random(12).sample(unseen, EVALUATION),
        "held_out": random.Random(13).sample(held_out, HELD_OUT),
    }.items():
        (folder / f"{kind}_prompts.txt").write_text("\n".join(prompts) + "\n")


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
            {
                "version": VERSION,
                "settings": settings_of(model),
                "calibration": {"num_prompts": NUM_PROMPTS[model]},
            },
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
