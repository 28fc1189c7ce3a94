"""`benchmarks/gpu.py`: a dry run on a CPU, from a checkout that is not installed."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from benchmarks.gpu_check.behaves import refused
from benchmarks.gpu_check.check import Check
from benchmarks.gpu_check.timed_steps import run_step

ROOT = Path(__file__).parents[1]
QUICK = ("env", "sums", "sd3", "factor", "structured", "flux")


def check(folder, *words, command=("benchmarks/gpu.py",)):
    """Run the check; returns what it wrote, and what it printed."""
    environment = os.environ | {
        "OUT": str(folder / "gpu"),
        "PYTHONPATH": os.pathsep.join((".", "obsdiff-emoji")),
    }
    done = subprocess.run(
        [sys.executable, *command, "--tiny", *words],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return json.loads((folder / "gpu" / "gpu.json").read_text()), done.stdout


@pytest.mark.slow
def test_a_dry_run_writes_its_figures_and_what_it_ran_on(tmp_path):
    found, printed = check(tmp_path, "--only", *QUICK)
    assert found["about"]["tiny"] is True
    assert {"obsdiff", "torch", "diffusers", "transformers"} <= set(found["about"]["versions"])
    assert found["about"]["device"].startswith("CPU")
    assert {row["step"] for row in found["figures"]} == set(QUICK)
    assert not [row for row in found["figures"] if row["pass"] is False]
    assert "0 FAIL" in printed


@pytest.mark.slow
def test_a_step_without_time_is_not_run(tmp_path):
    module = ("-m", "benchmarks.gpu")
    rows = check(tmp_path, "--only", "factor", "--limit", "0", command=module)[0]["figures"]
    assert [(row["what"], row["value"]) for row in rows] == [("not run", "no time left")]


def test_a_step_that_takes_too_long_is_ended_and_the_next_one_runs(tmp_path):
    run = Check(True, tmp_path, time.perf_counter())
    run_step(run, "long", 0.2, 60, lambda _: time.sleep(30))
    run_step(run, "wrong", 60, 60, lambda _: 1 / 0)
    run_step(run, "next", 60, 60, lambda _: run.figure("next", "one", 1.0, "1", True))
    rows = json.loads((tmp_path / "gpu.json").read_text())["figures"]
    assert [(row["step"], row["what"], row["pass"]) for row in rows] == [
        ("long", "ran over its limit of s", False),
        ("wrong", "failed: ZeroDivisionError", False),
        ("next", "one", True),
    ]


@pytest.mark.slow
def test_a_refusal_counts_as_right_if_it_says_why(tmp_path):
    run = Check(True, tmp_path, time.perf_counter())
    for why in ("a compiled module", "another reason"):
        refused(run, "compiled", why, lambda pipe: pipe.transformer.compile())
    assert [row["pass"] for row in run.figures] == [True, False]
