"""Only regular files are opened, whatever lies in their place."""

import os
import socket

import pytest

from obsdiff.errors import UserError
from obsdiff.runtime.regular_files import is_special, require_regular


def fifo(path):
    os.mkfifo(path)


def bound_socket(path):
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.close()


WRONG = {
    "a pipe": fifo,
    "a folder": lambda path: path.mkdir(),
    "a socket": bound_socket,
    "a device": lambda path: path.symlink_to("/dev/zero"),
    "where nothing is": lambda path: path.symlink_to(path.parent / "gone"),
    "can't be read": lambda path: path.symlink_to(path),
    "is missing": lambda path: None,
}


@pytest.mark.parametrize("words", WRONG)
def test_anything_but_a_file_is_refused_by_its_path_and_kind(words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # the path of a socket is short
    path = tmp_path / "x"
    WRONG[words](path.relative_to(tmp_path) if words == "a socket" else path)
    with pytest.raises(UserError, match=words) as error:
        require_regular(path)
    assert str(path) in str(error.value)
    assert is_special(path) == (words in ("a pipe", "a socket", "a device"))


def test_a_file_and_a_link_to_one_are_fine(tmp_path):
    (tmp_path / "blob").write_bytes(b"12345")
    (tmp_path / "link").symlink_to("blob")
    assert require_regular(tmp_path / "link").st_size == 5
    assert not is_special(tmp_path / "link")


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_a_file_without_permission_is_refused(tmp_path):
    (tmp_path / "x").write_bytes(b"1")
    (tmp_path / "x").chmod(0)
    with pytest.raises(UserError, match="no permission"):
        require_regular(tmp_path / "x")


def test_a_name_that_no_file_can_have_is_refused(tmp_path):
    for name in ("a\0b", "a" * 5000):
        with pytest.raises(UserError, match="can't be read"):
            require_regular(tmp_path / name)
