"""A tiny HPSv3 in a folder: a Qwen2-VL of width 32 with a reward head, and texts of the tests."""

import json
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from tokenizers import pre_tokenizers
from torch import Tensor, nn
from transformers import Qwen2Tokenizer, Qwen2VLConfig, Qwen2VLForConditionalGeneration

from ....conftest import randomise

SPECIAL = (
    *("<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>"),
    *("<|image_pad|>", "<|video_pad|>"),
)
INSTRUCTION = "\nHow good is it?  \nIt shows {text_prompt}\n\n"
QUESTION = "\nSay: <|Reward|>\n\nBye\n"
TEXTS = f'''"""The tests' own."""
import no_such_package

raise SystemExit("this file is not run")
INSTRUCTION = """{INSTRUCTION}"""
prompt_with_special_token = """{QUESTION}"""
'''


def tokenizer() -> Qwen2Tokenizer:
    """Every byte, and the special tokens, as Qwen2-VL's; the reward token is not among them."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = Qwen2Tokenizer(vocab={token: i for i, token in enumerate(alphabet)}, merges=[])
    tokens.add_tokens(list(SPECIAL), special_tokens=True)
    return tokens


def config(tokens: Qwen2Tokenizer) -> dict:
    """The content of config.json, with the keys that the published one has."""
    ids = dict(zip(SPECIAL, tokens.convert_tokens_to_ids(list(SPECIAL)), strict=True))
    return {
        "architectures": ["Qwen2VLForConditionalGeneration"],
        "model_type": "qwen2_vl",
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "hidden_act": "silu",
        "rms_norm_eps": 1e-6,
        "rope_theta": 1e6,
        "rope_scaling": {"type": "mrope", "mrope_section": [1, 1, 2]},
        "tie_word_embeddings": False,
        "torch_dtype": "bfloat16",
        "vocab_size": 300,  # more than the tokens there are, as published
        "bos_token_id": 0,
        "eos_token_id": ids["<|im_end|>"],
        "image_token_id": ids["<|image_pad|>"],
        "video_token_id": ids["<|video_pad|>"],
        "vision_start_token_id": ids["<|vision_start|>"],
        "vision_end_token_id": ids["<|vision_end|>"],
        "vision_config": {
            "depth": 2,
            "embed_dim": 32,
            "hidden_size": 32,
            "in_chans": 3,
            "mlp_ratio": 2,
            "num_heads": 2,
            "patch_size": 14,
            "spatial_merge_size": 2,
            "spatial_patch_size": 14,
            "temporal_patch_size": 2,
        },
    }


def head() -> dict[str, Tensor]:
    """The tensors of the reward head, by their published names."""
    widths = ((0, 32, 1024), (3, 1024, 16), (5, 16, 2))
    layers = {number: nn.Linear(inputs, outputs) for number, inputs, outputs in widths}
    return {
        f"rm_head.{number}.{name}": value.detach()
        for number, layer in layers.items()
        for name, value in layer.named_parameters()
    }


def make_hpsv3(folder: Path) -> Path:
    """Write a tiny HPSv3 under its published names, and return its folder."""
    torch.manual_seed(0)
    tokens = tokenizer()
    tokens.save_pretrained(folder)
    content = config(tokens)
    model = Qwen2VLForConditionalGeneration(Qwen2VLConfig(**content))
    model.resize_token_embeddings(len(tokens) + 1)  # with the reward token
    for parameter in randomise(model).parameters():
        parameter.data *= 3  # so that attention prefers some tokens
    model.save_pretrained(folder)
    (folder / "config.json").write_text(json.dumps(content))
    whole = load_file(folder / "model.safetensors") | head()
    (folder / "model.safetensors").unlink()
    save_file(whole, folder / "HPSv3.safetensors", {"format": "pt"})
    (folder / "data_collator_qwen.py").write_text(TEXTS)
    return folder
