"""Peak memory of drawing one picture, measured in a process of its own.

    python -m obsdiff.evaluation.peak_memory < INPUT

INPUT is one JSON object on stdin, since a prompt may be longer than a command line: {"folder",
"settings", "prompt", "single_file"}; the last is null, or a single-file checkpoint whose configs
are in the folder. On a CPU the peak is that of anonymous memory (RssAnon of /proc), since the
ordinary peak also counts the pages of mapped files; the weights are first copied out of their
mapped files, so that they count. On a GPU the peak is that of torch's allocator.
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from ..pipelines.folder import Folder, open_folder
from ..pipelines.single_file import open_single_file
from ..runtime.child_process import child_environment, python_command
from ..runtime.memory import STATUS, Watch, anonymous
from ..runtime.random_state import noise


def peak_memory(
    folder: Path, settings: dict[str, Any], prompt: str, single_file: Path | None = None
) -> dict[str, Any]:
    """Measure the peak memory of drawing one picture.

    Args:
        folder: the pipeline's folder.
        settings: keyword arguments of the pipeline call, as JSON can store them.
        prompt: of the picture.
        single_file: a single-file checkpoint whose configs are in `folder`.

    Returns:
        {"weights_bytes", "peak_bytes", "device", "why_not"}; the bytes are None if not measured.
    """
    if not STATUS.exists() and not has_gpu():
        return not_measured("this system has no /proc to read a process's memory from")
    given = json.dumps(
        {
            "folder": str(folder),
            "settings": settings,
            "prompt": prompt,
            "single_file": str(single_file) if single_file else None,
        }
    )
    done = subprocess.run(
        python_command("obsdiff.evaluation.peak_memory"),
        input=given,
        capture_output=True,
        encoding="utf-8",
        errors="replace",
        env=child_environment(),
    )
    if done.returncode:
        lines = done.stderr.strip().splitlines()
        return not_measured(
            f"the measuring process failed: {lines[-1] if lines else done.returncode}"
        )
    return json.loads(done.stdout.strip().splitlines()[-1])


def not_measured(why: str) -> dict[str, Any]:
    """Return the entry of results.json for a failed measurement."""
    return {"weights_bytes": None, "peak_bytes": None, "why_not": why}


def has_gpu() -> bool:
    """Return whether torch can use a GPU."""
    import torch

    return torch.cuda.is_available()


def measure_here(
    folder: Path, settings: dict[str, Any], prompt: str, single_file: str | None = None
) -> dict[str, Any]:
    """Load the pipeline, draw one picture and return its peak memory, in this process."""
    opened = open_single_file(Path(single_file), folder) if single_file else open_folder(folder)
    import torch  # a folder that can't be opened is refused before

    before = anonymous() if STATUS.exists() else 0
    pipe = pipeline_of(opened)
    parts = [c for c in pipe.components.values() if isinstance(c, torch.nn.Module)]
    parameters = [p for part in parts for p in part.parameters()]
    weights = sum(p.numel() * p.element_size() for p in parameters)
    on_gpu = pipe.device.type == "cuda"
    if on_gpu:
        torch.cuda.reset_peak_memory_stats()
    else:
        for p in parameters:
            p.data = p.data.clone()
        watch = Watch()
        watch.start()
    with torch.no_grad():
        pipe(prompt=prompt, generator=noise(0), **settings)
    peak = torch.cuda.max_memory_allocated() if on_gpu else watch.stop() - before
    return {
        "weights_bytes": weights,
        "peak_bytes": peak,
        "device": pipe.device.type,
        "why_not": None,
    }


def pipeline_of(folder: Folder) -> Any:
    """Return the pipeline of a folder, or of a single-file checkpoint, ready to draw."""
    from ..pipelines.load import load_pipeline
    from .flaws import remove_checkers_

    pipe, _ = load_pipeline(folder)
    remove_checkers_(pipe)
    pipe.set_progress_bar_config(disable=True)
    return pipe


if __name__ == "__main__":
    given = json.load(sys.stdin)
    found = measure_here(
        Path(given["folder"]), given["settings"], given["prompt"], given["single_file"]
    )
    print(json.dumps(found))
