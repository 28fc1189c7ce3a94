"""Draw with ComfyUI's modules, in a process of its own: tests/support/comfyui_draw.py."""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from diffusers import StableDiffusion3Pipeline
from safetensors.torch import load_file, save_file
from torch import Tensor

from .task import Task, denoiser

COMFYUI = os.environ.get("OBSDIFF_COMFYUI", "")  # a PYTHONPATH: docs/clients.md
RUNNER = Path(__file__).parents[2] / "tests" / "support" / "comfyui_draw.py"
HEAD_SIZE = 64


def drawn_by_comfyui(file: Path, pipe: Any, task: Task, *, node: bool) -> Tensor:
    """Draw latents with ComfyUI's sampler.

    Args:
        file: the denoiser, of `obsdiff export --to comfyui` or `--to single-file`.
        pipe: the pipeline whose denoiser it is.
        task: what to draw.
        node: whether obsdiff's node opens the file, or ComfyUI's own loader.

    Returns:
        The latents as the denoiser has them, shape (prompts, channels, height, width).

    Raises:
        RuntimeError: ComfyUI stopped; the message ends with its error.
    """
    settings = settings_of(pipe) | {"steps": task.steps, "guidance": task.guidance, "node": node}
    with tempfile.TemporaryDirectory() as folder:
        inputs, output = (str(Path(folder, f"{name}.safetensors")) for name in ("inputs", "out"))
        save_file({"noise": task.noise} | task.texts, inputs, {"settings": json.dumps(settings)})
        done = subprocess.run(
            [sys.executable, str(RUNNER), str(file), inputs, output],
            env=os.environ | {"PYTHONPATH": COMFYUI},
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise RuntimeError(done.stderr[-3000:])
        return load_file(output)["latents"]


def settings_of(pipe: Any) -> dict[str, Any]:
    """ComfyUI's names of the model and sampler, and the numbers that are constants in it."""
    config = denoiser(pipe).config
    if isinstance(pipe, StableDiffusion3Pipeline):
        found = {
            "base": "SD3",
            "widths": {"in_channels": config.in_channels},
            "heads": {},
            "sampling": {"shift": pipe.scheduler.config.shift},
            "groups": None,
            "sampler": "euler",
            "scheduler": "normal",
        }
    else:
        found = {
            "base": "SD15",
            "widths": {
                "context_dim": config.cross_attention_dim,
                "model_channels": config.block_out_channels[0],
            },
            "heads": {"num_heads": -1, "num_head_channels": HEAD_SIZE},
            "sampling": {},
            "groups": config.norm_num_groups,
            "sampler": "ddim",
            "scheduler": "ddim_uniform",
        }
    return found | {"scale": pipe.vae.config.scaling_factor}
