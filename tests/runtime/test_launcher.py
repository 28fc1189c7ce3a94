"""The variables of a launcher: alone without RANK, otherwise all of them right."""

import pytest

from obsdiff import UserError
from obsdiff.runtime.launcher import is_one_of_several, local_processes

GOOD = {
    "WORLD_SIZE": "2",
    "RANK": "1",
    "LOCAL_RANK": "1",
    "MASTER_ADDR": "127.0.0.1",
    "MASTER_PORT": "29500",
}


@pytest.fixture(autouse=True)
def launched(monkeypatch):
    for name, value in GOOD.items():
        monkeypatch.setenv(name, value)


def test_all_are_right(monkeypatch):
    assert is_one_of_several()
    monkeypatch.delenv("LOCAL_RANK")
    assert is_one_of_several()


@pytest.mark.parametrize("size", ["2", "abc", "0", ""])
def test_without_a_rank_this_process_is_alone(monkeypatch, size):
    monkeypatch.delenv("RANK")
    monkeypatch.setenv("WORLD_SIZE", size)
    assert not is_one_of_several()


def test_one_process_meets_nobody(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "1")
    monkeypatch.setenv("RANK", "0")
    for name in ("LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name)
    assert not is_one_of_several()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *((name, "") for name in GOOD if name != "MASTER_ADDR"),
        *(("WORLD_SIZE", value) for value in ("abc", "0", "-1", "1.5", "²", "9" * 5000)),
        *(("RANK", value) for value in ("2", "-1", "x")),
        *(("LOCAL_RANK", value) for value in ("x", "-1")),
        *(("MASTER_PORT", value) for value in ("x", "0", "65536")),
        *(("MASTER_ADDR", value) for value in ("", "..", "a" * 300)),
    ],
)
def test_a_wrong_one_is_named(monkeypatch, name, value):
    monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match=name):
        is_one_of_several()


@pytest.mark.parametrize("name", ["WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"])
def test_a_missing_one_is_named(monkeypatch, name):
    monkeypatch.delenv(name)
    with pytest.raises(UserError, match=name):
        is_one_of_several()


def test_processes_of_this_machine(monkeypatch):
    assert local_processes() == 1
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    assert local_processes() == 2
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "x")
    with pytest.raises(UserError, match="LOCAL_WORLD_SIZE"):
        local_processes()
    monkeypatch.delenv("RANK")
    assert local_processes() == 1
