"""OUTPUT.part of a killed run: resumed only with the same job, and renamed only whole."""

import errno
import fcntl
import itertools
import os

import pytest

from obsdiff.errors import UserError
from obsdiff.pipelines.partial_output import FINISHED, finish, is_placed, open_part, put_in_place
from obsdiff.pipelines.replaceable import JOB, WORK
from obsdiff.runtime.json_files import kept_json, write_json

from ..runtime.test_locking import failing

TASK = {"prompts": ["a fish"], "seeds": [1]}


def opened(output, job=TASK, resume=False, overwrite=False):
    """OUTPUT.part, as a run that is killed right away leaves it."""
    with open_part(output, job, resume, overwrite) as part:
        return part


def test_a_run_resumes_with_the_same_job_alone(tmp_path):
    part = opened(tmp_path / "run")
    (part / "images").mkdir()
    (part / "images" / "000.png").touch()
    with pytest.raises(UserError, match="with --resume, or start anew with --overwrite"):
        opened(tmp_path / "run")
    assert opened(tmp_path / "run", resume=True) == part
    assert (part / "images" / "000.png").exists()
    with pytest.raises(UserError, match="begun with other seeds"):
        opened(tmp_path / "run", TASK | {"seeds": [2]}, resume=True)
    opened(tmp_path / "run", overwrite=True)
    assert not (part / "images").exists()


@pytest.mark.parametrize("resume", [False, True])
def test_a_run_killed_before_it_wrote_its_job_starts_anew(tmp_path, resume):
    (tmp_path / "run.part" / WORK / "pieces").mkdir(parents=True)
    part = opened(tmp_path / "run", resume=resume)
    assert kept_json(part / WORK / JOB) == TASK
    assert not (part / WORK / "pieces").exists()


def test_a_foreign_folder_is_refused_and_kept(tmp_path):
    other = tmp_path / "run.part" / "thesis.txt"
    other.parent.mkdir()
    other.touch()
    for resume, overwrite, word in (
        (False, True, "is in the way"),
        (True, False, "has no .work/job.json"),
        (False, False, "is in the way"),
    ):
        with pytest.raises(UserError, match=word):
            opened(tmp_path / "run", resume=resume, overwrite=overwrite)
        assert [file.name for file in other.parent.iterdir()] == [other.name]


def test_a_second_run_is_refused_while_the_first_is_alive(tmp_path):
    output = tmp_path / "run"
    with open_part(output, TASK, resume=False, overwrite=False) as part:
        (part / "picture.png").touch()
        for resume, overwrite in itertools.product((False, True), repeat=2):
            with pytest.raises(UserError, match="another run is writing"):
                opened(output, resume=resume, overwrite=overwrite)
        assert (part / "picture.png").exists()
    assert opened(output, resume=True) == part


def test_an_output_is_replaced_whole(tmp_path):
    run = tmp_path / "run"
    write_json(run / "results.json", {"schema": 1, "dense_images": ["old.png"]})
    (run / "old.png").touch()
    part = opened(run)
    write_json(part / "results.json", {"schema": 1})
    with pytest.raises(UserError, match="has appeared meanwhile"):
        finish(part, run, overwrite=False)
    finish(part, run, overwrite=True)
    assert [file.name for file in run.iterdir()] == ["results.json"]
    assert not part.exists()


@pytest.mark.parametrize("killed_at", ["touch", "rename", "rmtree"])
@pytest.mark.parametrize("before", [False, True])
def test_a_run_killed_while_it_renames_its_output_is_finished_by_the_next(
    tmp_path, monkeypatch, killed_at, before
):
    output = tmp_path / "out"
    if before:
        write_json(output / "obsdiff.json", {"schema": 1, "hashes": {"files": {"old": "0"}}})
        (output / "old").touch()
        os.utime(output / "obsdiff.json")
    part = opened(output)
    (part / FINISHED).mkdir()
    (part / FINISHED / "weights").touch()

    def killed(*_args, **_kwargs):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(
            "shutil.rmtree" if killed_at == "rmtree" else f"pathlib.Path.{killed_at}", killed
        )
        with pytest.raises(KeyboardInterrupt):
            put_in_place(part, output, overwrite=before)
    assert is_placed(output) == (killed_at == "rmtree")
    put_in_place(part, output, overwrite=before)
    assert [file.name for file in output.iterdir()] == ["weights"]
    assert [file.name for file in tmp_path.iterdir()] == ["out"]


def test_an_output_that_appeared_meanwhile_is_not_replaced(tmp_path):
    output = tmp_path / "out"
    part = opened(output)
    (part / FINISHED).mkdir()
    output.mkdir()
    with pytest.raises(UserError, match="has appeared meanwhile"):
        put_in_place(part, output, overwrite=False)
    assert (part / FINISHED).exists()


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_is_said_and_the_run_goes_on(
    tmp_path, monkeypatch, capsys, number
):
    monkeypatch.setattr(fcntl, "flock", failing(number))
    part = opened(tmp_path / "run")
    assert "has no file locks" in capsys.readouterr().err
    assert kept_json(part / WORK / JOB) == TASK


def test_a_lock_that_cannot_be_taken_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setattr(fcntl, "flock", failing(errno.EIO))
    with pytest.raises(UserError, match=r"run\.part can't be locked: Input/output error"):
        opened(tmp_path / "run")
