"""The measuring process gets its input whole, whatever a prompt holds."""

import json
import subprocess

import pytest

from obsdiff.evaluation import peak_memory as module
from obsdiff.evaluation.peak_memory import peak_memory

LONG = "a red apple " * 20_000  # longer than one argument of a command line may be


@pytest.mark.parametrize(
    "prompt",
    [LONG, "nul \0 inside", "line\nbreak", "--help", "snow \u2603"],
    ids=["long", "nul", "break", "flag", "snow"],  # an id is in the environment of a process
)
def test_a_prompt_goes_over_stdin(prompt, tmp_path, monkeypatch):
    """A process that answers with what it read stands for the one that draws."""
    echo = [
        "python3",
        "-c",
        "import json, sys\n"
        "given = json.loads(sys.stdin.buffer.read())\n"
        "print('a line of a library')\n"
        "print(json.dumps({'given': given, 'argv': sys.argv}))",
    ]
    monkeypatch.setattr(module, "python_command", lambda name: echo)
    found = peak_memory(tmp_path / "a folder", {"height": 16}, prompt)
    assert found["argv"] == ["-c"]
    assert found["given"] == {
        "folder": str(tmp_path / "a folder"),
        "settings": {"height": 16},
        "prompt": prompt,
        "single_file": None,
    }


def test_a_process_that_fails_is_a_reason(tmp_path, monkeypatch):
    command = ["python3", "-c", "import sys; sys.exit('no memory for this')"]
    monkeypatch.setattr(module, "python_command", lambda name: command)
    found = peak_memory(tmp_path, {}, "fish")
    assert found["peak_bytes"] is None
    assert found["why_not"] == "the measuring process failed: no memory for this"


@pytest.mark.slow
def test_the_real_process_reads_the_same(tmp_path):
    """Without a pipeline in the folder it ends at once, with the reason."""
    done = subprocess.run(
        module.python_command("obsdiff.evaluation.peak_memory"),
        input=json.dumps(
            {"folder": str(tmp_path), "settings": {}, "prompt": LONG, "single_file": None}
        ),
        capture_output=True,
        text=True,
        env=module.child_environment(),
    )
    assert done.returncode
    assert "it has no model_index.json" in done.stderr.strip().splitlines()[-1]
