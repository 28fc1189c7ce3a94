"""DPG-Bench's prompts and questions, and tiny models that answer."""

import csv
from pathlib import Path

import pytest
import torch
from transformers import (
    BertTokenizer,
    BlipConfig,
    BlipForQuestionAnswering,
    BlipImageProcessor,
    BlipProcessor,
    BlipTextConfig,
    BlipVisionConfig,
    ViltConfig,
    ViltForQuestionAnswering,
    ViltImageProcessor,
    ViltProcessor,
)

from ....conftest import randomise

PROMPTS = {"1": "a brown dog on a red mat", "2": "a blue cup", "10": "two cats asleep"}
QUESTIONS = [  # item, number, dependency, category, question
    ("1", 1, "0", "entity", "Is there a dog?"),
    ("1", 2, "1", "attribute", "Is the dog brown?"),
    ("1", 3, "0", "entity", "Is there a mat?"),
    ("1", 4, "1, 3", "relation", "Is the dog on the mat?"),
    ("2", 1, "0", "entity", "Is there a cup?"),
    ("2", 2, "1", "attribute", "Is the cup blue?"),
    ("10", 1, "0", "entity", "Are there cats?"),
    ("10", 2, "1", "other", "Are there two cats?"),
]
HEAD = (
    *("item_id", "text", "keywords", "proposition_id", "dependency"),
    *("category_broad", "category_detailed", "tuple", "question_natural_language"),
)
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "yes", "no", "is", "there", "a", "dog", "?"]


@pytest.fixture
def prompts(tmp_path) -> Path:
    """Three prompts in files, and the table of questions beside their folder."""
    folder = tmp_path / "prompts"
    folder.mkdir()
    for name, prompt in PROMPTS.items():
        (folder / f"{name}.txt").write_text(prompt)
    with (tmp_path / "dpg_bench.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(HEAD)
        for item, number, needs, category, question in QUESTIONS:
            table.writerow(
                [item, PROMPTS[item], "", number, needs, category, "x", "a (b, c)", question]
            )
    return folder


def vocabulary(folder: Path) -> BertTokenizer:
    folder.mkdir()
    (folder / "words.txt").write_text("\n".join(WORDS) + "\n")
    return BertTokenizer(str(folder / "words.txt"), model_max_length=16)


@pytest.fixture(scope="session")
def blip(tmp_path_factory) -> Path:
    """A BLIP whose first word is yes."""
    folder = tmp_path_factory.mktemp("answers") / "blip"
    tokenizer = vocabulary(folder)
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1}
    text = BlipTextConfig(
        **sizes, vocab_size=len(WORDS), encoder_hidden_size=16, num_attention_heads=2,
        max_position_embeddings=32, projection_dim=16, bos_token_id=2, sep_token_id=3,
        eos_token_id=3, pad_token_id=0,
    )  # fmt: skip
    vision = BlipVisionConfig(
        **sizes, num_attention_heads=2, image_size=32, patch_size=16, projection_dim=16
    )
    torch.manual_seed(0)
    config = BlipConfig(text_config=text.to_dict(), vision_config=vision.to_dict())
    model = randomise(BlipForQuestionAnswering(config))
    with torch.no_grad():
        model.text_decoder.cls.predictions.bias[WORDS.index("yes")] = 50
    model.save_pretrained(folder)
    size = {"height": 32, "width": 32}
    BlipProcessor(BlipImageProcessor(size=size), tokenizer).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def vilt(tmp_path_factory) -> Path:
    """A ViLT with three answers."""
    folder = tmp_path_factory.mktemp("answers") / "vilt"
    tokenizer = vocabulary(folder)
    torch.manual_seed(0)
    config = ViltConfig(
        hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2,
        image_size=32, patch_size=16, vocab_size=len(WORDS), max_position_embeddings=16,
        id2label={0: "no", 1: "yes", 2: "3"}, label2id={"no": 0, "yes": 1, "3": 2},
    )  # fmt: skip
    randomise(ViltForQuestionAnswering(config)).save_pretrained(folder)
    size = {"shortest_edge": 32}
    ViltProcessor(ViltImageProcessor(size=size, size_divisor=16), tokenizer).save_pretrained(folder)
    return folder
