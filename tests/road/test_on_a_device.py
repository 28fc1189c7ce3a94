"""Whole prunings on a pretend accelerator: no mixing of devices, no product on the CPU."""

from typing import Any

import pytest
import torch
from torch import Tensor

from obsdiff import PruningConfig, prune_
from obsdiff.models.linear_view import matrix

from ..conftest import PROMPTS, sd3
from ..support.direct import DirectPipeline
from ..support.lanes import slow
from ..support.pretend_gpu import NAME, pretend_gpu

pytestmark = [
    pytest.mark.filterwarnings("ignore"),
    pytest.mark.skipif(
        not hasattr(torch.utils.backend_registration, "_setup_privateuseone_for_python_backend"),
        reason="this torch has no devices in Python",
    ),
]

STRUCTURED = {"pattern": "structured", "keep_first_last": False, "round_to": 1}
REPLAY = {"calibration": "replay", "packages": 2, "blocks": "0-1"}
CASES: dict[str, dict[str, Any]] = {
    "obs": {},
    "live": REPLAY | {"calibration": "live"},
    "replay": REPLAY,
    "asymmetric": REPLAY | {"asymmetric": True},
    "every token": {"tokens_per_column": "all"},
    "few tokens": {"tokens_per_column": 0.1},
    "held-out": {"held_out": 1, "choose_damping": True, "correct_bias": True},
    "2:4": {"pattern": "2:4"},
    "permuted 2:4": {"pattern": "2:4", "permute": True},
    "alps": {"method": "alps"},
    "alps 2:4": {"method": "alps", "pattern": "2:4"},
    "wanda": {"method": "wanda"},
    "wanda, lstsq": {"method": "wanda", "refine": "lstsq"},
    "wanda, swaps": {"method": "wanda", "refine": "swaps"},
    "dsnot": {"method": "dsnot"},
    "dsnot 2:4": {"method": "dsnot", "pattern": "2:4"},
    "magnitude": {"method": "magnitude"},
    "structured": STRUCTURED,
    "structured replay": STRUCTURED | REPLAY,
    "structured l1": STRUCTURED | {"method": "l1"},
    "structured random, lstsq": STRUCTURED | {"method": "random", "refine": "lstsq"},
    "owl": {"allocation": "owl"},
    "drawn": {"allocation": "drawn", "allocation_prompts": 1},
}
SLOW = {"alps", "held-out", "permuted 2:4", "alps 2:4", "wanda, swaps", "drawn"}


def arguments() -> dict[str, Tensor]:
    """The arguments of one call of the denoiser, on the device."""
    return {
        "hidden_states": torch.randn(1, 4, 8, 8, device=NAME),
        "encoder_hidden_states": torch.randn(1, 6, 32, device=NAME),
        "pooled_projections": torch.randn(1, 32, device=NAME),
        "timestep": torch.full((1,), 500.0, device=NAME),
    }


def denoiser_alone() -> DirectPipeline:
    """Two blocks of SD3 on the device, without text encoders."""
    return DirectPipeline(sd3(2).transformer.to(NAME), arguments)


def settings(**changes: Any) -> PruningConfig:
    return PruningConfig(**{"num_prompts": 2, "blocks": "0", "seed": 0} | changes)


def zeros(pipe: Any, layer: str) -> float:
    return (matrix(pipe.transformer.get_submodule(layer)) == 0).float().mean().item()


@pytest.mark.parametrize("name", [slow(name) if name in SLOW else name for name in CASES])
def test_everything_runs_on_the_device(name):
    config = settings(**CASES[name])
    with pretend_gpu() as counts:
        pipe = denoiser_alone()
        counts.clear()
        report = prune_(pipe, [{}] * 3, config, progress=False)
        assert {p.device.type for p in pipe.transformer.parameters()} == {NAME}
        if config.pattern != "structured":
            found = [zeros(pipe, row.name) for row in report.layers]
            assert found == pytest.approx([row.sparsity for row in report.layers], abs=1e-6)
            assert min(found) > 0.1
    assert counts.own_products == 0, counts.host_products


def test_a_whole_pipeline_runs_on_the_device():
    with pretend_gpu() as counts:
        pipe = sd3(1).to(NAME)
        config = settings(num_inference_steps=2, height=16, width=16)
        report = prune_(pipe, PROMPTS, config, progress=False)
        assert zeros(pipe, report.layers[0].name) == pytest.approx(0.5, abs=1e-6)
    assert counts.own_products == 0, counts.host_products
