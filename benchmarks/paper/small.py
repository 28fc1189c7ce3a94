"""Ours: what `small` costs, bytes and time against error, beside structured pruning and
what a user would take instead, the dense model with weights of 8 or 4 bits by torchao.

Three sets of calibration prompts and noises.

Bytes and time are those of a denoiser that was saved and opened again, in half precision on disk.
"""

import copy
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import torch

from obsdiff import PruningConfig
from obsdiff.calibration.gather import DensePass
from obsdiff.pipelines.low_bits import INT4, stored_in_bits
from obsdiff.pipelines.run import denoiser_call
from obsdiff.runtime.timing import compared, interleaved

from .lab import REPORTED, Lab
from .portable import PROMPTS, keep_all
from .rows import Row, Rows, dense_row, live, row_of

SEEDS = (0, 1, 2)
GROUP = 64
ROUNDS = 15
SMALL: dict[str, Row] = {
    f"small {share:.0%}": {"preset": "small", "sparsity": share} for share in (0.0, 0.1, 0.2, 0.3)
}
BEST: dict[str, Row] = {
    f"best {share:.0%}": {"preset": "best", "pattern": "structured", "sparsity": share}
    for share in (0.2, 0.5)
}
TORCHAO = ("dense + int8 by torchao", "dense + int4 by torchao")
DENSE = "dense"


def small(lab: Lab, rows: Rows) -> None:
    """Measure dense, torchao's, then every pruning with every calibration set."""
    rows.keep(DENSE, lambda: dense_row(lab) | measured_on_disk(lab, lab.dense))
    for name in TORCHAO:
        rows.keep(name, lambda name=name: torchao_row(lab, 8 if "int8" in name else 4))
    for seed in SEEDS:
        shared = lab.settings | {"num_prompts": PROMPTS[lab.model], "seed": seed}
        configs = {
            f"{name}, seed {seed}": PruningConfig(**settings, **shared)
            for name, settings in (BEST | SMALL).items()
        }
        keep_all(lab, rows, configs, compressed_row)


def compressed_row(lab: Lab, config: PruningConfig, dense: DensePass | None = None) -> Row:
    """Prune, round and fold, then measure, with bytes and time."""
    denoiser, report = live(lab, config, dense)
    return (
        row_of(lab, config, denoiser, report.layers, report.groups)
        | measured_on_disk(lab, denoiser)
        | {"folded": len(report.modulation.get("layers", [])), "warnings": report.warnings}
    )


def torchao_row(lab: Lab, bits: int) -> Row:
    """Round the dense denoiser by torchao alone, and measure it."""
    model = opened_by_torchao(lab, bits, torch.float32)
    held_out, name = lab.error_of(model, "held_out"), "relative_latent_error"
    with tempfile.TemporaryDirectory() as folder:
        opened_by_torchao(lab, bits, torch.float16).save_pretrained(folder)
        stored = bytes_in(Path(folder))
    return {
        "cost": lab.cost(lab.dense),
        "metrics": lab.figures(model),
        REPORTED[1]: {name: held_out},
        "stored_bytes": stored,
        "step": step_times(lab, model),
    }


def opened_by_torchao(lab: Lab, bits: int, dtype: torch.dtype) -> Any:
    """Open the dense denoiser as diffusers does with torchao's weight-only settings.

    Layers whose inputs a group does not divide, which torchao refuses, are left out.
    """
    from diffusers import TorchAoConfig
    from torchao.quantization import Int8WeightOnlyConfig, IntxWeightOnlyConfig, PerGroup

    way = (
        Int8WeightOnlyConfig()
        if bits == 8
        else IntxWeightOnlyConfig(weight_dtype=INT4, granularity=PerGroup(GROUP))
    )
    odd = [] if bits == 8 else [name for name, (_, n) in lab.shapes.items() if n % GROUP]
    return type(lab.dense).from_pretrained(
        lab.path,
        subfolder=lab.component,
        quantization_config=TorchAoConfig(way, modules_to_not_convert=odd),
        torch_dtype=dtype,
    )


def measured_on_disk(lab: Lab, denoiser: torch.nn.Module) -> Row:
    """Save a denoiser in half precision; its bytes, and the time of a step once opened again."""
    with tempfile.TemporaryDirectory() as folder:
        saved: Any = copy.deepcopy(denoiser).half()
        with stored_in_bits(saved):
            saved.save_pretrained(folder)
        opened = type(saved).from_pretrained(folder, torch_dtype=torch.float32)
        return {"stored_bytes": bytes_in(Path(folder)), "step": step_times(lab, opened)}


def bytes_in(folder: Path) -> int:
    """Bytes of the weight files of a folder."""
    return sum(file.stat().st_size for file in folder.glob("*.safetensors"))


def step_times(lab: Lab, denoiser: torch.nn.Module) -> Row:
    """Time one step of one picture, dense and compressed in turn."""
    prompt = lab.sets["evaluation"][0]
    call = denoiser_call(lab.pipe, lab.dense, prompt, lab.settings)
    models = {"dense": lab.dense, "pruned": denoiser.eval()}
    with torch.no_grad():
        seconds = interleaved(
            {name: partial(model, **call) for name, model in models.items()}, ROUNDS, warmup=2
        )
    return compared(seconds, "pruned", "dense")
