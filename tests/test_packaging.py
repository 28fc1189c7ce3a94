"""The two distributions: their wheels, the lookup of the models, the errors for missing extras."""

import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from pathlib import Path

import pytest

from obsdiff.pipelines.builtin import CHECKOUT, find_models
from obsdiff.runtime.extras import EXTRAS

ROOT = Path(__file__).parents[1]
MODELS = ROOT / "obsdiff-emoji" / "obsdiff_emoji"
# obsdiff's command line in an interpreter that neither finds nor imports the library that the
# first argument names
WITHOUT = """
import runpy, sys

sys.modules[sys.argv.pop(1)] = None
sys.argv[0] = "obsdiff"
try:
    runpy.run_module("obsdiff", run_name="__main__")
finally:
    assert "torch" not in sys.modules, "the complaint came after a heavy import"
"""


def complaint(command: list[str], places: list[Path], cwd: Path) -> str:
    """The one line of a command that ends with exit code 2; `places` begin the import path."""
    done = subprocess.run(
        [sys.executable, *command],
        capture_output=True,
        text=True,
        cwd=cwd,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(map(str, places))},
    )
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1), done.stderr
    return done.stderr


@pytest.fixture(scope="module")
def libraries(tmp_path_factory) -> Path:
    """Links to the installed libraries, without obsdiff and its models.

    `python -S` ignores the .pth files among them.
    """
    folder = tmp_path_factory.mktemp("libraries")
    for entry in Path(sysconfig.get_path("purelib")).iterdir():
        if not entry.name.startswith("obsdiff"):
            (folder / entry.name).symlink_to(entry)
    return folder


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> Path:
    """obsdiff alone, without the checkout around it."""
    folder = tmp_path_factory.mktemp("installed")
    shutil.copytree(
        ROOT / "obsdiff", folder / "obsdiff", ignore=shutil.ignore_patterns("__pycache__")
    )
    return folder


@pytest.fixture
def foreign(tmp_path) -> Path:
    """A working folder with a package obsdiff_emoji that complains if it is run."""
    for name in ("emoji-sd3", "emoji-unet", "emoji-clip"):
        shutil.copytree(MODELS / name, tmp_path / "obsdiff_emoji" / name, copy_function=os.symlink)
    (tmp_path / "obsdiff_emoji" / "__init__.py").write_text("raise SystemExit('it was run')\n")
    return tmp_path


def test_a_checkout_uses_its_own_models():
    assert find_models() == CHECKOUT / "obsdiff_emoji" == MODELS


def test_an_installed_package_is_found_and_not_run(installed, foreign, tmp_path_factory):
    code = (
        "import sys, obsdiff; print(obsdiff.builtin_path('emoji-unet')); "
        "assert 'obsdiff_emoji' not in sys.modules"
    )
    places = os.pathsep.join(map(str, (installed, foreign)))
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        cwd=tmp_path_factory.mktemp("elsewhere"),
        env=os.environ | {"PYTHONPATH": places},
        check=True,
    )
    assert done.stdout.strip() == str(foreign / "obsdiff_emoji" / "emoji-unet")


@pytest.mark.parametrize("command", [["inspect", "emoji-sd3"], ["demo", "--output", "out"]])
def test_without_the_models_the_command_that_installs_them_is_named(
    command, installed, libraries, tmp_path
):
    line = complaint(["-S", "-m", "obsdiff", *command], [installed, libraries], tmp_path)
    assert "emoji-sd3 is part of obsdiff-emoji" in line
    assert "pip install 'obsdiff[demo]'" in line
    assert not list(tmp_path.iterdir())


def test_models_in_the_working_folder_are_not_taken(installed, libraries, foreign):
    command = ["-S", "-m", "obsdiff", "inspect", "emoji-sd3"]
    line = complaint(command, [installed, libraries], foreign)
    assert "pip install 'obsdiff[demo]'" in line


@pytest.mark.parametrize(
    ("extra", "library", "argv"),
    [
        ("eval", "torchmetrics", ["evaluate", "pruned", "--against", "dense", "--output", "run"]),
        ("report", "matplotlib", ["report", "run", "--output", "page.html"]),
        ("report", "jinja2", ["report", "run", "--output", "page.html"]),
        *(("demo", library, ["demo"]) for library in EXTRAS["demo"]),
    ],
)
def test_a_command_whose_extra_is_missing_says_so_at_once(extra, library, argv, tmp_path):
    line = complaint(["-c", WITHOUT, library, *argv], [ROOT], tmp_path)
    assert f"{argv[0]} needs {library}" in line
    assert f"pip install 'obsdiff[{extra}]'" in line
    assert not list(tmp_path.iterdir())


def build(folder: Path, kind: str) -> Path:
    """The wheel or sdist of a source folder, by the installed setuptools."""
    code = f"from setuptools import build_meta; print(build_meta.build_{kind}('dist'))"
    (folder / "dist").mkdir(exist_ok=True)
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=folder, check=True
    )
    return folder / "dist" / done.stdout.splitlines()[-1]


def files_of(package: Path) -> set[str]:
    return {
        str(file.relative_to(package.parent))
        for file in package.rglob("*")
        if file.is_file() and "__pycache__" not in file.parts
    }


def copy_of(root: Path, package: str, folder: Path) -> Path:
    """What a distribution is built from."""
    shutil.copytree(root / package, folder / package, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE", "NOTICE", "MANIFEST.in"):
        if (root / name).exists():
            shutil.copy(root / name, folder)
    return folder


@pytest.mark.slow
def test_the_library_is_below_two_megabytes_and_whole(tmp_path):
    source = copy_of(ROOT, "obsdiff", tmp_path)
    shutil.copytree(MODELS, source / "obsdiff-emoji" / "obsdiff_emoji", copy_function=os.symlink)
    shutil.copytree(ROOT / "tests", source / "tests", ignore=shutil.ignore_patterns("__pycache__"))
    wheel, sdist = build(source, "wheel"), build(source, "sdist")
    assert max(wheel.stat().st_size, sdist.stat().st_size) < 2e6
    inside = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    assert inside == files_of(ROOT / "obsdiff")
    with tarfile.open(sdist) as opened:
        names = {name.partition("/")[2] for name in opened.getnames()}
    assert files_of(ROOT / "obsdiff") <= names
    assert not [name for name in names if name.startswith(("obsdiff-emoji", "tests"))]


@pytest.mark.slow
def test_the_models_fit_into_a_wheel_that_pypi_takes(tmp_path):
    wheel = build(copy_of(ROOT / "obsdiff-emoji", "obsdiff_emoji", tmp_path), "wheel")
    assert wheel.stat().st_size < 100e6
    names = zipfile.ZipFile(wheel).namelist()
    assert {name for name in names if ".dist-info/" not in name} == files_of(MODELS)
    assert [name for name in names if name.endswith("licenses/NOTICE")]
