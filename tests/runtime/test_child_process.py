"""Processes that obsdiff starts import nothing from the working folder."""

import ast
import os
import subprocess
from pathlib import Path

import pytest

import obsdiff
from obsdiff.runtime.child_process import child_environment, python_command

PACKAGE = Path(obsdiff.__file__).parent


def test_a_child_runs_a_module_of_the_package_with_its_arguments():
    command = python_command("obsdiff", "--version")
    done = subprocess.run(command, capture_output=True, text=True, env=child_environment())
    assert done.stdout.strip() == f"obsdiff {obsdiff.__version__}"


def test_nothing_in_the_working_folder_is_imported(tmp_path, monkeypatch):
    for name in ("json", "torch", "argparse", "runpy"):
        (tmp_path / f"{name}.py").write_text(f"open('ran-{name}', 'w').close()\n")
    (tmp_path / "obsdiff").mkdir()
    (tmp_path / "obsdiff" / "__init__.py").write_text("open('ran-obsdiff', 'w').close()\n")
    kept = os.environ.get("PYTHONPATH", "")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(["", ".", kept]))
    subprocess.run(
        python_command("obsdiff", "--version"), check=True, cwd=tmp_path, env=child_environment(),
        capture_output=True,
    )  # fmt: skip
    assert not list(tmp_path.glob("ran-*"))


def test_absolute_places_of_the_search_path_stay(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(["", "/a", "b", "/c", ""]))
    assert child_environment()["PYTHONPATH"] == os.pathsep.join(["/a", "/c"])
    monkeypatch.setenv("PYTHONPATH", "")
    assert "PYTHONPATH" not in child_environment()


@pytest.mark.slow
def test_every_process_of_the_package_is_started_so():
    starting = {"run", "Popen", "call", "check_call", "check_output"}
    for file in PACKAGE.rglob("*.py"):
        text = file.read_text()
        assert not any(way in text for way in ("os.system", "os.popen", "os.exec", "os.spawn"))
        calls = [
            node
            for node in ast.walk(ast.parse(text))
            if isinstance(node, ast.Call)
            and isinstance(node.func, ast.Attribute)
            and node.func.attr in starting
            and isinstance(node.func.value, ast.Name)
            and node.func.value.id == "subprocess"
        ]
        for call in calls:
            assert "env" in {keyword.arg for keyword in call.keywords}, file
            assert all(way in text for way in ("python_command(", "child_environment()")), file
