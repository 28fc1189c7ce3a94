"""OUTPUT.part: taken only with obsdiff's marker, by its owner, and without links."""

import os
import shutil
from pathlib import Path

import pytest

from obsdiff.errors import UserError
from obsdiff.pipelines import part_owner
from obsdiff.pipelines.part_owner import MARK, MARKER
from obsdiff.pipelines.partial_output import FINISHED, OLD, finish, open_part, put_in_place
from obsdiff.pipelines.replaceable import JOB, WORK
from obsdiff.runtime.json_files import write_json


def opened(output, resume=False, overwrite=False):
    with open_part(output, {"seed": 1}, resume, overwrite) as part:
        return part


def tree(folder):
    return {
        str(p.relative_to(folder)): p.read_bytes() if p.is_file() else b""
        for p in folder.rglob("*")
    }


def without_marker(part):
    (part / WORK / MARKER).unlink()


def with_another_marker(part):
    (part / WORK / MARKER).write_text("?" * len(MARK))


def with_a_link_as_marker(part):
    (part / WORK / MARKER).rename(part.parent / "marker")
    (part / WORK / MARKER).symlink_to(part.parent / "marker")


def behind_a_link(part):
    part.rename(part.parent / "real")
    part.symlink_to(part.parent / "real")


def with_work_behind_a_link(part):
    (part / WORK).rename(part.parent / "work")
    (part / WORK).symlink_to(part.parent / "work")


def with_a_link_as_output(part):
    (part.parent / "elsewhere").mkdir()
    (part / FINISHED).symlink_to(part.parent / "elsewhere")


def with_a_link_to_pictures(part):
    (part.parent / "elsewhere").mkdir()
    (part / "images").symlink_to(part.parent / "elsewhere")


@pytest.mark.parametrize("resume", [False, True])
@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize(
    "change",
    [
        without_marker,
        with_another_marker,
        with_a_link_as_marker,
        behind_a_link,
        with_work_behind_a_link,
        with_a_link_as_output,
        with_a_link_to_pictures,
    ],
)
def test_a_folder_that_is_not_known_to_be_ours_is_left_alone(tmp_path, change, resume, overwrite):
    part = opened(tmp_path / "out")
    (part / WORK / "diary.txt").write_text("mine")
    change(part)
    before = tree(tmp_path)
    with pytest.raises(UserError, match=r"out\.part"):
        opened(tmp_path / "out", resume, overwrite)
    assert tree(tmp_path) == before


@pytest.mark.parametrize("resume", [False, True])
def test_a_folder_of_another_user_is_left_alone(tmp_path, monkeypatch, resume):
    part = opened(tmp_path / "out")
    monkeypatch.setattr(part_owner, "owner_of_files", lambda _: part.stat().st_uid + 1)
    with pytest.raises(UserError, match=r"out\.part"):
        opened(tmp_path / "out", resume, overwrite=True)


def test_a_mounted_folder_is_left_alone(tmp_path, monkeypatch):
    part = opened(tmp_path / "out")
    monkeypatch.setattr(part_owner, "mounted", lambda place: place)
    with pytest.raises(UserError, match="in the way"):
        opened(tmp_path / "out", overwrite=True)
    assert (part / WORK / JOB).exists()


@pytest.mark.parametrize("killed_after", range(3))
def test_a_run_killed_as_it_begins_is_started_again(tmp_path, monkeypatch, killed_after):
    part = tmp_path / "out.part"
    if killed_after:
        (part / WORK).mkdir(parents=True)
        (part / WORK / ".obsdiff-0123456789abcdef.part").touch()
    if killed_after == 2:
        (part / WORK / MARKER).write_text(MARK)
        (part / WORK / "lock").touch()
    opened(tmp_path / "out")
    # some versions of filelock take their file away
    assert {p.name for p in (part / WORK).iterdir()} - {"lock"} == {JOB, MARKER}


def test_unfinished_files_of_a_killed_run_are_gone_when_it_resumes(tmp_path):
    part = opened(tmp_path / "out")
    (part / "images").mkdir()
    for folder in (part, part / "images", part / WORK):
        (folder / ".obsdiff-0123456789abcdef.part").touch()
    opened(tmp_path / "out", resume=True)
    assert not list(part.rglob(".obsdiff-*"))


def test_an_output_that_a_killed_run_moved_away_comes_back_when_another_begins(tmp_path):
    output = tmp_path / "out"
    part = opened(output)
    (part / FINISHED).mkdir()
    write_json(part / WORK / OLD / "obsdiff.json", {"schema": 1, "hashes": {"files": {}}})
    opened(output, overwrite=True)
    assert (output / "obsdiff.json").is_file()
    assert not (part / FINISHED).exists()


@pytest.mark.parametrize("end", [finish, put_in_place])
def test_an_output_lies_beside_its_part_whatever_the_working_folder_becomes(
    tmp_path, monkeypatch, end
):
    (tmp_path / "a").mkdir()
    monkeypatch.chdir(tmp_path / "a")
    with open_part(Path("../out"), {}, resume=False, overwrite=False) as part:
        assert part == tmp_path / "out.part"
        (part / FINISHED).mkdir()
        shutil.rmtree(tmp_path / "a")
        monkeypatch.chdir(tmp_path.parent)
        end(part, Path("../out"), False)
    assert [place.name for place in tmp_path.iterdir()] == ["out"]


def test_a_link_that_waits_under_the_name_of_a_file_is_not_written_through(tmp_path):
    precious = tmp_path / "precious"
    precious.write_text("precious")
    part = opened(tmp_path / "out")
    for name in (JOB, JOB + ".part", "fingerprint.json.part"):
        (part / WORK / name).unlink(missing_ok=True)
        os.symlink(precious, part / WORK / name)
    write_json(part / WORK / JOB, {})
    write_json(part / WORK / "fingerprint.json", {})
    assert precious.read_text() == "precious"
