"""Whole pictures by other programs: the latents that diffusers draws from the same pruned weights.

ComfyUI's runs are skipped unless OBSDIFF_COMFYUI names a checkout (docs/clients.md), those of ONNX
Runtime unless onnx, onnxscript and onnxruntime are installed.
"""

import pytest
import torch

import obsdiff
from benchmarks.clients.comfyui import COMFYUI, drawn_by_comfyui
from benchmarks.clients.sessions import drawn_by_session
from benchmarks.clients.task import denoiser, drawn_by_pipeline, end_like_comfyui_, task_of
from benchmarks.exported_speed import onnx_step
from obsdiff.cli.main import main
from obsdiff.models.discovery import find_blocks
from obsdiff.models.linear_view import layer_shapes
from obsdiff.models.pruned_classes import lacks_heads

from ..support.cut_heads import cut_

STEPS, PROMPTS = 4, ["red apple, noto style", "snowman, blob style"]
needs_comfyui = pytest.mark.skipif(
    not COMFYUI, reason="OBSDIFF_COMFYUI names no checkout of ComfyUI"
)
pytestmark = pytest.mark.slow


def opened(model: str):
    """A built-in model and what to draw with it."""
    pipe = obsdiff.load(model, dtype="float32")
    end_like_comfyui_(pipe)
    return pipe, task_of(pipe, PROMPTS, STEPS, guidance=4.0)


def without_heads_(pipe) -> None:
    """Take a head from every attention and a neuron from every FFN of the denoiser."""
    model = denoiser(pipe)
    cut_(model, "heads", "neurons")
    assert lacks_heads(model)
    pipe.register_modules(**{name_of(pipe): model})


def zeroed_(pipe) -> None:
    """Set half of the weights of the linear layers that obsdiff prunes to zero."""
    model = denoiser(pipe)
    with torch.no_grad():
        for block in find_blocks(layer_shapes(model)):
            for layer in block.layers:
                model.get_submodule(layer).weight[:, ::2] = 0


def name_of(pipe) -> str:
    return "transformer" if hasattr(pipe, "transformer") else "unet"


def assert_close(found: torch.Tensor, expected: torch.Tensor) -> None:
    assert (found - expected).abs().max() <= 1e-4 * expected.abs().max()


@needs_comfyui
@pytest.mark.parametrize("model", ["emoji-sd3", "emoji-unet"])
@pytest.mark.parametrize("way", ["without heads", "zeros"])
def test_comfyui_draws_what_diffusers_draws(model, way, tmp_path):
    pipe, task = opened(model)
    dense = drawn_by_pipeline(pipe, task)
    (without_heads_ if way == "without heads" else zeroed_)(pipe)
    pipe.save_pretrained(tmp_path / "cut")
    file = tmp_path / "cut.safetensors"
    form = ["comfyui"] if way == "without heads" else ["single-file", "--component", name_of(pipe)]
    words = ["export", str(tmp_path / "cut"), "--output", str(file), "--to", *form]
    assert main(words) == 0
    expected = drawn_by_pipeline(pipe, task)
    assert (expected - dense).abs().max() > 0.1
    assert_close(drawn_by_comfyui(file, pipe, task, node=way == "without heads"), expected)


def test_onnx_runtime_draws_what_diffusers_draws(tmp_path):
    for name in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(name)
    pipe, task = opened("emoji-sd3")
    without_heads_(pipe)
    expected = drawn_by_pipeline(pipe, task)
    assert_close(drawn_by_session(onnx_step, pipe, task, tmp_path), expected)
