"""Overlap of an output with an input, by the identity of files: links, hard links, prompts."""

import os
from pathlib import Path

import pytest

from obsdiff.cli.main import main
from obsdiff.errors import UserError
from obsdiff.pipelines import overlap
from obsdiff.pipelines.overlap import check_place


def refused(output, place):
    with pytest.raises(UserError, match="overlap"):
        check_place(output, [place])


def test_a_file_that_lies_in_both_under_two_names_is_an_overlap(tmp_path):
    model, out = tmp_path / "model", tmp_path / "out"
    (model / "vae").mkdir(parents=True)
    (out / "deep").mkdir(parents=True)
    (model / "vae" / "w").touch()
    check_place(out, [model])
    os.link(model / "vae" / "w", out / "deep" / "other")
    refused(out, model)
    refused(out, model / "vae" / "w")


def test_a_folder_behind_any_link_in_the_input_is_part_of_it(tmp_path):
    model, blobs = tmp_path / "model", tmp_path / "blobs"
    (blobs / "deep").mkdir(parents=True)
    model.mkdir()
    (model / "one").symlink_to(tmp_path / "two")
    (tmp_path / "two").mkdir()
    (tmp_path / "two" / "three").symlink_to(blobs)
    for output in (blobs, blobs / "new", blobs / "deep" / "new", tmp_path / "two" / "new"):
        refused(output, model)
    check_place(tmp_path / "blobs-2", [model])


def test_links_in_a_circle_end(tmp_path):
    (tmp_path / "model" / "a").mkdir(parents=True)
    (tmp_path / "model" / "a" / "up").symlink_to("..")
    (tmp_path / "model" / "self").symlink_to("self")
    check_place(tmp_path / "out", [tmp_path / "model"])


@pytest.mark.slow
def test_a_link_to_a_whole_disk_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setattr(overlap, "MOST_LINKED", 50)
    model = tmp_path / "model"
    model.mkdir()
    (model / "disk").symlink_to("/usr")
    with pytest.raises(UserError, match="symlinks to folders with more than 50 files"):
        check_place(tmp_path / "out", [model])


@pytest.mark.parametrize("place", ["gone", "a\0b", "n" * 300, "broken"])
def test_an_input_that_is_not_there_overlaps_nothing(tmp_path, place):
    (tmp_path / "broken").symlink_to("nowhere")
    check_place(tmp_path / "out", [tmp_path / place, Path("relative")])


@pytest.mark.parametrize("overwrite", [[], ["--overwrite"]])
def test_the_prompts_and_the_judges_are_inputs_too(tmp_path, capsys, overwrite):
    prompts = tmp_path / "out.part" / "prompts.txt"
    prompts.parent.mkdir()
    prompts.write_text("a red apple\n")
    judge = tmp_path / "judge"
    (judge / "deep").mkdir(parents=True)
    evaluate = ["evaluate", "emoji-sd3", "--against", "emoji-sd3"]
    for words, output in (
        (["prune", "emoji-sd3", "--prompts", str(prompts)], "out"),
        ([*evaluate, "--prompts", str(prompts)], "out"),
        ([*evaluate, "--clip", str(judge)], "judge/new"),
        ([*evaluate, "--real", str(judge / "deep")], "judge"),
    ):
        assert main([*words, "--output", str(tmp_path / output), *overwrite]) == 2
        said = capsys.readouterr().err
        assert ("overlap" in said) or ("exists already" in said)
        assert said.count("\n") == 1
    assert prompts.read_text() == "a red apple\n"
