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
from .portable import keep_all
from .rows import Row, Rows, dense_row, live, row_of

SEEDS = (0, 1, 2)
GROUP = 64
ROUNDS = 15
PROMPTS = 100  # where modulation reads text, its error falls with every prompt
SMALL: dict[str, Row] = {
    f"small {share:.0%}": {"preset": "small", "sparsity": share} for share in (0.0, 0.1, 0.2, 0.3)
}
EIGHT = {"sparsity": 0, "bits": 8, "round_layers": "all"}
UNFOLDED: dict[str, Row] = {"8 bits": EIGHT, "8 bits, groups of 128": EIGHT | {"group_size": 128}}
BEST: dict[str, Row] = {
    f"best {share:.0%}": {"preset": "best", "pattern": "structured", "sparsity": share}
    for share in (0.2, 0.5)
}
FFN = "small 20%, FFNs alone"
# the share of the parameters that is left without the heads and neurons of small 20%
LEFT = {"emoji-sd3": 0.9335, "emoji-unet": 0.911}
TORCHAO = ("dense + int8 by torchao", "dense + int4 by torchao")
DENSE = "dense"


def small(lab: Lab, rows: Rows) -> None:
    """Measure dense, torchao's, then every pruning with every calibration set; times at the end."""
    rows.keep(DENSE, lambda: dense_row(lab) | {"stored_bytes": saved_and_opened(lab, lab.dense)[1]})
    for name in TORCHAO:
        rows.keep(name, lambda name=name: torchao_row(lab, bits_of(name)))
    for seed in SEEDS:
        named = {f"{name}, seed {seed}": c for name, c in configs(lab, seed).items()}
        narrow = {name: named.pop(name) for name in [f"{FFN}, seed {seed}"]}
        for part in (named, narrow):  # a dense pass has one target
            keep_all(lab, rows, part, compressed_row)
    for name in TORCHAO:
        opened = partial(opened_by_torchao, lab, bits_of(name), torch.float32)
        rows.keep(time_of(name), lambda opened=opened: step_times(lab, opened()))
    timed = {
        time_of(name): config
        for name, config in configs(lab, SEEDS[0]).items()
        if name not in (*UNFOLDED, FFN)  # such steps make as many weights dense as others here
    }
    keep_all(lab, rows, timed, timed_row)


def configs(lab: Lab, seed: int) -> dict[str, PruningConfig]:
    """The prunings of one calibration set."""
    shared = lab.settings | {"num_prompts": PROMPTS, "seed": seed}
    narrow = {"preset": "small", "target": "ffn", "target_parameters": LEFT[lab.model]}
    ways = BEST | SMALL | UNFOLDED | {FFN: narrow}
    return {name: PruningConfig(**settings, **shared) for name, settings in ways.items()}


def time_of(name: str) -> str:
    """Return the name of the row with the time of a way, which wants a machine at rest."""
    return f"time of {name}"


def bits_of(name: str) -> int:
    """Return the bits of a way of torchao."""
    return 8 if "int8" in name else 4


def compressed_row(lab: Lab, config: PruningConfig, dense: DensePass | None = None) -> Row:
    """Prune, round and fold, then measure, with bytes."""
    denoiser, report = live(lab, config, dense)
    return row_of(lab, config, denoiser, report.layers, report.groups) | {
        "stored_bytes": saved_and_opened(lab, denoiser)[1],
        "folded": len(report.modulation.get("layers", [])),
        "warnings": report.warnings,
    }


def timed_row(lab: Lab, config: PruningConfig, dense: DensePass | None = None) -> Row:
    """Prune, round and fold, save and open, then time a step."""
    return step_times(lab, saved_and_opened(lab, live(lab, config, dense)[0])[0])


def torchao_row(lab: Lab, bits: int) -> Row:
    """Round the dense denoiser by torchao alone, and measure it."""
    model = opened_by_torchao(lab, bits, torch.float32)
    with tempfile.TemporaryDirectory() as folder:
        opened_by_torchao(lab, bits, torch.float16).save_pretrained(folder)
        stored = bytes_in(Path(folder))
    return {
        "cost": lab.cost(lab.dense),
        "metrics": lab.figures(model),
        REPORTED[1]: {"relative_latent_error": lab.error_of(model, "held_out")},
        "stored_bytes": stored,
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


def saved_and_opened(lab: Lab, denoiser: torch.nn.Module) -> tuple[torch.nn.Module, int]:
    """A denoiser as opened from what it was saved to, in half precision, and its bytes there."""
    with tempfile.TemporaryDirectory() as folder:
        saved: Any = copy.deepcopy(denoiser).half()
        with stored_in_bits(saved):
            saved.save_pretrained(folder)
        return type(saved).from_pretrained(folder, torch_dtype=torch.float32), bytes_in(
            Path(folder)
        )


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
