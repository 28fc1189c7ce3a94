"""The command line in a separate process, and the files that it wrote."""

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

MODEL = "emoji-sd3"
QUIET = {"HF_HUB_OFFLINE": "1", "PYTHONWARNINGS": "ignore"}


def start(*arguments: Any, **environment: str) -> subprocess.Popen:
    """Begin `obsdiff ARGUMENTS`."""
    command = [sys.executable, "-m", "obsdiff", *map(str, arguments)]
    return subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | QUIET | environment,
    )


def run(*arguments: Any, timeout: float = 600, **environment: str) -> tuple[int, str]:
    """Exit code and stderr of a whole run."""
    process = start(*arguments, **environment)
    try:
        _, err = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        raise
    return process.returncode, err


def weights(folder: Path) -> dict[str, str]:
    """SHA-256 of every weight file below a folder."""
    return {
        str(file.relative_to(folder)): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in sorted(folder.rglob("*.safetensors"))
    }


def records(folder: Path) -> list[Any]:
    """Layers and groups in the records below a folder, without the seconds."""
    found = []
    for file in sorted(folder.rglob("obsdiff.json")):
        record = json.loads(file.read_text())
        found.append(
            [
                [{k: v for k, v in row.items() if k != "seconds"} for row in record["layers"]],
                record["groups"],
            ]
        )
    return found
