"""The command `draw`: one picture, with the folder's own settings."""

import json
import shutil

import pytest
from PIL import Image

from obsdiff.cli.draw import dense_of, own_settings
from obsdiff.cli.main import main
from obsdiff.errors import UserError
from obsdiff.pipelines.builtin import builtin_path
from obsdiff.pipelines.folder import open_folder


def test_a_picture_depends_on_the_seed_and_replaces_no_other_file(sd3_folder, tmp_path, capsys):
    def draw(name: str, *more: str) -> int:
        output = ["--output", str(tmp_path / name), "--num-inference-steps", "2"]
        return main(["draw", sd3_folder, "red apple", *output, *more])

    assert draw("a.png") == draw("new/b.png") == draw("c.png", "--seed", "5") == 0
    assert "seed 5, num_inference_steps 2" in capsys.readouterr().err
    a, b, c = (Image.open(tmp_path / name).tobytes() for name in ("a.png", "new/b.png", "c.png"))
    assert a == b != c
    assert draw("a.png") == 2
    assert draw("a.png", "--seed", "5", "--overwrite") == 0
    assert Image.open(tmp_path / "a.png").tobytes() == c
    (tmp_path / "notes.png").write_text("mine")
    assert draw("notes.png", "--overwrite") == 2
    assert (tmp_path / "notes.png").read_text() == "mine"


@pytest.mark.parametrize(
    ("words", "found"),
    [
        ([" "], "prompt: expected words"),
        (["a\0b"], "NUL"),
        (["fish", "--output", "fish.jpg"], "fish.jpg"),
        (["fish", "--seed", "-1"], "-1"),
        (["fish", "--guidance-scale", "-2"], "-2"),
    ],
)
def test_wrong_words_are_one_line(sd3_folder, capsys, words, found, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["draw", sd3_folder, *words]) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n"), list(tmp_path.iterdir())) == ("", 1, [])
    assert found in err


def test_settings_are_those_of_the_built_in_or_of_the_record(sd3_folder, tmp_path):
    assert own_settings(open_folder(builtin_path("emoji-sd3")))["num_inference_steps"] == 25
    assert own_settings(open_folder(sd3_folder and tmp_path_of(sd3_folder, tmp_path, {}))) == {}
    config = {"num_inference_steps": 7, "guidance_scale": None, "sparsity": 0.5}
    folder = open_folder(tmp_path_of(sd3_folder, tmp_path, config))
    assert own_settings(folder) == {"num_inference_steps": 7}
    folder = open_folder(tmp_path_of(sd3_folder, tmp_path, {"height": "tall"}))
    with pytest.raises(UserError, match="height"):
        own_settings(folder)


def test_a_size_that_is_no_multiple_has_the_multiples(sd3_folder, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["draw", sd3_folder, "fish", "--height", "7", "--width", "33"]) == 2
    err = capsys.readouterr().err
    step = int(err.partition("multiples of ")[2].partition(",")[0])
    assert err.startswith("error: height, width: expected multiples of ")
    assert f"found height 7 and width 33; pass height {max(7 // step, 1) * step} and " in err
    assert f"width {33 // step * step}\n" in err


def test_the_model_of_a_record_is_known_by_its_version(sd3_folder, tmp_path):
    folder = open_folder(tmp_path_of(sd3_folder, tmp_path, {}))
    assert dense_of(folder) == ""
    record = {"config": {}, "versions": {"torch": "2", "emoji-sd3": "3"}}
    (tmp_path / "copy" / "obsdiff.json").write_text(json.dumps(record))
    assert dense_of(folder) == "emoji-sd3"


def tmp_path_of(model, tmp_path, config):
    """A copy of a model with a record of this config."""
    copy = tmp_path / "copy"
    shutil.copytree(model, copy, dirs_exist_ok=True)
    (copy / "obsdiff.json").write_text(json.dumps({"config": config}))
    return copy
