"""Prunings of the built-in models, and their masks."""

from collections.abc import Callable
from typing import Any

import torch

from obsdiff import builtin_path, prune_
from obsdiff.pipelines.folder import open_folder
from obsdiff.pipelines.load import load_pipeline
from obsdiff.pipelines.prompt_files import read_prompts


def pruned(
    model: str, device: Any, dtype: str | None, config: Any, prepare: Callable | None = None
) -> tuple[Any, Any]:
    """Open a built-in pipeline and prune it.

    Args:
        model: the name of the built-in model.
        device: where it is opened.
        dtype: the dtype it is opened in; None for the stored one.
        config: the settings.
        prepare: called with the pipeline before the pruning.

    Returns:
        The pipeline and its report.
    """
    folder = builtin_path(model)
    pipe, _ = load_pipeline(open_folder(folder), dtype, str(device))
    if prepare:
        prepare(pipe)
    prompts = read_prompts(folder / "calibration_prompts.txt")
    return pipe, prune_(pipe, prompts, config, progress=False)


def masks(pipe: Any, report: Any) -> dict[str, torch.Tensor]:
    """The masks of the kept weights of every pruned layer, on the CPU."""
    denoiser = getattr(pipe, report.component)
    return {r.name: (denoiser.get_submodule(r.name).weight != 0).cpu() for r in report.layers}


def difference(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> float:
    """The share of mask entries that differ."""
    return sum(int((a[k] != b[k]).sum()) for k in a) / sum(v.numel() for v in a.values())
