"""Files that appear whole: never through a link, synced before the rename, as the umask says."""

import errno
import os
import stat

import pytest
import torch
from safetensors.torch import load_file, save_file

from obsdiff.runtime.whole_files import (
    is_unfinished,
    remove_unfinished,
    set_modes,
    sync_tree,
    whole_file,
    write_whole,
)


def mode_of(file):
    return stat.S_IMODE(file.stat().st_mode)


@pytest.fixture(params=[0o022, 0o002, 0o077])
def umask(request):
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def test_text_and_bytes_replace_what_was_there(tmp_path):
    file = tmp_path / "x.txt"
    write_whole(file, "é\r\n")
    assert file.read_bytes() == b"\xc3\xa9\r\n"
    write_whole(file, b"\0")
    assert file.read_bytes() == b"\0"
    assert [place.name for place in tmp_path.iterdir()] == ["x.txt"]


def test_a_link_of_the_name_is_replaced_and_its_target_is_as_it_was(tmp_path):
    target, link = tmp_path / "target", tmp_path / "link"
    target.write_text("precious")
    link.symlink_to(target)
    write_whole(link, "new")
    assert (target.read_text(), link.read_text(), link.is_symlink()) == ("precious", "new", False)


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "full"), KeyboardInterrupt()])
def test_an_error_leaves_the_former_file_alone(tmp_path, error):
    file = tmp_path / "x"
    file.write_text("former")

    def fail(beside):
        beside.write_text("half")
        raise error

    with pytest.raises(type(error)), whole_file(file) as beside:
        fail(beside)
    assert file.read_text() == "former"
    assert list(tmp_path.iterdir()) == [file]


def test_the_content_is_on_the_disk_before_the_file_has_its_name(tmp_path, monkeypatch):
    file, seen = tmp_path / "x", []
    sync = os.fsync
    monkeypatch.setattr(os, "fsync", lambda opened: (seen.append(file.exists()), sync(opened))[1])
    write_whole(file, "x")
    assert seen == [False, True]  # the content, then the name


@pytest.mark.parametrize("number", [errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP])
def test_a_file_system_that_cannot_sync_is_no_error(tmp_path, monkeypatch, number):
    def cannot(_):
        raise OSError(number, "not here")

    monkeypatch.setattr(os, "fsync", cannot)
    write_whole(tmp_path / "x", "x")
    sync_tree(tmp_path)
    assert (tmp_path / "x").read_text() == "x"


def test_a_full_disk_that_shows_at_the_sync_is_an_error(tmp_path, monkeypatch):
    def full(_):
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="full"):
        write_whole(tmp_path / "x", "x")
    assert list(tmp_path.iterdir()) == []


def test_every_file_and_folder_of_a_tree_is_synced_and_links_are_not_followed(
    tmp_path, monkeypatch
):
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "b" / "c").touch()
    (tmp_path / "a" / "d").touch()
    (tmp_path / "outside").touch()
    (tmp_path / "a" / "link").symlink_to(tmp_path / "outside")
    os.mkfifo(tmp_path / "a" / "pipe")
    seen = []
    monkeypatch.setattr(os, "fsync", lambda opened: seen.append(os.fstat(opened).st_ino))
    sync_tree(tmp_path / "a")
    wanted = [tmp_path / "a", *(tmp_path / "a" / n for n in ("b", "b/c", "d"))]
    assert sorted(seen) == sorted(place.stat().st_ino for place in wanted)
    assert seen[-1] == (tmp_path / "a").stat().st_ino


def test_files_have_the_modes_of_the_umask_whatever_a_library_writes(tmp_path, umask):
    file = tmp_path / "x.safetensors"
    with whole_file(file) as beside:
        save_file({"x": torch.ones(2)}, beside)
    assert (mode_of(file), load_file(file)["x"].tolist()) == (0o666 & ~umask, [1.0, 1.0])
    (tmp_path / "a").mkdir()
    save_file({"x": torch.ones(2)}, tmp_path / "a" / "y")
    set_modes(tmp_path)
    assert mode_of(tmp_path / "a" / "y") == 0o666 & ~umask


def test_files_of_killed_processes_are_recognised_and_deleted(tmp_path):
    (tmp_path / "a").mkdir()
    for folder in (tmp_path, tmp_path / "a"):
        with whole_file(folder / "x") as beside:
            os.link(beside, folder / "copy")
            name = beside.name
        (folder / "copy").rename(folder / name)
    assert is_unfinished(name)
    assert not is_unfinished("x.part")
    remove_unfinished(tmp_path)
    assert sorted(place.name for place in tmp_path.rglob("*")) == ["a", "x", "x"]
