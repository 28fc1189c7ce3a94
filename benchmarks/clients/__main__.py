"""Draw pruned folders of the built-in models with other programs, beside diffusers.

    OBSDIFF_COMFYUI=CHECKOUT:PACKAGES python -m benchmarks.clients [--prompts 4] [--calibration 8]

Each built-in model is pruned structured (20 %, heads and neurons) and 2:4, on a few prompts of ten
steps: what matters here is that programs agree, not how well the pictures are kept. All programs
get the same noise, the same prompts as diffusers' text encoders have them, and the model's own
number of steps and guidance; diffusers' VAE decodes. ComfyUI samples with its own code, and opens
the structured result by obsdiff's node, zeros by its own loader. ONNX Runtime and OpenVINO compute
the denoiser inside of diffusers' pipeline, of emoji-sd3 alone. results/clients.json has every
figure against diffusers, docs/clients.png the pictures. docs/clients.md says what is needed.
"""

import argparse
import json
import tempfile
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import StableDiffusion3Pipeline
from PIL.Image import Image
from torch import Tensor

import obsdiff
from obsdiff import builtin_path
from obsdiff.cli.main import main as command
from obsdiff.evaluation.metrics import relative_latent_error
from obsdiff.pipelines.builtin import BUILTINS, builtin_info
from obsdiff.pipelines.prompt_files import read_prompts

from ..conditions import RESULTS, conditions, model_version
from ..exported_speed import onnx_step, openvino_step
from ..picture_sheet import sheet
from .comfyui import COMFYUI, drawn_by_comfyui
from .sessions import drawn_by_session
from .task import Task, decoded, drawn_by_pipeline, end_like_comfyui_, task_of

PATTERNS = {
    "structured 20 %": ["--pattern", "structured", "--sparsity", "0.2"],
    "2:4": ["--pattern", "2:4"],
}
SHEET = Path(__file__).parents[2] / "docs" / "clients.png"
SIDE = 64
Drawer = Callable[[], Tensor]  # gives the latents


def main() -> None:
    """Prune, draw, compare, store."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--prompts", type=int, default=4, help="pictures of each model")
    parser.add_argument("--calibration", type=int, default=8, help="calibration prompts")
    args = parser.parse_args()
    rows: list[dict[str, Any]] = []
    pictures: list[tuple[str, str, list[Image]]] = []
    for model in BUILTINS:
        prompts = read_prompts(builtin_path(model) / "evaluation_prompts.txt")[: args.prompts]
        with tempfile.TemporaryDirectory() as folder:
            for row, drawn in measured(model, prompts, args.calibration, Path(folder)):
                rows.append(row)
                pictures.append((row["client"], f"{model}, {row['pattern']}", drawn))
                print(json.dumps(row), flush=True)
    found = {
        "conditions": conditions("benchmarks.clients"),
        "comfyui": comfyui_version(),
        "runtimes": {name: version(name) for name in ("onnx", "onnxruntime", "openvino")},
        "models": {model: model_version(model) for model in BUILTINS},
        "settings": vars(args),
        "rows": rows,
    }
    text = json.dumps(found, indent=1) + "\n"
    (RESULTS / "clients.json").write_text(text, encoding="utf-8")
    sheet(pictures, prompts, SIDE).quantize(256).save(SHEET, optimize=True)


def measured(
    model: str, prompts: list[str], calibration: int, folder: Path
) -> Iterator[tuple[dict[str, Any], list[Image]]]:
    """Give the row and the pictures of every program, diffusers' and the dense model's first."""
    dense = opened(model)
    settings = builtin_info(builtin_path(model))["settings"]
    task = task_of(dense, prompts, settings["num_inference_steps"], settings["guidance_scale"])
    row = {"model": model, "pattern": "dense", "client": "diffusers"}
    yield dict(row), decoded(dense, drawn_by_pipeline(dense, task))
    for pattern, flags in PATTERNS.items():
        pruned = folder / pattern.replace(" ", "-")
        few = ["--num-prompts", calibration, "--num-inference-steps", 10]
        run("prune", model, "--output", pruned, *flags, *few)
        pipe = opened(pruned)
        row |= {"pattern": pattern, "client": "diffusers"}
        wanted = drawn_by_pipeline(pipe, task)
        yield dict(row), (expected := decoded(pipe, wanted))
        for client, drawer in drawers(pipe, pruned, task, pattern == "2:4").items():
            found = drawer()
            drawn = decoded(pipe, found)
            yield row | {"client": client} | figures(found, wanted, drawn, expected), drawn


def opened(model: str | Path) -> Any:
    """Open a pipeline in float32, with an end of sampling that ComfyUI has, too."""
    pipe = obsdiff.load(model, dtype="float32")
    pipe.set_progress_bar_config(disable=True)
    end_like_comfyui_(pipe)
    return pipe


def run(*words: Any) -> None:
    """Run a command of obsdiff; RuntimeError if it fails."""
    if command([str(word) for word in words]):
        raise RuntimeError(f"obsdiff {' '.join(map(str, words))} failed")


def drawers(pipe: Any, pruned: Path, task: Task, zeros: bool) -> dict[str, Drawer]:
    """The programs that draw a pruned folder besides diffusers.

    Args:
        pipe: the pruned pipeline, in float32.
        pruned: its folder.
        task: what to draw.
        zeros: whether its shapes are dense.
    """
    file = pruned.with_suffix(".safetensors")
    name = "transformer" if isinstance(pipe, StableDiffusion3Pipeline) else "unet"
    form = ["single-file", "--component", name] if zeros else ["comfyui"]
    run("export", pruned, "--output", file, "--to", *form)
    found: dict[str, Drawer] = {
        "ComfyUI": lambda: drawn_by_comfyui(file, pipe, task, node=not zeros)
    }
    if name == "transformer":
        onnx = pruned.with_suffix(".onnx")
        onnx.mkdir()
        for runtime, open_file in (("ONNX Runtime", onnx_step), ("OpenVINO", openvino_step)):
            found[runtime] = lambda open_file=open_file: drawn_by_session(
                open_file, pipe, task, onnx
            )
    return found


def figures(
    found: Tensor, wanted: Tensor, drawn: list[Image], expected: list[Image]
) -> dict[str, float]:
    """How far latents and pictures are from diffusers'.

    Returns:
        `relative_latent_error`; `largest`, the largest difference of latents by the largest value;
        `levels`, the largest difference of a colour, of 255; `changed`, the share of colours that
        differ at all.
    """
    levels = np.abs(
        np.stack([np.asarray(p, dtype=int) for p in drawn])
        - np.stack([np.asarray(p, dtype=int) for p in expected])
    )
    return {
        "relative_latent_error": relative_latent_error(found, wanted)["value"],
        "largest": float((found - wanted).abs().max() / wanted.abs().max()),
        "levels": int(levels.max()),
        "changed": float((levels > 0).mean()),
    }


def comfyui_version() -> str:
    """The version that a checkout of ComfyUI states."""
    text = Path(COMFYUI.split(":")[0], "comfyui_version.py").read_text(encoding="utf-8")
    return text.split('"')[-2]


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
