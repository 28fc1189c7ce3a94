"""Scratch storage: the memory budget, and the life of its folders."""

import os
import time

from filelock import FileLock

from obsdiff.runtime.scratch import (
    GRACE_SECONDS,
    SCRATCH_LOCK,
    SCRATCH_PREFIX,
    open_scratch,
    remove_abandoned,
)


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


def test_folders_of_killed_runs_are_deleted_and_those_in_use_are_not(tmp_path):
    killed, new, used = (tmp_path / f"{SCRATCH_PREFIX}{name}" for name in ("killed", "new", "used"))
    for folder in (killed, new, used):
        folder.mkdir()
        (folder / SCRATCH_LOCK).touch()
        (folder / "00000001").write_bytes(b"x")
    for folder in (killed, used):
        os.utime(folder / SCRATCH_LOCK, (0, time.time() - GRACE_SECONDS - 1))
    other = tmp_path / f"{SCRATCH_PREFIX}no-store"
    other.mkdir()
    with FileLock(used / SCRATCH_LOCK):
        os.utime(used / SCRATCH_LOCK, (0, time.time() - GRACE_SECONDS - 1))
        remove_abandoned(tmp_path)
    assert sorted(folder.name for folder in tmp_path.iterdir()) == sorted(
        folder.name for folder in (new, used, other)
    )
