"""Scratch storage: the memory budget, and the life of its folders."""

import errno
import fcntl
import os
import time

import pytest

from obsdiff.errors import RunStopped, UserError
from obsdiff.runtime.locking import held_lock
from obsdiff.runtime.scratch import (
    GRACE_SECONDS,
    MARK,
    MARKER,
    SCRATCH_LOCK,
    SCRATCH_PREFIX,
    is_scratch,
    open_scratch,
)

from .test_locking import failing


def test_tensors_beyond_the_budget_go_to_files_that_are_deleted():
    with open_scratch(100) as scratch:
        assert scratch.take(60) is None
        file = scratch.take(60)
        file.write_bytes(b"x")
        assert scratch.take(40) is None
        assert (scratch.used, scratch.on_disk) == (100, 60)
        scratch.give_back(60)
        scratch.give_back(60, file)
        assert (scratch.used, scratch.on_disk, file.exists()) == (40, 0, False)
        assert scratch.take(60) is None
        scratch.take(1).write_bytes(b"x")
    assert not scratch.folder.exists()


def left_behind(place, name, age=GRACE_SECONDS + 1):
    """A folder as a killed run leaves it."""
    folder = place / f"{SCRATCH_PREFIX}{name}"
    folder.mkdir()
    for file, text in ((SCRATCH_LOCK, ""), (MARKER, MARK), ("00000001", "x"), (".tmpaB3", "x")):
        (folder / file).write_text(text)
    os.utime(folder / MARKER, (0, time.time() - age))
    return folder


@pytest.fixture
def tmpdir_here(tmp_path, monkeypatch):
    """Scratch storage goes into tmp_path."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    return tmp_path


def names(folder):
    return sorted(place.name.removeprefix(SCRATCH_PREFIX) for place in folder.iterdir())


def test_folders_of_killed_runs_are_deleted_and_those_in_use_are_not(tmpdir_here):
    left_behind(tmpdir_here, "killed")
    left_behind(tmpdir_here, "new", age=0)
    used = left_behind(tmpdir_here, "used")
    with held_lock(used / SCRATCH_LOCK), open_scratch(0):
        pass
    assert names(tmpdir_here) == ["new", "used"]
    with open_scratch(0):
        pass
    assert names(tmpdir_here) == ["new"]


def without_marker(folder):
    (folder / MARKER).unlink()


def with_another_marker(folder):
    (folder / MARKER).write_text("x" * len(MARK))
    os.utime(folder / MARKER, (0, 0))


def with_a_file_of_somebody(folder):
    (folder / "results.csv").write_text("weeks of work")


def with_a_folder_of_somebody(folder):
    (folder / "00000002").mkdir()
    (folder / "00000002" / "thesis.txt").write_text("years of work")


def with_a_link(folder):
    (folder / "00000002").symlink_to(folder.parent)


def behind_a_link(folder):
    folder.rename(folder.with_name("elsewhere"))
    folder.symlink_to(folder.with_name("elsewhere"))


@pytest.mark.parametrize(
    "change",
    [
        without_marker,
        with_another_marker,
        with_a_file_of_somebody,
        with_a_folder_of_somebody,
        with_a_link,
        behind_a_link,
    ],
)
def test_a_folder_that_is_not_scratch_storage_alone_is_kept(tmpdir_here, change):
    change(left_behind(tmpdir_here, "mine"))
    before = sorted(tmpdir_here.rglob("*"))
    with open_scratch(0):
        pass
    assert sorted(tmpdir_here.rglob("*")) == before


def test_a_folder_of_another_user_is_kept(tmpdir_here):
    folder = left_behind(tmpdir_here, "theirs")
    assert is_scratch(folder, folder.stat().st_uid)
    assert not is_scratch(folder, folder.stat().st_uid + 1)


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP])
def test_without_locks_a_run_has_its_storage_and_deletes_no_other(tmpdir_here, monkeypatch, number):
    left_behind(tmpdir_here, "alive-or-not")
    monkeypatch.setattr(fcntl, "flock", failing(number))
    with open_scratch(0) as scratch:
        assert scratch.folder.is_dir()
    assert names(tmpdir_here) == ["alive-or-not"]


def test_a_temporary_folder_that_cannot_be_written_is_one_line(tmpdir_here, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmpdir_here / "gone"))
    with pytest.raises(RunStopped, match="gone can't be written"), open_scratch(0):
        pass


def test_a_temporary_folder_that_is_no_utf8_is_one_line(tmpdir_here, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmpdir_here / "caf\udce9"))
    with pytest.raises(UserError, match="TMPDIR: expected a path in UTF-8"), open_scratch(0):
        pass


def test_without_a_temporary_folder_it_is_one_line(monkeypatch):
    monkeypatch.setattr("tempfile.gettempdir", failing(errno.ENOENT))
    with pytest.raises(UserError, match="TMPDIR: expected a folder"), open_scratch(0):
        pass
