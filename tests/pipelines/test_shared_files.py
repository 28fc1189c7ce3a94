"""Equal weight files of several outputs are one file; all others are their own."""

import json
import os

import pytest

from obsdiff.pipelines import shared_files
from obsdiff.pipelines.shared_files import share_files
from obsdiff.runtime.file_hashing import file_hashes

FILES = {"vae/m.safetensors": "same", "unet/m.safetensors": "own", "vae/config.json": "same"}


def output(place, unet):
    """A finished output with a record."""
    for name, text in FILES.items():
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        (place / name).write_text(text + unet * name.startswith("unet"))
    hashes = file_hashes(place)
    (place / "obsdiff.json").write_text(json.dumps({"hashes": {"files": hashes}}))
    return place, hashes


def inodes(place):
    return {name: (place / name).stat().st_ino for name in FILES}


def test_equal_weights_are_linked_and_nothing_else(tmp_path):
    first, _ = output(tmp_path / "a", "1")
    second, hashes = output(tmp_path / "b", "2")
    assert share_files(second, hashes, [tmp_path / "none", first]) == 4
    one, two = inodes(first), inodes(second)
    assert {name for name in FILES if one[name] == two[name]} == {"vae/m.safetensors"}
    assert file_hashes(second) | hashes == file_hashes(second)
    assert not [name for name in os.listdir(second / "vae") if name.startswith(".")]
    assert share_files(second, hashes, [first]) == 4  # again: the same
    assert not [name for name in os.listdir(second / "vae") if name.startswith(".")]


@pytest.mark.parametrize("broken", ["link", "record", "size", "symlink"])
def test_without_links_or_a_sound_twin_a_file_stays_its_own(tmp_path, monkeypatch, broken):
    first, _ = output(tmp_path / "a", "1")
    second, hashes = output(tmp_path / "b", "2")
    twin = first / "vae/m.safetensors"
    if broken == "link":
        monkeypatch.setattr(shared_files.os, "link", refuse)
    elif broken == "record":
        (first / "obsdiff.json").write_text("[")
    elif broken == "size":
        twin.write_text("another size")
    else:
        twin.unlink()
        twin.symlink_to(second / "vae/m.safetensors")
    before = inodes(second)
    assert share_files(second, hashes, [first]) == 0
    assert inodes(second) == before
    assert file_hashes(second) | hashes == file_hashes(second)


def refuse(*_):
    raise OSError(95, "Operation not supported")
