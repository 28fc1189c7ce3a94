"""What people see of a run: on a terminal, elsewhere, in a notebook, in a log, and with --quiet."""

import io
import os
import sys
import types

import pytest
from rich.console import Console

from obsdiff.errors import UserError
from obsdiff.runtime import display
from obsdiff.runtime.display import (
    NotebookDisplay,
    PlainDisplay,
    as_text,
    chosen_displays,
    current,
    duration,
    picture,
    plain_line,
    watching,
)
from obsdiff.runtime.outlet import OUTLET, open_log, shown_as
from obsdiff.runtime.phases import Phases
from obsdiff.runtime.progress import counting, say
from tests.runtime.test_phases import Clock


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def phases(clock):
    """A run in its second phase, with a third of unknown cost."""
    found = Phases(clock)
    found.expect("loading")
    found.plan("dense pass", 10, unit="prompts")
    found.plan("solving", 1e9)
    found.plan("loading", 1)
    with found.within("loading"):
        clock.now += 5
    found.complete("loading")
    with found.within("dense pass"):
        clock.now += 30
        found.reach("dense pass", 3)
    return found


def test_durations_for_people():
    assert [duration(s) for s in (0, 59.6, 150, 3599, 7500)] == [
        "0 s",
        "60 s",
        "2 min",
        "60 min",
        "2 h 05 min",
    ]


def test_every_phase_has_its_line_and_an_unknown_cost_is_said(phases):
    lines = as_text(phases).splitlines()
    assert [line.split("  ")[0].split("#")[0].split(".")[0].strip() for line in lines[:3]] == [
        "loading",
        "dense pass",
        "solving",
    ]
    assert lines[0].endswith("5 s")
    assert "3/10 prompts" in lines[1]
    assert "70 s left" in lines[1]
    assert "time not known yet" in lines[2]
    assert lines[3].endswith("about 70 s left, and solving (not known yet)")
    console = Console(file=io.StringIO(), width=100, force_terminal=True)
    console.print(picture(phases))
    for word in ("dense pass", "3/10 prompts", "and solving (not known yet)"):
        assert word in console.file.getvalue()


def test_before_anything_is_known_nothing_is_promised(clock):
    phases = Phases(clock)
    phases.expect("loading", "solving")
    with phases.within("loading"):
        assert plain_line(phases) == "loading: time left not known yet (loading, solving)"
        assert phases.percent == 0


def test_plain_lines_are_at_least_30_seconds_and_5_percent_apart(clock, capsys):
    phases, plain = Phases(clock), PlainDisplay(printed=True)
    phases.plan("solving", 1000)
    with phases.within("solving"):
        for _ in range(999):
            clock.now += 1
            phases.advance("solving")
            plain.draw(phases)
    out, err = capsys.readouterr()
    lines = err.splitlines()
    assert out == ""
    assert 15 <= len(lines) <= 20
    assert all(line.startswith("solving ") and "% of the run, about" in line for line in lines)
    assert "\r" not in err
    assert "\x1b" not in err


def test_a_short_run_off_a_terminal_prints_nothing(capsys):
    with watching() as phases, phases.within("solving"):
        phases.plan("solving", 1)
    assert capsys.readouterr() == ("", "")


def test_one_display_a_run(monkeypatch):
    monkeypatch.setattr(display, "REDRAWN", 0.005)
    drawn = []

    class Shown:
        def draw(self, phases):
            drawn.append(len(phases.all))

        def close(self):
            drawn.append("closed")

    monkeypatch.setattr(display, "chosen_displays", lambda: [Shown()])
    with watching(repeats=2) as outer:
        with watching() as inner:
            assert inner is outer is current()
        assert not outer.ended
        with counting("drawing a", 3) as advance:
            advance(2)
            for _ in range(1000):
                if len(drawn) > 1:
                    break
                display.threading.Event().wait(0.005)
    assert outer.ended
    assert drawn[-1] == "closed"
    assert drawn[0] == 1
    assert current() is not outer
    with watching(show=False) as hidden, hidden.within("solving"):
        pass
    assert drawn[-1] == "closed"


