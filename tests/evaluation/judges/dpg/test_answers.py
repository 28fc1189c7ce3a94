"""The answers of tiny models of transformers."""

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from obsdiff.evaluation.judges.dpg import answers
from obsdiff.evaluation.judges.dpg.answers import answered, open_answers
from obsdiff.pipelines.hub_files import model_files

PICTURE = Image.new("RGB", (40, 24), (200, 30, 30))


@pytest.mark.slow
def test_blip_says_yes_if_that_is_its_whole_answer(blip, monkeypatch):
    assert not open_answers(blip)(PICTURE, "is there a dog?")  # "yes yes yes yes ..."
    monkeypatch.setattr(answers, "LONGEST", 1)
    assert open_answers(blip)(PICTURE, "is there a dog?")


@pytest.mark.slow
@pytest.mark.parametrize(("favourite", "expected"), [(0, False), (1, True), (2, False)])
def test_vilt_says_the_most_probable_answer(vilt, tmp_path, favourite, expected):
    for file in vilt.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    tensors = load_file(tmp_path / "model.safetensors")
    tensors["classifier.3.bias"] = 50 * torch.eye(3)[favourite]
    save_file(tensors, tmp_path / "model.safetensors", {"format": "pt"})
    assert open_answers(tmp_path)(PICTURE, "is there a dog?") is expected


def test_an_answer_is_read_without_case_and_spaces():
    class Model:
        class config:  # noqa: N801
            model_type = "blip"

        def generate(self, **kwargs):
            assert kwargs["num_beams"] == 1
            return torch.tensor([[1, 2]])

    class Processor:
        def decode(self, tokens, skip_special_tokens):
            assert skip_special_tokens
            return f" Yes {len(tokens)}"

    assert answered(Model(), Processor(), {}) == " Yes 2"


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["blip", "vilt"])
def test_the_files_that_are_downloaded_are_enough(kind, request, tmp_path):
    folder = request.getfixturevalue(kind)
    for name in model_files({file.name for file in folder.iterdir()}, "dpg"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    assert open_answers(tmp_path)(PICTURE, "is there a dog?") in (True, False)
    assert not (tmp_path / "words.txt").exists()
