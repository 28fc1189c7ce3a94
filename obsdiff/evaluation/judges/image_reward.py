"""ImageReward: a predictor of human preference for a picture, given its prompt.

BLIP's text encoder attends to the picture's embedding; five linear layers map its first token to a
reward, which is normalised to mean 0 and standard deviation 1 over the authors' data.

The networks are transformers' BLIP classes with the published weights (THUDM/ImageReward:
ImageReward.pt, med_config.json, and the tokenizer of bert-base-uncased). The authors' package
image-reward requires timm 0.6.13 and fairscale, and cannot be imported with transformers 5.

References:
    Xu, Liu, Wu, Tong, Li, Ding, Tang, Dong. ImageReward: Learning and Evaluating Human Preferences
        for Text-to-Image Generation. 2023. https://arxiv.org/abs/2304.05977
    Li, Li, Xiong, Hoi. BLIP: Bootstrapping Language-Image Pre-training. 2022.
        https://arxiv.org/abs/2201.12086
"""

import re
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from ...runtime.json_files import read_json
from .download import BERT, reward_tokenizer
from .files import reward_weights
from .weights import MetricUnavailable, fill_, read_weights

MEAN, DEVIATION = 0.16717362830052426, 1.0333394966054072  # of the authors' raw rewards
TOKENS = 35  # of a prompt, padded or truncated
HEAD_WIDTH = 64  # channels of one attention head of the image tower
WIDTHS = (1024, 128, 64, 16, 1)  # outputs of the linear layers
TEXT_SIZES = (  # that med_config.json and BlipTextConfig name alike
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "max_position_embeddings",
    "layer_norm_eps",
)
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
    """Picture and prompt -> reward.

    Attributes:
        vision: the image tower.
        text: the text encoder, with cross-attention to the picture.
        mlp: the linear layers, under their published names.
    """

    def __init__(self, vision: Any, text: Any) -> None:
        """Build the model from a BlipVisionConfig and a BlipTextConfig, with random weights."""
        from transformers import BlipTextModel, BlipVisionModel

        super().__init__()
        self.vision = BlipVisionModel(vision)
        self.text = BlipTextModel(text, add_pooling_layer=False)
        self.mlp = nn.ModuleDict({"layers": nn.Sequential(*mlp(text.hidden_size))})

    def forward(self, pixels: Tensor, ids: Tensor, mask: Tensor) -> Tensor:
        """Return the rewards (B,) of pixel values (B, 3, S, S), token ids and mask (B, T)."""
        patches = self.vision(pixel_values=pixels).last_hidden_state
        everywhere = torch.ones(patches.shape[:2], dtype=torch.long)
        tokens = self.text(
            input_ids=ids,
            attention_mask=mask,
            encoder_hidden_states=patches,
            encoder_attention_mask=everywhere,
        ).last_hidden_state
        return (self.mlp["layers"](tokens[:, 0]).squeeze(1) - MEAN) / DEVIATION


def mlp(width: int) -> list[nn.Module]:
    """Return the linear layers, with dropout at the positions that the published names count."""
    layers: list[nn.Module] = []
    for i, outputs in enumerate(WIDTHS):
        layers.append(nn.Linear(width, outputs))
        layers += [nn.Dropout(0.1)] if i < 3 else []
        width = outputs
    return layers


class Rewarder:
    """An ImageReward with its tokenizer and CLIP's preprocessing of pictures.

    Attributes:
        model: the network.
        tokenizer: BERT's.
        processor: pictures -> pixel values (B, 3, S, S).
    """

    def __init__(self, model: ImageReward, folder: Path) -> None:
        """Load the tokenizer in a folder; the picture size is that of the model.

        Args:
            model: the network.
            folder: with BERT's tokenizer.
        """
        from transformers import BertTokenizer, CLIPImageProcessor

        side = model.vision.config.image_size
        assert isinstance(side, int)  # vision_config sets one side: the pictures are square
        self.model = model
        self.tokenizer = BertTokenizer.from_pretrained(folder, local_files_only=True)
        self.processor = CLIPImageProcessor(
            size={"shortest_edge": side}, crop_size={"height": side, "width": side}
        )

    @torch.no_grad()
    def rewards(self, images: list[Image.Image], prompts: list[str]) -> np.ndarray:
        """Return one reward a picture (N,), about -2.5 to 2.5.

        Args:
            images: N pictures.
            prompts: N prompts.
        """
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
    """Load ImageReward from a folder with its weights and med_config.json, and BERT's tokenizer.

    Raises:
        MetricUnavailable: the weights are missing or do not fit.
    """
    file = reward_weights(folder)
    if file is None:
        raise MetricUnavailable(
            f"expected ImageReward's weights, found no weights of ImageReward in {folder}"
        )
    tokenizer = reward_tokenizer(folder)
    if tokenizer is None:
        raise MetricUnavailable(f"expected BERT's tokenizer in {folder}, or {BERT} in the cache")
    weights = {renamed(name): value for name, value in read_weights(file).items()}
    model = ImageReward(
        vision_config(weights, file), text_config(weights, read_json(folder / "med_config.json"))
    )
    return Rewarder(fill_(model, weights, file), tokenizer)


def renamed(name: str) -> str:
    """Return transformers' name of a published weight."""
    for pattern, new in NAMES:
        name = re.sub(pattern, new, name)
    return name


def vision_config(weights: dict[str, Tensor], file: Path) -> Any:
    """Return the BlipVisionConfig that fits the weights: ViT-L/16 at 224 pixels as published."""
    from transformers import BlipVisionConfig

    patches, positions = (
        weights.get(f"vision.embeddings.{name}")
        for name in ("patch_embedding.weight", "position_embedding")
    )
    if patches is None or positions is None:
        raise MetricUnavailable(
            f"{file}: expected the weights of ImageReward, found no image tower"
        )
    width, patch = patches.shape[0], patches.shape[-1]
    layers = {name.split(".")[3] for name in weights if name.startswith("vision.encoder.layers.")}
    side = round((positions.shape[1] - 1) ** 0.5) * patch
    hidden = weights["vision.encoder.layers.0.mlp.fc1.weight"].shape[0]
    return BlipVisionConfig(
        hidden_size=width,
        intermediate_size=hidden,
        num_hidden_layers=len(layers),
        num_attention_heads=max(1, width // HEAD_WIDTH),
        image_size=side,
        patch_size=patch,
        layer_norm_eps=1e-6,
        hidden_act="gelu",
    )


def text_config(weights: dict[str, Tensor], med: dict[str, Any]) -> Any:
    """Return the BlipTextConfig of the published med_config.json."""
    from transformers import BlipTextConfig

    sizes: dict[str, Any] = {name: med[name] for name in TEXT_SIZES}
    return BlipTextConfig(
        **sizes,
        encoder_hidden_size=weights["vision.embeddings.patch_embedding.weight"].shape[0],
        hidden_act="gelu",
        is_decoder=True,
        pad_token_id=0,
        bos_token_id=None,  # no text is generated
        eos_token_id=None,
        sep_token_id=None,
    )
