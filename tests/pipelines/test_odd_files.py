"""Pipes, devices, folders and dangling links in a checkpoint are one line, and nobody waits."""

import os
import shutil
from pathlib import Path

import pytest

from obsdiff.errors import UserError
from obsdiff.evaluation.judges.files import find_clip, find_weights
from obsdiff.pipelines.folder import open_folder, read_prompts
from obsdiff.pipelines.single_file import open_model
from obsdiff.pipelines.verify import Findings, check_files

READ = (
    "model_index.json",
    "transformer/config.json",
    "transformer/diffusion_pytorch_model.safetensors",
    "text_encoder/model.safetensors",
    "tokenizer/vocab.json",
    "tokenizer/merges.txt",
    "scheduler/scheduler_config.json",
)
KINDS = {
    "pipe": os.mkfifo,
    "device": lambda path: path.symlink_to("/dev/zero"),
    "folder": lambda path: path.mkdir(),
    "dangling": lambda path: path.symlink_to("gone"),
}


@pytest.fixture
def model(sd3_folder, tmp_path) -> Path:
    return Path(shutil.copytree(sd3_folder, tmp_path / "model"))


@pytest.mark.parametrize("kind", KINDS)
def test_every_file_of_a_pipeline_is_regular(kind, model):
    for name in READ:
        file = model / name
        if not file.exists():
            continue
        data = file.read_bytes()
        file.unlink()
        KINDS[kind](file)
        with pytest.raises(UserError) as error:
            open_folder(model)
        assert file.parent.name in str(error.value) or "model_index.json" in str(error.value)
        file.rmdir() if kind == "folder" else file.unlink()
        file.write_bytes(data)
    open_folder(model)


@pytest.mark.parametrize("name", ["zz.safetensors", "notes", ".hidden", "sub/x"])
def test_a_pipe_of_any_name_is_refused_and_a_dangling_stray_is_not(name, model):
    path = model / "transformer" / name
    path.parent.mkdir(exist_ok=True)
    os.mkfifo(path)
    with pytest.raises(UserError, match="a pipe"):
        open_folder(model)
    path.unlink()
    path.symlink_to("gone")
    open_folder(model)


def test_a_hub_cache_of_links_to_blobs_is_read(model, tmp_path):
    for file in [path for path in model.rglob("*") if path.is_file()]:
        blob = tmp_path / f"blob-{len(list(tmp_path.iterdir()))}"
        file.rename(blob)
        file.symlink_to(blob)
    open_folder(model)


@pytest.mark.parametrize("kind", ["pipe", "device", "dangling"])
def test_single_files_prompts_and_judges(kind, tmp_path):
    file = tmp_path / "x.safetensors"
    KINDS[kind](file)
    with pytest.raises(UserError):
        open_model(str(file))
    with pytest.raises(UserError):
        read_prompts(file)
    with pytest.raises(UserError):
        find_weights("lpips", str(file))
    with pytest.raises(UserError):
        find_clip("clip", str(tmp_path))


def test_verify_names_a_pipe(tmp_path):
    os.mkfifo(tmp_path / "x.safetensors")
    found = Findings()
    check_files(tmp_path, {}, found)
    assert found.wrong == ["x.safetensors is no file: a pipe or device"]