def test_a_process_of_several_that_is_not_the_first_shows_nothing(monkeypatch):
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setattr(display, "chosen_displays", lambda: pytest.fail("a display"))
    with watching() as phases, phases.within("solving"):
        pass


def test_in_a_notebook_the_output_is_replaced_in_place(monkeypatch, phases):
    shown = []
    handle = types.SimpleNamespace(update=lambda data, raw: shown.append(data["text/plain"]))

    def show(data, raw, display_id):
        shown.append(data["text/plain"])
        return handle

    package = types.ModuleType("IPython")
    package.display = types.ModuleType("IPython.display")
    package.display.display = show
    monkeypatch.setitem(sys.modules, "IPython", package)
    monkeypatch.setitem(sys.modules, "IPython.display", package.display)
    shell = type("ZMQInteractiveShell", (), {})
    monkeypatch.setattr(display.builtins, "get_ipython", lambda: shell(), raising=False)
    (notebook,) = chosen_displays()
    assert isinstance(notebook, NotebookDisplay)
    notebook.draw(phases)
    notebook.draw(phases)  # looks the same
    phases.reach("dense pass", 4)
    notebook.draw(phases)
    assert len(shown) == 2
    assert "4/10 prompts" in shown[1]


def test_quiet_prints_nothing_and_the_log_has_it_all(tmp_path, capsys, clock, phases):
    log = tmp_path / "run.log"
    with shown_as(quiet=True, log_file=log):
        say("a remark\nof two lines")
        (plain,) = chosen_displays()
        clock.now += 30
        plain.draw(phases)
    with shown_as(quiet=False, log_file=log):
        say("another")
    lines = log.read_text().splitlines()
    assert capsys.readouterr() == ("", "another\n")
    assert len(lines) == 3
    assert lines[0][20:] == "a remark of two lines"
    assert "% of the run" in lines[1]
    assert (OUTLET.quiet, OUTLET.log) == (False, None)
    with shown_as(quiet=True):
        assert chosen_displays() == []


def test_a_log_is_appended_to_and_no_other_file_is_touched(tmp_path):
    with shown_as(log_file=tmp_path / "run.log"):
        say("one")
    other = tmp_path / "config.json"
    other.write_text("{}")
    (tmp_path / "link").symlink_to(other)
    os.mkfifo(tmp_path / "pipe")
    for name, words in (
        ("config.json", "no log that obsdiff wrote"),
        ("link", "found"),
        ("pipe", "no regular file"),
        ("no/run.log", "No such file"),
        (".", "directory"),
    ):
        with pytest.raises(UserError, match=words) as error:
            open_log(tmp_path / name)
        assert "\n" not in str(error.value)
    assert other.read_text() == "{}"


def test_a_log_on_a_full_disk_costs_no_work(tmp_path, capsys):
    class Full(io.StringIO):
        def write(self, text):
            raise OSError(28, "No space left on device")

    with shown_as():
        OUTLET.log = Full()
        say("one")
        say("two")
        err = capsys.readouterr().err
    assert err.count("No space left on device") == 1
    assert err.endswith("two\n")


def test_the_first_drawing_is_there_before_the_work_begins(monkeypatch):
    drawn = []
    shown = types.SimpleNamespace(draw=drawn.append, close=lambda: None)
    monkeypatch.setattr(display, "chosen_displays", lambda: [shown])
    with watching() as phases:
        assert drawn == []
        with phases.within("loading"):
            assert drawn[0] is phases


def test_a_display_that_nobody_can_write_to_is_given_up(monkeypatch):
    def broken(*_):
        raise BrokenPipeError

    shown = types.SimpleNamespace(draw=broken, close=broken)
    monkeypatch.setattr(display, "chosen_displays", lambda: [shown])
    with watching() as phases, phases.within("loading"):
        pass
    assert phases.ended
