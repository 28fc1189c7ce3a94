"""The names of `import obsdiff`: those of type checkers are those at run time."""

import ast
import tomllib
from pathlib import Path

import pytest

import obsdiff
from obsdiff.pipelines.record import versions
from obsdiff.runtime.version import VERSION

SOURCE = ast.parse(Path(obsdiff.__file__).read_text())


def checked_names() -> dict[str, str]:
    """The names that __init__.py imports for type checkers, with their modules."""
    (block,) = (node for node in SOURCE.body if isinstance(node, ast.If))
    assert isinstance(block.test, ast.Name)
    assert block.test.id == "TYPE_CHECKING"
    return {
        alias.asname: node.module
        for node in block.body
        for alias in node.names
        if alias.name == alias.asname  # `import X as X` exports X
    }


def test_type_checkers_and_the_interpreter_find_the_same_names():
    assert checked_names() == obsdiff.HOMES
    assert obsdiff.__all__ == sorted(obsdiff.HOMES)


@pytest.mark.parametrize("name", obsdiff.__all__)
def test_every_public_name_is_there(name):
    assert getattr(obsdiff, name).__name__ == name
    assert name in dir(obsdiff)


def test_an_unknown_name_is_an_attribute_error():
    for name in ("prune_pipeline", "PrunedNothing"):
        with pytest.raises(AttributeError, match=f"module 'obsdiff' has no attribute '{name}'"):
            getattr(obsdiff, name)


def test_the_version_is_written_once():
    project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())
    attr = project["tool"]["setuptools"]["dynamic"]["version"]["attr"]
    assert attr == "obsdiff.runtime.version.VERSION"
    assert obsdiff.__version__ == VERSION


def test_records_have_the_version_of_the_code_not_of_an_older_installation(monkeypatch):
    monkeypatch.setattr("obsdiff.pipelines.record.version", lambda name: "0.0.1")
    assert versions()["obsdiff"] == VERSION != versions()["torch"]
