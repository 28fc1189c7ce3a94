"""Errors from below in one line, bugs with their tracebacks, and streams that take nothing."""

import json
import os
import sys

import pytest
import torch
from safetensors.torch import load_file

from obsdiff.cli.foreign_errors import foreign_line, raised_by, system_line
from obsdiff.cli.main import main
from obsdiff.errors import RunStopped

FLAGS = ["--num-prompts", "2", "--num-inference-steps", "2"]


def caught(call) -> Exception:
    """The error that a function raises."""
    with pytest.raises(Exception) as found:  # noqa: PT011
        call()
    return found.value


def test_the_library_of_an_error():
    from diffusers import DDIMScheduler

    assert raised_by(caught(lambda: torch.nn.Linear(2, 2)(torch.ones(3)))) == "torch"
    assert raised_by(caught(lambda: DDIMScheduler().step(1, 2, 3))) == "diffusers"
    assert raised_by(caught(lambda: load_file(__file__))) == "safetensors"
    assert raised_by(caught(lambda: json.loads("{"))) == ""
    assert raised_by(caught(lambda: torch.ones(3) @ torch.ones(2))) == ""  # our own mistake
    assert raised_by(caught(lambda: [][1])) == ""


def test_the_line_about_an_error():
    line = foreign_line(IndexError("index 3\nis too large"), "diffusers")
    assert line == "diffusers raised IndexError: index 3; OBSDIFF_TRACEBACK=1 shows where"
    assert "without a message" in foreign_line(IndexError(), "torch")
    assert system_line(OSError(28, "No space left on device", "a/b")) == (
        "a/b: No space left on device"
    )
    assert system_line(OSError("unsupported")) == "unsupported"


@pytest.fixture
def failing(monkeypatch, tmp_path, sd3_folder, prompts_file):
    """A function that runs prune while `prune_` raises what a call raises."""

    def run(call, *more):
        monkeypatch.setattr("obsdiff.prune.prune_", lambda *_args, **_kwargs: call())
        output = tmp_path / "out"
        return main(
            ["prune", sd3_folder, "--output", str(output), "--prompts", prompts_file, *FLAGS, *more]
        )

    return run


def last_line(capsys) -> str:
    """The only line about a failure on stderr."""
    (line,) = [x for x in capsys.readouterr().err.splitlines() if x.startswith(("failed", "error"))]
    return line


def test_an_error_of_a_library_is_one_line(failing, capsys, monkeypatch):
    def from_torch():
        return torch.nn.Linear(2, 2)(torch.ones(3))

    assert failing(from_torch) == 1
    assert last_line(capsys).startswith("failed: torch raised RuntimeError: ")
    monkeypatch.setenv("OBSDIFF_TRACEBACK", "1")
    with pytest.raises(RuntimeError):
        failing(from_torch, "--resume")


def test_an_error_of_the_system_is_one_line_that_names_resume(failing, capsys):
    def full():
        raise OSError(28, "No space left on device", "out.part/x")

    assert failing(full) == 1
    assert last_line(capsys) == (
        "failed: out.part/x: No space left on device; continue with --resume"
    )


def test_resume_is_named_only_where_there_is_something_to_continue(capsys, monkeypatch, tmp_path):
    def stopped(*_args, **_kwargs):
        raise RunStopped("the disk is full")

    monkeypatch.setattr("obsdiff.evaluation.report.page.write_page", stopped)
    assert main(["report", str(tmp_path), "--output", str(tmp_path / "page.html")]) == 1
    assert last_line(capsys) == "failed: the disk is full"


@pytest.mark.parametrize("words", [["--help"], ["inspect", "MODEL"]])
def test_a_full_stdout_is_one_line(words, capsys, monkeypatch, sd3_folder):
    with open("/dev/full", "w") as full:
        monkeypatch.setattr(sys, "stdout", full)
        assert main([word.replace("MODEL", sd3_folder) for word in words]) == 1
    assert last_line(capsys) == "failed: stdout can't be written: No space left on device"


def test_escape_sequences_of_a_checkpoint_are_shown(capsys, tmp_path, sd3_folder):
    evil = "x\x1b]0;owned\x07\x1b[2J\n\u202e"
    folder = tmp_path / "model\x1b[31m"
    folder.mkdir()
    for name in os.listdir(sd3_folder):
        (folder / name).symlink_to(os.path.join(sd3_folder, name))
    index = json.loads((folder / "model_index.json").read_text())
    assert main(["inspect", str(folder)]) == 0
    out, err = capsys.readouterr()
    assert r"model\x1b[31m: StableDiffusion3Pipeline" in out
    (folder / "model_index.json").unlink()
    (folder / "model_index.json").write_text(json.dumps(index | {"_class_name": evil}))
    assert main(["inspect", str(folder)]) == 2
    more, error = capsys.readouterr()
    assert r"\x1b]0;owned\x07\x1b[2J" in error
    assert all(line.isprintable() for text in (out, err, more, error) for line in text.splitlines())
