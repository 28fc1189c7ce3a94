"""Draw with the denoiser in ONNX Runtime or OpenVINO, called by diffusers' pipeline."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.exported_speed import INPUTS, Step, exported

from .task import Task, drawn_by_pipeline

Open = Callable[[Path], Callable[[list[Any]], Tensor]]  # a file -> a call of it


def drawn_by_session(open_file: Open, pipe: Any, task: Task, folder: Path) -> Tensor:
    """Export an SD3's denoiser as ONNX, and draw latents with a session in its place.

    Args:
        open_file: opens the file in a runtime.
        pipe: a StableDiffusion3Pipeline in float32.
        task: what to draw.
        folder: where the file is written.

    Returns:
        The latents as the denoiser has them, shape (prompts, channels, height, width).
    """
    texts = task.text(0)
    pairs = [
        torch.cat([texts[f"negative_{name}"], texts[name]])
        for name in ("prompt_embeds", "pooled_prompt_embeds")
    ]
    example = [task.noise[:1].repeat(2, 1, 1, 1), *pairs, torch.tensor([500.0, 500.0])]
    call = open_file(exported(Step(pipe.transformer).eval(), example, folder))
    with in_place(pipe.transformer, call):
        return drawn_by_pipeline(pipe, task)


@contextmanager
def in_place(model: torch.nn.Module, call: Callable[[list[Any]], Tensor]) -> Iterator[None]:
    """Let a call of a file stand for the model's forward for a while."""

    def forward(**given: Any) -> tuple[Tensor]:
        return (call([given[name].float().numpy() for name in INPUTS]),)

    model.forward = forward
    try:
        yield
    finally:
        del model.forward
