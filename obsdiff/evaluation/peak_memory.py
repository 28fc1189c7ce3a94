"""Peak memory of one picture, in a process of its own: `python -m obsdiff.evaluation.peak_memory FOLDER SETTINGS_JSON PROMPT [FILE]`,
FILE being a single-file checkpoint whose configs FOLDER has.

On a CPU: the process's anonymous memory (RssAnon of /proc), because the ordinary peak also counts pages of mapped files; the
weights are copied out of their mapped files first, so that they count. On a GPU: what torch allocated there.
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from ..runtime.memory import STATUS, Watch, anonymous


def peak_memory(
    folder: Path, settings: dict[str, Any], prompt: str, single_file: Path | None = None
) -> dict[str, Any]:
    """{"weights_bytes", "peak_bytes", "device", "why_not"} of drawing one picture with the pipeline of a folder."""
    if not STATUS.exists() and not gpu():
        return {
            "weights_bytes": None,
            "peak_bytes": None,
            "why_not": "this system has no /proc to read a process's memory from",
        }
    command = [
        sys.executable,
        "-m",
        "obsdiff.evaluation.peak_memory",
        str(folder),
        json.dumps(settings),
        prompt,
        *([str(single_file)] if single_file else []),
    ]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        lines = done.stderr.strip().splitlines()
        return {
            "weights_bytes": None,
            "peak_bytes": None,
            "why_not": f"the measuring process failed: {lines[-1] if lines else done.returncode}",
        }
    return json.loads(done.stdout.strip().splitlines()[-1])


def gpu() -> bool:
    import torch

    return torch.cuda.is_available()


def measure_here(
    folder: Path, settings: dict[str, Any], prompt: str, single_file: str | None = None
) -> dict[str, Any]:
    """Load the pipeline, draw one picture, watch."""
    import torch

    from ..pipelines.folder import open_folder
    from ..pipelines.load import load_pipeline
    from ..pipelines.single_file import open_single_file

    before = anonymous() if STATUS.exists() else 0
    pipe, _ = load_pipeline(
        open_single_file(Path(single_file), folder) if single_file else open_folder(folder)
    )
    pipe.set_progress_bar_config(disable=True)
    parts = [c for c in pipe.components.values() if isinstance(c, torch.nn.Module)]
    weights = sum(p.numel() * p.element_size() for part in parts for p in part.parameters())
    on_gpu = pipe.device.type == "cuda"
    if on_gpu:
        torch.cuda.reset_peak_memory_stats()
    else:
        for p in (p for part in parts for p in part.parameters()):
            p.data = p.data.clone()
        watch = Watch()
        watch.start()
    with torch.no_grad():
        pipe(prompt=prompt, generator=torch.Generator(pipe.device).manual_seed(0), **settings)
    peak = torch.cuda.max_memory_allocated() if on_gpu else watch.stop() - before
    return {
        "weights_bytes": weights,
        "peak_bytes": peak,
        "device": pipe.device.type,
        "why_not": None,
    }


if __name__ == "__main__":
    print(json.dumps(measure_here(Path(sys.argv[1]), json.loads(sys.argv[2]), *sys.argv[3:])))
