"""ImageReward: how much people would like a picture of a prompt. A BLIP encoder reads the prompt looking at the picture; five linear
layers turn its first token into a reward, scaled to mean 0 and deviation 1 over the authors' data.

The networks are transformers' BLIP classes, filled with the published weights (THUDM/ImageReward: ImageReward.pt and med_config.json,
beside the tokenizer of bert-base-uncased). The authors' package image-reward pins timm 0.6.13 and fairscale, and does not import beside
transformers 5.

References:
    Xu, Liu, Wu, Tong, Li, Ding, Tang, Dong. ImageReward: Learning and Evaluating Human Preferences for Text-to-Image Generation. 2023.
        https://arxiv.org/abs/2304.05977
    Li, Li, Xiong, Hoi. BLIP: Bootstrapping Language-Image Pre-training. 2022. https://arxiv.org/abs/2201.12086
"""

import re
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from ...runtime.json_files import read_json
from .files import reward_weights
from .weights import NotAtHand, fill_, read_weights

MEAN, DEVIATION = 0.16717362830052426, 1.0333394966054072  # of the authors' raw rewards
TOKENS = 35
HEAD_WIDTH = 64
WIDTHS = (1024, 128, 64, 16, 1)
NAMES = (  # published name -> transformers' name
    (r"^blip\.visual_encoder\.cls_token", "vision.embeddings.class_embedding"),
    (r"^blip\.visual_encoder\.pos_embed", "vision.embeddings.position_embedding"),
    (r"^blip\.visual_encoder\.patch_embed\.proj", "vision.embeddings.patch_embedding"),
    (r"^blip\.visual_encoder\.norm", "vision.post_layernorm"),
    (r"^blip\.visual_encoder\.blocks", "vision.encoder.layers"),
    (r"\.norm([12])\.", r".layer_norm\1."),
    (r"\.attn\.qkv\.", ".self_attn.qkv."),
    (r"\.attn\.proj\.", ".self_attn.projection."),
    (r"^blip\.text_encoder\.", "text."),
)


class ImageReward(nn.Module):
    """Picture and prompt -> reward. `vision` and `text` are configurations of transformers' BLIP."""

    def __init__(self, vision: Any, text: Any):
        from transformers import BlipTextModel, BlipVisionModel

        super().__init__()
        self.vision = BlipVisionModel(vision)
        self.text = BlipTextModel(text, add_pooling_layer=False)
        self.mlp = nn.ModuleDict({"layers": nn.Sequential(*mlp(text.hidden_size))})

    def forward(self, pixels: Tensor, ids: Tensor, mask: Tensor) -> Tensor:
        """Pixels (B, 3, S, S), ids and mask (B, T) -> rewards (B,)."""
        seen = self.vision(pixel_values=pixels).last_hidden_state
        everywhere = torch.ones(seen.shape[:2], dtype=torch.long)
        read = self.text(
            input_ids=ids,
            attention_mask=mask,
            encoder_hidden_states=seen,
            encoder_attention_mask=everywhere,
        )
        return (self.mlp["layers"](read.last_hidden_state[:, 0]).squeeze(1) - MEAN) / DEVIATION


def mlp(width: int) -> list[nn.Module]:
    """Linear layers without anything between them but dropout, at the places where the published names count them."""
    layers: list[nn.Module] = []
    for i, outputs in enumerate(WIDTHS):
        layers.append(nn.Linear(width, outputs))
        layers += [nn.Dropout(0.1)] if i < 3 else []
        width = outputs
    return layers


class Rewarder:
    """An ImageReward with its tokenizer and its way of reading pictures, which is CLIP's."""

    def __init__(self, model: ImageReward, folder: Path):
        from transformers import BertTokenizer, CLIPImageProcessor

        side = model.vision.config.image_size
        self.model = model
        self.tokenizer = BertTokenizer.from_pretrained(folder, local_files_only=True)
        self.processor = CLIPImageProcessor(
            size={"shortest_edge": side}, crop_size={"height": side, "width": side}
        )

    @torch.no_grad()
    def rewards(self, images: list[Image.Image], prompts: list[str]) -> np.ndarray:
        """One reward a picture (N,), about -2.5 to 2.5."""
        found = []
        for image, prompt in zip(images, prompts, strict=True):
            text = self.tokenizer(
                prompt,
                padding="max_length",
                truncation=True,
                max_length=TOKENS,
                return_tensors="pt",
            )
            pixels = self.processor(images=[image], return_tensors="pt").pixel_values
            found.append(self.model(pixels, text.input_ids, text.attention_mask))
        return torch.cat(found).double().numpy()


def load_image_reward(folder: Path) -> Rewarder:
    """The model in a folder: ImageReward's weights, med_config.json, BERT's tokenizer."""
    file = reward_weights(folder)
    if file is None:
        raise NotAtHand(f"{folder} has no weights of ImageReward")
    weights = {renamed(name): value for name, value in read_weights(file).items()}
    model = ImageReward(
        vision_config(weights, file), text_config(weights, read_json(folder / "med_config.json"))
    )
    return Rewarder(fill_(model, weights, file), folder)


def renamed(name: str) -> str:
    for pattern, new in NAMES:
        name = re.sub(pattern, new, name)
    return name


def vision_config(weights: dict[str, Tensor], file: Path) -> Any:
    """The image tower's sizes, read off its weights: ViT-L/16 at 224 pixels in the published ones."""
    from transformers import BlipVisionConfig

    patches, positions = (
        weights.get(f"vision.embeddings.{name}")
        for name in ("patch_embedding.weight", "position_embedding")
    )
    if patches is None or positions is None:
        raise NotAtHand(f"{file} has not the weights of ImageReward: no image tower in it")
    width, patch = patches.shape[0], patches.shape[-1]
    layers = {name.split(".")[3] for name in weights if name.startswith("vision.encoder.layers.")}
    side = round((positions.shape[1] - 1) ** 0.5) * patch
    hidden = weights["vision.encoder.layers.0.mlp.fc1.weight"].shape[0]
    return BlipVisionConfig(
        hidden_size=width, intermediate_size=hidden, num_hidden_layers=len(layers), num_attention_heads=max(1, width // HEAD_WIDTH),
        image_size=side, patch_size=patch, layer_norm_eps=1e-6, hidden_act="gelu",
    )  # fmt: skip


def text_config(weights: dict[str, Tensor], med: dict[str, Any]) -> Any:
    """The text encoder's sizes, from the published med_config.json."""
    from transformers import BlipTextConfig

    names = (
        "vocab_size",
        "hidden_size",
        "intermediate_size",
        "num_hidden_layers",
        "num_attention_heads",
        "max_position_embeddings",
        "layer_norm_eps",
    )
    seen = weights["vision.embeddings.patch_embedding.weight"].shape[0]
    special = {
        "pad_token_id": 0,
        "bos_token_id": None,
        "eos_token_id": None,
        "sep_token_id": None,
    }  # nothing is generated
    return BlipTextConfig(
        **{name: med[name] for name in names},
        encoder_hidden_size=seen,
        hidden_act="gelu",
        is_decoder=True,
        **special,
    )
