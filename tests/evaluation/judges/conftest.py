"""Tiny judges of their own classes, with random weights."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from transformers import BlipTextConfig, BlipVisionConfig, CLIPConfig, CLIPModel

from obsdiff.evaluation.judges.image_reward import TEXT_SIZES, ImageReward
from obsdiff.evaluation.judges.inception import Inception
from obsdiff.evaluation.judges.lpips import AlexNet

from ...conftest import PROMPTS, randomise, text_config, tokenizer

SIDE = 32
VISION = {
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": SIDE,
    "patch_size": 8,
    "projection_dim": 16,
}


@pytest.fixture(scope="module")
def clip(tmp_path_factory) -> Path:
    """A CLIPModel with a tokenizer, as CLIP score and PickScore require it."""
    folder = tmp_path_factory.mktemp("judges") / "clip"
    torch.manual_seed(0)
    randomise(
        CLIPModel(
            CLIPConfig(text_config=text_config().to_dict(), vision_config=VISION, projection_dim=16)
        )
    ).save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def inception(tmp_path_factory) -> Path:
    file = tmp_path_factory.mktemp("judges") / "inception.safetensors"
    torch.manual_seed(0)
    save_file(Inception().state_dict(), file)
    return file


@pytest.fixture(scope="module")
def alexnet(tmp_path_factory) -> Path:
    """As torchvision publishes it: pickled, with a classifier."""
    file = tmp_path_factory.mktemp("judges") / "alexnet.pth"
    torch.manual_seed(0)
    torch.save(AlexNet().state_dict() | {"classifier.6.bias": torch.zeros(3)}, file)
    return file


@pytest.fixture(scope="module")
def reward(tmp_path_factory) -> Path:
    """ImageReward with tiny towers: its published names, med_config.json, a BERT vocabulary."""
    folder = tmp_path_factory.mktemp("judges") / "reward"
    folder.mkdir()
    words = [
        "[PAD]",
        "[UNK]",
        "[CLS]",
        "[SEP]",
        "[MASK]",
        *(word for prompt in PROMPTS for word in prompt.split()),
    ]
    (folder / "vocab.txt").write_text("\n".join(dict.fromkeys(words)) + "\n")
    med = {
        "vocab_size": 40,
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "max_position_embeddings": 40,
    }
    med |= {
        "layer_norm_eps": 1e-12,
        "encoder_width": 32,
        "add_cross_attention": True,
        "model_type": "bert",
    }
    (folder / "med_config.json").write_text(json.dumps(med))
    sizes = {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 1,
        "image_size": SIDE,
        "patch_size": 16,
    }
    torch.manual_seed(0)
    model = ImageReward(
        BlipVisionConfig(**sizes, layer_norm_eps=1e-6),
        BlipTextConfig(**{n: med[n] for n in TEXT_SIZES}, encoder_hidden_size=32, is_decoder=True),
    )
    torch.save(
        {published(name): value for name, value in randomise(model).state_dict().items()},
        folder / "ImageReward.pt",
    )
    return folder


def published(name: str) -> str:
    """transformers' name -> the name in ImageReward.pt."""
    pairs = [
        ("vision.embeddings.class_embedding", "cls_token"),
        ("vision.embeddings.position_embedding", "pos_embed"),
    ]
    pairs += [
        ("vision.embeddings.patch_embedding", "patch_embed.proj"),
        ("vision.post_layernorm", "norm"),
        ("vision.encoder.layers", "blocks"),
    ]
    for ours, theirs in pairs:
        if name.startswith(ours):
            name = f"blip.visual_encoder.{theirs}" + name.removeprefix(ours)
    for ours, theirs in (
        ("layer_norm1", "norm1"),
        ("layer_norm2", "norm2"),
        ("self_attn.qkv", "attn.qkv"),
        ("self_attn.projection", "attn.proj"),
    ):
        name = name.replace(f".{ours}.", f".{theirs}.")
    return "blip.text_encoder." + name.removeprefix("text.") if name.startswith("text.") else name
