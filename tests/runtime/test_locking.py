"""Locks of files: one holder, never through a link, and file systems without them."""

import errno
import fcntl
import os

import pytest
from filelock import Timeout

from obsdiff.runtime.locking import held_lock


def failing(number):
    """A system call that fails."""

    def fail(*_args):
        raise OSError(number, os.strerror(number))

    return fail


def test_a_lock_has_one_holder_and_is_free_afterwards(tmp_path):
    file = tmp_path / "lock"
    for _ in range(2):
        with held_lock(file) as locked:
            assert locked
            with pytest.raises(Timeout), held_lock(file):
                pass


def test_an_error_inside_is_raised_and_frees_the_lock(tmp_path):
    def fail():
        with held_lock(tmp_path / "lock"):
            raise OSError(errno.ENOLCK, "from inside")

    with pytest.raises(OSError, match="from inside"):
        fail()
    with held_lock(tmp_path / "lock") as locked:
        assert locked


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP])
def test_without_locks_the_work_goes_on(tmp_path, monkeypatch, number):
    monkeypatch.setattr(fcntl, "flock", failing(number))
    with held_lock(tmp_path / "lock") as locked:
        assert not locked


@pytest.mark.parametrize("number", [errno.EIO, errno.EBADF])
def test_other_errors_of_the_system_are_errors(tmp_path, monkeypatch, number):
    monkeypatch.setattr(fcntl, "flock", failing(number))
    with pytest.raises(OSError, match=os.strerror(number)), held_lock(tmp_path / "lock"):
        pass


def test_a_link_is_not_followed(tmp_path):
    (tmp_path / "lock").symlink_to(tmp_path / "target")
    with pytest.raises(OSError), held_lock(tmp_path / "lock"):  # noqa: PT011
        pass
    assert not (tmp_path / "target").exists()
