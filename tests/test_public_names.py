"""The names of `import obsdiff`: those of type checkers are those at run time."""

import ast
from importlib.metadata import version
from pathlib import Path

import pytest

import obsdiff

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


def test_the_version_is_that_of_the_installed_package():
    assert obsdiff.__version__ == version("obsdiff")
