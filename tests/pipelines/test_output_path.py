"""The path of an output: absolute once, and names that can't be made are known before a run."""

import os
from pathlib import Path

import pytest

from obsdiff.cli.main import main
from obsdiff.errors import UserError
from obsdiff.evaluation.report.page import check_page
from obsdiff.pipelines.output_path import absolute, check_writable
from obsdiff.pipelines.partial_output import check_output
from obsdiff.pipelines.save import whole_folder


def test_a_path_is_the_same_from_everywhere(tmp_path, monkeypatch):
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "link").symlink_to("a/b")
    for folder, spelled, found in (
        ("", "out", "out"),
        ("a", "../out", "out"),
        ("a", "../new/../out", "out"),
        ("", "link/../out", "a/out"),  # as the system reads it
        ("", "link/out", "a/b/out"),
        ("", "./a//out/", "a/out"),
        ("a", str(tmp_path / "link"), "link"),  # a last name is not followed
    ):
        monkeypatch.chdir(tmp_path / folder)
        assert absolute(Path(spelled)) == tmp_path / found


@pytest.mark.parametrize("name", ["", ".", "..", "/", "a/.."])
def test_a_path_without_a_last_name_is_refused(name):
    with pytest.raises(UserError, match="expected the name of a folder"):
        absolute(Path(name))


def test_an_output_is_written_where_it_was_meant_whatever_the_working_folder_becomes(
    tmp_path, monkeypatch
):
    (tmp_path / "a").mkdir()
    monkeypatch.chdir(tmp_path)
    with whole_folder(Path("out"), overwrite=False) as inside:
        monkeypatch.chdir(tmp_path / "a")
        (inside / "x").touch()
    assert sorted(str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*")) == [
        "a",
        "out",
        "out/x",
    ]


def test_a_deleted_working_folder_is_one_line_in_every_command(tmp_path, monkeypatch, capsys):
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    for words in (["prune", "m", "--output", "out"], ["report", "r", "--output", "p.html"], []):
        assert main(words) == 2
        assert "working folder" in capsys.readouterr().err
    with pytest.raises(UserError, match="working folder does not exist any more"):
        absolute(Path("out"))
    assert absolute(tmp_path / "out") == tmp_path / "out"
    check_output(tmp_path / "out", overwrite=False)


NAMES = {
    "255 letters": "n" * 255,  # its .part is too long, and so is its .html
    "300 letters": "n" * 300,
    "a folder of 300 letters above it": "n" * 300 + "/out",
    "130 letters of two bytes": "é" * 130,
    "no UTF-8": "caf\udce9",
    "a folder above it that is no UTF-8": "caf\udce9/out",
    "a NUL": "a\0b",
    "a path of 5000 letters": "/".join(["n" * 49] * 100),
}


@pytest.mark.parametrize("name", NAMES.values(), ids=NAMES.keys())
def test_names_that_cannot_be_made_are_one_line_before_anything_runs(tmp_path, name):
    output = tmp_path / name
    for check in (
        lambda: check_output(output, overwrite=True),
        lambda: whole_folder(output, overwrite=True).__enter__(),
        lambda: check_page(output.with_name(output.name + ".html"), overwrite=True),
    ):
        with pytest.raises(UserError) as error:
            check()
        assert "\n" not in str(error.value)
        assert len(str(error.value)) < 2000
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("flags", [[], ["--resume"], ["--overwrite"], ["--resume", "--overwrite"]])
@pytest.mark.parametrize("name", ["n" * 252, "n" * 300, "caf\udce9", ".", ".."])
def test_the_command_line_refuses_them_in_one_line(tmp_path, monkeypatch, capsys, name, flags):
    monkeypatch.chdir(tmp_path)
    assert main(["prune", "emoji-sd3", "--output", name, *flags]) == 2
    captured = capsys.readouterr().err
    assert captured.count("\n") == 1
    assert captured.startswith("error: output: ")
    assert list(tmp_path.iterdir()) == []


def test_the_longest_names_are_taken(tmp_path):
    check_output(tmp_path / ("n" * 250), overwrite=False)
    check_writable(tmp_path / ("n" * 250 + ".html"))
    with whole_folder(tmp_path / ("n" * 250), overwrite=False) as inside:
        (inside / "x").touch()
    assert len(list(tmp_path.iterdir())) == 1


def test_a_folder_that_may_not_be_written_is_known_before_a_run(tmp_path, monkeypatch):
    def denied(place, *_args):
        raise PermissionError(13, os.strerror(13), place)

    monkeypatch.setattr(os, "mkdir", denied)
    with pytest.raises(UserError, match=f"out can't be written: Permission denied in {tmp_path}"):
        check_writable(tmp_path / "deep" / "out")
