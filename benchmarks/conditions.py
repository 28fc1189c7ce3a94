"""The conditions of a measurement, which are stored beside its figures in benchmarks/results/."""

import platform
import shlex
import sys
from pathlib import Path
from typing import Any

import torch

from obsdiff import builtin_path
from obsdiff.pipelines.builtin import builtin_version
from obsdiff.pipelines.record import versions

RESULTS = Path(__file__).parent / "results"


def conditions(module: str) -> dict[str, Any]:
    """The command line of a module, threads, machine and versions."""
    return {
        "command": shlex.join(["python", "-m", module, *sys.argv[1:]]),
        "threads": torch.get_num_threads(),
        "machine": platform.machine(),
        "versions": versions(),
    }


def model_version(model: str) -> int:
    """The version of a built-in model."""
    return int(builtin_version(builtin_path(model))[model])
