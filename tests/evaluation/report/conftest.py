"""A small run, and pages without their slow parts."""

from pathlib import Path

import pytest

from obsdiff.evaluation.report import sections

from ...support.page_runs import write_run


@pytest.fixture
def run(tmp_path) -> Path:
    """A run of two prompts: dense pictures in green, pruned ones in red."""
    return write_run(tmp_path)


@pytest.fixture
def without_plots(monkeypatch) -> None:
    """Pages without plots, which take most of the time of a page."""
    monkeypatch.setattr(sections, "plots", lambda comparison: [])
    monkeypatch.setattr(sections, "tradeoffs", lambda comparison: [])
