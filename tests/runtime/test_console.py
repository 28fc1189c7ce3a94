"""Lines on consoles of any kind: nothing is sent that changes a terminal, nothing stops a run."""

import io
import sys

import pytest

from obsdiff.errors import RunFailed
from obsdiff.runtime.console import lenient_streams, put, settle, shown, tell

EVIL = "x\x1b]0;owned\x07\x1b[2J\r\b\x9b31m\u202eback\u2066\u2028\x85\udc80"


def stream(encoding: str) -> io.TextIOWrapper:
    """A stream as Python makes them for stdout."""
    return io.TextIOWrapper(io.BytesIO(), encoding=encoding, errors="strict")


def test_what_changes_a_terminal_is_shown():
    text = shown(EVIL)
    assert text.isprintable()
    assert text.startswith(r"x\x1b]0;owned\x07\x1b[2J\r\x08\x9b31m\u202eback")
    assert shown("two\nlines\t\0") == r"two\nlines\t\x00"


@pytest.mark.parametrize("plain", ["red apple", "模型 🐟 é — ½", "👩‍🚀"])
def test_letters_are_left_as_they_are(plain):
    assert shown(plain) == plain


def test_a_result_keeps_its_lines_and_a_message_is_one(monkeypatch):
    out, err = stream("utf-8"), stream("utf-8")
    monkeypatch.setattr(sys, "stdout", out)
    monkeypatch.setattr(sys, "stderr", err)
    put(f"one\n{EVIL}")
    tell(f"one\n{EVIL}")
    assert out.buffer.getvalue().decode().split("\n") == ["one", shown(EVIL), ""]
    assert err.buffer.getvalue().decode() == f"one\\n{shown(EVIL)}\n"


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "latin-1", "cp437"])
def test_consoles_of_few_letters(monkeypatch, encoding):
    for name, write in (("stdout", put), ("stderr", tell)):
        console = stream(encoding)
        monkeypatch.setattr(sys, name, console)
        write("模型")
        lenient_streams()
        print("模", file=console, flush=True)
        assert console.buffer.getvalue().decode(encoding).split() == [r"\u6a21\u578b", r"\u6a21"]


def test_a_full_stdout_is_one_error_and_nothing_fails_later(monkeypatch):
    with open("/dev/full", "w") as full:
        monkeypatch.setattr(sys, "stdout", full)
        with pytest.raises(RunFailed, match="stdout can't be written: No space left"):
            put("a result")
        assert settle() is None


def test_what_others_print_to_a_full_stdout_is_found_at_the_end(monkeypatch):
    with open("/dev/full", "w") as full:
        monkeypatch.setattr(sys, "stdout", full)
        print("a help text")
        assert settle().strerror == "No space left on device"
        assert settle() is None


def test_a_full_or_closed_stderr_costs_nothing(monkeypatch):
    with open("/dev/full", "w") as full:
        monkeypatch.setattr(sys, "stderr", full)
        tell("a message")
        assert settle() is None
    tell("into a closed file")
    monkeypatch.setattr(sys, "stderr", None)
    tell("into nothing")
    monkeypatch.setattr(sys, "stdout", None)
    with pytest.raises(RunFailed, match="closed"):
        put("a result")
