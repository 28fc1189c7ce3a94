"""A tiny HPSv3, made once, and a copy to break."""

import shutil
from pathlib import Path

import pytest

from .tiny import make_hpsv3


@pytest.fixture(scope="package")
def hpsv3(tmp_path_factory) -> Path:
    """The folder of a tiny HPSv3."""
    return make_hpsv3(tmp_path_factory.mktemp("judges") / "hpsv3")


@pytest.fixture
def copy(hpsv3, tmp_path) -> Path:
    """A copy of the folder."""
    return Path(shutil.copytree(hpsv3, tmp_path / "hpsv3"))
