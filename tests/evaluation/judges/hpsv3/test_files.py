"""What is refused before anything is drawn, in one line each."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import Qwen2VLConfig, Qwen2VLModel

from obsdiff.errors import UserError
from obsdiff.evaluation.judges.download import OF_HUB
from obsdiff.evaluation.judges.files import find_judges
from obsdiff.evaluation.judges.hpsv3.tensors import shapes_of
from obsdiff.evaluation.judges.hpsv3.texts import Texts, read_texts

from .tiny import INSTRUCTION, QUESTION

TEXTS, WEIGHTS = "data_collator_qwen.py", "HPSv3.safetensors"


def refusal(folder, download: bool = False) -> str:
    """The one line of the refusal."""
    with pytest.raises(UserError) as caught:
        find_judges({"hpsv3": str(folder)}, Path("dense"), download)
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith("hpsv3: ")
    return str(caught.value)


def changed(folder, **tensors) -> str:
    """The refusal of a file of weights with other tensors; None removes one."""
    found = load_file(folder / WEIGHTS)
    for name, value in tensors.items():
        found.pop(name, None)
        if value is not None:
            found[name] = value
    save_file(found, folder / WEIGHTS)
    return refusal(folder)


def test_a_whole_folder_is_found(hpsv3):
    judges = find_judges({"hpsv3": str(hpsv3)}, hpsv3)
    assert judges.hpsv3 == hpsv3
    assert judges.record() == {"hpsv3": str(hpsv3)}


def test_no_hub_has_all_of_its_files(tmp_path):
    assert "hpsv3" not in OF_HUB
    assert "make one, since --download can't" in refusal("MizzenAI/HPSv3", download=True)
    assert "found no folder" in refusal(tmp_path / "none")


def test_the_texts_are_read_and_their_file_is_not_run(hpsv3):
    assert read_texts(hpsv3) == Texts(INSTRUCTION, QUESTION)
    assert Texts("a {text_prompt}", "b").of("{c}") == "a {c}b"


def test_a_missing_text_names_where_it_is_published(copy):
    where = "hpsv3/dataset/data_collator_qwen.py of github.com/MizzenAI/HPSv3"
    for content, words in {
        "INSTRUCTION = ": "can't be read as Python: SyntaxError",
        "(" * 5000: "can't be read as Python",
        "a\0": "can't be read as Python",
        "INSTRUCTION = 'a {text_prompt}'": "expected prompt_with_special_token as a literal",
        "INSTRUCTION = str('a')\nprompt_with_special_token = 'b'": "expected INSTRUCTION as a lit",
    }.items():
        (copy / TEXTS).write_text(content)
        assert words in refusal(copy)
        assert where in refusal(copy)
    (copy / TEXTS).unlink()
    assert f"expected {TEXTS}, which has the instruction text" in refusal(copy)
    assert where in refusal(copy)


def test_texts_of_another_form_are_refused(copy):
    name = "prompt_with_special_token"
    for instruction, question, words in (
        ("none", "<|Reward|>", "found it 0 times, and 0 braces"),
        ("{text_prompt} {0}", "<|Reward|>", "found it 1 times, and 4 braces"),
        ("{text_prompt}", "no token", "found 0 there and 0 in INSTRUCTION"),
        ("{text_prompt} <|Reward|>", "", "found 0 there and 1 in INSTRUCTION"),
    ):
        (copy / TEXTS).write_text(f"INSTRUCTION = {instruction!r}\n{name} = {question!r}\n")
        assert words in refusal(copy)
    (copy / TEXTS).write_text("#" * 1_000_001)
    assert "found a larger file" in refusal(copy)


def test_the_table_of_tensors_is_that_of_transformers(hpsv3, tmp_path):
    content = json.loads((hpsv3 / "config.json").read_text())
    config = Qwen2VLConfig(**content)
    own = {name: tuple(value.shape) for name, value in Qwen2VLModel(config).state_dict().items()}
    for each in (content, config.to_dict()):  # flat as published, and nested
        found = shapes_of(each, 300, tmp_path)
        assert {name: shape for name, shape in found.items() if "rm_head" not in name} == own


@pytest.mark.parametrize(
    ("tensors", "words"),
    [
        (
            {f"rm_head.{i}.{name}": None for i in (0, 3, 5) for name in ("weight", "bias")},
            "found 6 tensors missing, such as rm_head.",
        ),
        ({"model.norm.weight": None}, "1 tensors missing, such as language_model.norm.weight"),
        ({"model.norm.bias": torch.zeros(32)}, "left over, such as language_model.norm.bias"),
        ({"rm_head.5.weight": torch.zeros(1, 16)}, "another shape, such as rm_head.5.weight"),
        ({"visual.merger.ln_q.bias": torch.zeros(9)}, "another shape, such as visual.merger"),
        (
            {"model.language_model.norm.weight": torch.zeros(32)},
            "1 tensors under two names, such as language_model.norm.weight",
        ),
        (
            {"model.norm.weight": torch.zeros(32, dtype=torch.int8)},
            "such as model.norm.weight (I8)",
        ),
    ],
)
def test_tensors_that_do_not_fit_are_refused(copy, tensors, words):
    assert words in changed(copy, **tensors)


def test_a_pickle_is_refused(copy):
    torch.save({}, copy / "HPSv3.pth")
    (copy / WEIGHTS).unlink()
    assert "found HPSv3.pth, which may hold code and is not read" in refusal(copy)
    (copy / "HPSv3.pth").rename(copy / WEIGHTS)
    with pytest.raises(UserError, match=r"HPSv3.safetensors is no .*safetensors file"):
        find_judges({"hpsv3": str(copy)}, copy)
    (copy / WEIGHTS).unlink()
    assert "found no weights" in refusal(copy)


def test_a_config_of_another_model_is_refused(copy):
    content = json.loads((copy / "config.json").read_text())
    for changes, words in (
        ({"model_type": "qwen2"}, "expected the config.json of Qwen/Qwen2-VL-7B-Instruct"),
        ({"hidden_size": "wide"}, "as hidden_size, found 'wide'"),
        ({"num_hidden_layers": 10**9}, "as num_hidden_layers, found 1000000000"),
        ({"vision_config": [1]}, "expected sizes, found list"),
        ({"num_hidden_layers": 3}, "12 tensors missing"),
    ):
        (copy / "config.json").write_text(json.dumps(content | changes))
        assert words in refusal(copy)
    (copy / "config.json").write_text(json.dumps(content | {"auto_map": {"AutoModel": "a.B"}}))
    with pytest.raises(UserError, match="names code that is not part of the installation"):
        find_judges({"hpsv3": str(copy)}, copy)
    (copy / "config.json").write_text(json.dumps(content))
    (copy / "tokenizer.json").unlink()
    assert "found no tokenizer" in refusal(copy)
