"""Take up the parts that ship, to train the denoisers anew or on.

    python -m training.shipped

Copies the VAE, both CLIP text encoders and their tokenizer into training/cache, and stores the
denoisers with the text encoders trained with them as shipped-mmdit and shipped-unet, for `--start`.
"""

import shutil

import torch
from diffusers import SD3Transformer2DModel, UNet2DConditionModel
from torch import nn
from transformers import CLIPTextModel, T5EncoderModel

from obsdiff.pipelines.builtin import builtin_path

from .clip import OUT as CLIP
from .data import CACHE
from .loop import save
from .vae import OUT as VAE


def start(**parts: nn.Module) -> dict[str, dict[str, torch.Tensor]]:
    """What `averaged` reads, of the module that has these components."""
    return {"average": nn.ModuleDict(parts).float().state_dict()}


def main() -> None:
    sd3, unet = builtin_path("emoji-sd3"), builtin_path("emoji-unet")
    for part in ("text_encoder", "text_encoder_2", "tokenizer"):
        shutil.copytree(sd3 / part, CLIP / part, dirs_exist_ok=True)
    shutil.copytree(sd3 / "vae", VAE, dirs_exist_ok=True)
    mmdit = start(
        transformer=SD3Transformer2DModel.from_pretrained(sd3 / "transformer"),
        text_encoder_3=T5EncoderModel.from_pretrained(sd3 / "text_encoder_3"),
    )
    save(mmdit, CACHE / "shipped-mmdit.pt")
    conditioned = start(
        unet=UNet2DConditionModel.from_pretrained(unet / "unet"),
        text_encoder=CLIPTextModel.from_pretrained(unet / "text_encoder"),
    )
    save(conditioned, CACHE / "shipped-unet.pt")
    print(f"{sd3.parent}: taken up in {CACHE}")


if __name__ == "__main__":
    main()
