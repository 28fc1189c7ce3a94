"""A tokenizer without its vocabulary is refused, and so are prompts that it does not know."""

import json
import shutil
from pathlib import Path

import pytest
from transformers import CLIPTokenizer

from obsdiff.errors import UserError
from obsdiff.pipelines.folder import open_folder
from obsdiff.pipelines.known_words import require_known_words
from obsdiff.pipelines.vocabularies import require_vocabulary

from ..conftest import PROMPTS

NEEDED = {
    "CLIPTokenizer": ("vocab.json", "merges.txt"),
    "CLIPTokenizerFast": ("vocab.json", "merges.txt"),
    "Qwen2Tokenizer": ("vocab.json", "merges.txt"),
    "T5Tokenizer": ("spiece.model",),
    "T5TokenizerFast": ("spiece.model",),
    "XLMRobertaTokenizer": ("sentencepiece.bpe.model",),
    "LlamaTokenizerFast": ("tokenizer.model",),
    "GemmaTokenizer": ("tokenizer.model",),
    "BertTokenizer": ("vocab.txt",),
}
WORDS = {"vocab.json": '{"a": 0}', "merges.txt": "#version: 0.2\n", "vocab.txt": "a\n"}


@pytest.fixture
def model(sd3_folder, tmp_path) -> Path:
    return Path(shutil.copytree(sd3_folder, tmp_path / "model"))


@pytest.mark.parametrize("cls", NEEDED)
def test_each_file_that_a_class_needs_is_missed_by_name(cls, tmp_path):
    for name in NEEDED[cls]:
        (tmp_path / name).write_text(WORDS.get(name, "words"))
    require_vocabulary(tmp_path, cls)
    for name in NEEDED[cls]:
        content = (tmp_path / name).read_text()
        for empty in ("", "{}") if name.endswith(".json") else ("",):
            (tmp_path / name).write_text(empty)
            with pytest.raises(UserError, match=f"{name} is an empty vocabulary"):
                require_vocabulary(tmp_path, cls)
        (tmp_path / name).unlink()
        with pytest.raises(UserError, match=f"has no vocabulary.*{name} is missing"):
            require_vocabulary(tmp_path, cls)
        (tmp_path / name).write_text(content)


@pytest.mark.parametrize("cls", [*NEEDED, "OtherTokenizer", "Qwen2VLProcessor"])
def test_a_tokenizer_json_is_enough_unless_it_is_empty_or_damaged(cls, tmp_path):
    (tmp_path / "tokenizer_config.json").write_text("{}")
    with pytest.raises(UserError, match="has no vocabulary"):
        require_vocabulary(tmp_path, cls)
    file = tmp_path / "tokenizer.json"
    file.write_text(json.dumps({"model": {"vocab": {"a": 0}}}))
    require_vocabulary(tmp_path, cls)
    file.write_text(json.dumps({"model": {"vocab": [["a", -1.5]]}}))
    require_vocabulary(tmp_path, cls)
    for text in ("", "{}", "[]", '{"model": {}}', '{"model": {"vocab": {}}}', '{"model": 5}'):
        file.write_text(text)
        with pytest.raises(UserError, match="empty vocabulary"):
            require_vocabulary(tmp_path, cls)
    file.write_text('{"model": {"vocab"')
    with pytest.raises(UserError, match=r"tokenizer\.json can't be read as a vocabulary"):
        require_vocabulary(tmp_path, cls)


def test_other_components_and_bytes_need_no_vocabulary(tmp_path):
    for cls in ("CLIPImageProcessor", "ByT5Tokenizer", "DDIMScheduler"):
        require_vocabulary(tmp_path, cls)


@pytest.mark.parametrize("name", ["tokenizer", "tokenizer_2"])
def test_a_pipeline_whose_download_was_cut_short_is_refused(name, model):
    for file in (model / name).iterdir():
        if file.name != "tokenizer_config.json":
            file.unlink()
    with pytest.raises(UserError, match=rf"{name} has no vocabulary: CLIPTokenizer needs"):
        open_folder(model)


class Tokens:
    """A pipeline of tokenizers alone."""

    def __init__(self, **parts: CLIPTokenizer) -> None:
        self.components = parts


def clip(*words: str) -> CLIPTokenizer:
    """A tokenizer that knows these letters alone."""
    known = [*words, *(f"{word}</w>" for word in words), "<|startoftext|>", "<|endoftext|>"]
    return CLIPTokenizer(vocab={word: i for i, word in enumerate(known)}, merges=[])


def test_prompts_of_unknown_tokens_alone_are_refused():
    with pytest.raises(UserError, match="tokenizer_2: every token of the calibration prompts"):
        require_known_words(
            Tokens(tokenizer=clip(*"abcdefghijklmnopqrstuvwxyz"), tokenizer_2=clip("q")), PROMPTS
        )
    with pytest.raises(UserError, match="every token"):
        require_known_words(Tokens(tokenizer=clip("q")), [{"prompt": "red apple"}])


def test_different_prompts_of_the_same_tokens_are_refused():
    with pytest.raises(UserError, match="all 2 calibration prompts become the same tokens"):
        require_known_words(Tokens(tokenizer=clip("a")), ["xa", "ya"])


def test_good_prompts_are_fine(sd3_pipe):
    require_known_words(sd3_pipe, PROMPTS)
    require_known_words(sd3_pipe, PROMPTS[:1])
    require_known_words(sd3_pipe, [{"prompt_embeds": 1}, {"prompt": None}])
    require_known_words(sd3_pipe, ["same", "same"])
    require_known_words(sd3_pipe, ["", " "])
