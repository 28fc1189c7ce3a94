"""The steps of the check, their limits, and the command that runs them."""

import argparse
import contextlib
import os
import platform
import subprocess
import warnings
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from benchmarks.conditions import RESULTS
from obsdiff.cli.commands import quiet
from obsdiff.pipelines.record import versions

from .behaves import behaves
from .check import Check
from .flux import flux
from .real_size import real_size
from .same import same_as_a_cpu
from .solving import factors, solving
from .structured import compiled, smaller
from .sums import sums
from .timed_steps import run_step
from .two_of_four import two_of_four, two_of_four_cutlass

ROOT = Path(__file__).resolve().parents[2]


def environment(check: Check) -> None:
    """Versions, the card, and whether TF32 is off by default."""
    names = ", ".join(f"{name} {version}" for name, version in check.about["versions"].items())
    check.figure("env", "versions", names)
    check.figure("env", "device", check.about["device"])
    on = torch.backends.cuda.matmul.allow_tf32
    check.figure("env", "TF32 products by default", on, "False", not on)


STEPS: dict[str, tuple[float, Callable[[Check], None]]] = {  # seconds at most; by importance
    "env": (15, environment),
    "same": (75, same_as_a_cpu),
    "behaves": (45, behaves),
    "sums": (25, sums),
    "sd3": (75, real_size),
    "solve": (35, solving),
    "factor": (12, factors),
    "2:4": (25, two_of_four),
    "structured": (15, smaller),
    "flux": (25, flux),
    "compiled": (60, compiled),
    "cutlass": (10, two_of_four_cutlass),
}
ON_A_GPU = ("2:4", "compiled", "cutlass")
SLOWER = 60  # times that a CPU may take


def commit() -> str:
    """The environment variable COMMIT, for a copy without history; else what is checked out."""
    checked_out = ""
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        done = subprocess.run(
            ["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, timeout=10
        )
        checked_out = done.stdout.strip() if done.returncode == 0 else ""
    return os.environ.get("COMMIT") or checked_out or "unknown"


def device_in_words(check: Check) -> str:
    """The card, its memory and CUDA, or the threads of the CPU."""
    if not check.gpu:
        return f"CPU, {torch.get_num_threads()} threads, {platform.machine()}"
    memory = torch.cuda.get_device_properties(0).total_memory / 2**30
    return f"{torch.cuda.get_device_name()}, {memory:.1f} GiB, CUDA {torch.version.cuda}"


def about(check: Check, limit: float) -> dict[str, Any]:
    """Device, date, commit and versions."""
    return {
        "device": device_in_words(check),
        "tiny": check.tiny,
        "limit": limit,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": commit(),
        "versions": versions(),
    }


def main(began: float) -> int:
    """Run the steps and print what failed.

    Args:
        began: time.perf_counter() of the beginning.
    """
    parser = argparse.ArgumentParser(description="check obsdiff on one GPU")
    parser.add_argument("--tiny", action="store_true", help="a dry run on a CPU with tiny shapes")
    parser.add_argument("--only", nargs="+", choices=STEPS, default=list(STEPS), metavar="STEP")
    parser.add_argument("--limit", type=float, default=480, help="seconds of the whole check")
    args = parser.parse_args()
    quiet()
    warnings.simplefilter("ignore")
    check = Check(args.tiny, Path(os.environ.get("OUT") or RESULTS / "gpu"), began)
    check.about |= about(check, args.limit)
    check.save()
    for name, (limit, step) in STEPS.items():
        if name in args.only and (check.gpu or name not in ON_A_GPU):
            left = args.limit - check.seconds_so_far()
            run_step(check, name, limit if check.gpu else limit * SLOWER, left, step)
    check.show_failures()
    return 0
