"""Tokenizers and schedulers come out as they went in; no config names a path of this machine."""

import json
from pathlib import Path

import pytest

from obsdiff import PruningConfig, prune_, save_pruned
from obsdiff.cli.main import main
from obsdiff.pipelines.copied_parts import files_of, forget_places
from obsdiff.pipelines.folder import open_folder
from obsdiff.pipelines.load import load_pipeline

from ..conftest import PROMPTS, sd3

pytestmark = pytest.mark.filterwarnings("ignore::obsdiff.errors.CalibrationWarning")
QUICK = {"num_inference_steps": 2, "height": 16, "width": 16}
PARTS = ("tokenizer", "tokenizer_2", "scheduler")


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("home") / "model"
    sd3().save_pretrained(folder)
    return folder


@pytest.mark.parametrize("more", [[], ["--dtype", "float16"]])
@pytest.mark.slow
def test_parts_without_weights_are_copied_byte_for_byte(model, prompts_file, tmp_path, more):
    (model / "tokenizer" / "code.py").write_text("raise SystemExit\n")
    words = ["--num-prompts", "2", "--num-inference-steps", "2", "--height", "16", "--width", "16"]
    given = ["prune", str(model), "--output", str(tmp_path / "out"), "--prompts", prompts_file]
    assert main([*given, *words, *more]) == 0
    for part in PARTS:
        copied = {file.name: file.read_bytes() for file in (tmp_path / "out" / part).iterdir()}
        assert copied == {file.name: file.read_bytes() for file in files_of(model / part)}
        assert copied
        assert "code.py" not in copied
    assert main(["verify", str(tmp_path / "out")]) == 0


def test_no_config_names_a_path_of_this_machine(model, tmp_path):
    pipe, _ = load_pipeline(open_folder(model), device="cpu")
    report = prune_(pipe, PROMPTS[:1], PruningConfig(packages=1, **QUICK))
    out = save_pruned(pipe, tmp_path / "out", report)
    texts = {file: file.read_text() for file in out.rglob("*.json") if file.name != "obsdiff.json"}
    assert texts
    assert not [file for file, text in texts.items() if str(model.parent) in text]


def test_the_id_of_a_repository_stays(tmp_path):
    for name, place in {"unet": "some/repository", "vae": str(tmp_path / "gone")}.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text(json.dumps({"_name_or_path": place, "a": 1}))
    forget_places(tmp_path)
    found = {
        name: json.loads((tmp_path / name / "config.json").read_text()) for name in ("unet", "vae")
    }
    assert found == {"unet": {"_name_or_path": "some/repository", "a": 1}, "vae": {"a": 1}}


def test_a_pipeline_in_the_cache_of_the_hub_has_its_id(tmp_path):
    place = f"/home/me/hub/models--some-one--a-model/snapshots/{'0' * 40}"
    (tmp_path / "model_index.json").write_text(json.dumps({"_name_or_path": place}))
    forget_places(tmp_path)
    found = json.loads((tmp_path / "model_index.json").read_text())
    assert found == {"_name_or_path": "some-one/a-model"}
