"""`benchmarks/gpu.py`: a dry run of two steps on a CPU, from a checkout that is not installed."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.slow
def test_a_dry_run_writes_its_figures_and_what_it_ran_on(tmp_path):
    environment = os.environ | {
        "OUT": str(tmp_path / "gpu"),
        "PYTHONPATH": os.pathsep.join((".", "obsdiff-emoji")),
    }
    done = subprocess.run(
        [sys.executable, "benchmarks/gpu.py", "--tiny", "--only", "env", "factor"],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "gpu" / "gpu.json").read_text())
    assert found["about"]["tiny"] is True
    assert {"obsdiff", "torch", "diffusers", "transformers"} <= set(found["about"]["versions"])
    assert found["about"]["device"].startswith("CPU")
    steps = [row["step"] for row in found["figures"]]
    assert set(steps) == {"env", "factor"}
    assert not [row for row in found["figures"] if row["pass"] is False]
    assert "0 FAIL" in done.stdout


@pytest.mark.slow
def test_a_step_without_time_is_not_run(tmp_path):
    done = subprocess.run(
        [sys.executable, "benchmarks/gpu.py", "--tiny", "--only", "factor", "--limit", "0"],
        cwd=ROOT,
        env=os.environ | {"OUT": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    rows = json.loads((tmp_path / "gpu.json").read_text())["figures"]
    assert [(row["what"], row["value"]) for row in rows] == [("not run", "no time left")]
