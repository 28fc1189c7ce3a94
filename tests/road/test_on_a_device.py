"""Whole prunings on a pretend accelerator: no mixing of devices, no product on the CPU."""

from collections.abc import Iterable
from typing import Any

import pytest
import torch

from obsdiff import PruningConfig, prune_
from obsdiff.calibration.calibration_set import CalibrationSet
from obsdiff.calibration.call_audit import CallAudit
from obsdiff.calibration.hooks import calibrate, new_inputs, tapped
from obsdiff.calibration.packed_layout import band_rows, wide_band
from obsdiff.calibration.replay.run import record_trajectory
from obsdiff.models.linear_view import matrix
from obsdiff.pipelines.record import PruningReport

from ..conftest import PROMPTS, flux, sd, sd3
from ..support.contexts import context_of
from ..support.device_counts import LIBRARY
from ..support.lanes import first_quick, slow
from ..support.pretend_gpu import NAME, pretend_gpu
from ..support.pretend_offload import group_offloading
from ..support.sd3_alone import denoiser_alone

pytestmark = [
    pytest.mark.filterwarnings("ignore"),
    pytest.mark.skipif(
        not hasattr(torch.utils.backend_registration, "_setup_privateuseone_for_python_backend"),
        reason="this torch has no devices in Python",
    ),
]

STRUCTURED = {"pattern": "structured", "keep_first_last": False, "round_to": 1}
REPLAY = {"calibration": "replay", "packages": 2, "blocks": "0-1"}
ONE = {"include": "*.ff.net.2"}
# how many heads and neurons each group loses, from a few numbers a group
ON_THE_HOST = ("allocation/prices.py", "allocation/group_curves.py")
SENSITIVITY = {"allocation": "sensitivity", "allocation_prompts": 2}
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
    "wanda, swaps": {"method": "wanda", "refine": "swaps", "include": ("*.to_q", "*.net.2")},
    "dsnot": {"method": "dsnot"},
    "dsnot 2:4": {"method": "dsnot", "pattern": "2:4"},
    "magnitude": {"method": "magnitude"},
    "structured": STRUCTURED,
    "structured replay": STRUCTURED | REPLAY,
    "structured l1": STRUCTURED | {"method": "l1"},
    "structured random, lstsq": STRUCTURED | {"method": "random", "refine": "lstsq"},
    "authors' ranking": STRUCTURED | {"ranking": "authors"},
    "8 bits": ONE | {"bits": 8, "group_size": 32},
    "4 bits, all layers": ONE | {"bits": 4, "group_size": 32, "round_layers": "all"},
    "nearest, structured": STRUCTURED | {"bits": 8, "group_size": 32, "rounding": "nearest"},
    "low rank": ONE | {"low_rank": 0.1},
    "low rank, bits": ONE | {"low_rank": 0.1, "bits": 8, "group_size": 32},
    "owl": {"allocation": "owl"},
    "drawn": {"allocation": "drawn", "allocation_prompts": 1},
}
# Hessians, weights or both rest elsewhere than on the device
ON_HOST = {"offload_device": "cpu"}
IN_FILES = {"memory_budget_gib": 0.0003}
ELSEWHERE: dict[str, dict[str, Any]] = {
    "host": ON_HOST,
    "host, replay": ON_HOST | REPLAY,
    "host, asymmetric": ON_HOST | REPLAY | {"asymmetric": True},
    "host, held-out": ON_HOST | {"held_out": 1, "correct_bias": True},
    "host, alps": ON_HOST | {"method": "alps"},
    "host, structured": ON_HOST | STRUCTURED,
    "host, permuted 2:4": ON_HOST | {"pattern": "2:4", "permute": True, "blocks": "1"},
    "files": IN_FILES,
    "files, wanda": IN_FILES | {"method": "wanda"},
}
OFFLOADED: dict[str, dict[str, Any]] = {
    "obs": {},
    "Hessians on the device": {"offload_device": NAME},
    "Hessians on the host": ON_HOST,
    "replay": REPLAY,
    "asymmetric": REPLAY | {"asymmetric": True},
    "dsnot": {"method": "dsnot"},
    "held-out": {"held_out": 1, "correct_bias": True},
    "structured l1, lstsq": STRUCTURED | {"method": "l1", "refine": "lstsq"},
    "structured": STRUCTURED,
    "alpha": {"allocation": "alpha"},
    "sensitivity": SENSITIVITY,
}
BY_BLOCK: dict[str, dict[str, Any]] = {
    "obs": {},
    "replay": REPLAY,
    "drawn": {"allocation": "drawn", "allocation_prompts": 1, "include": "*.attn.to_q"},
    "sensitivity": SENSITIVITY,
}
QUICK = {"obs", "replay", "structured", "2:4", "owl", "host", "files, wanda"}


def settings(**changes: Any) -> PruningConfig:
    return PruningConfig(**{"num_prompts": 2, "blocks": "0", "seed": 0} | changes)


def require_as_recorded(pipe: Any, report: PruningReport) -> None:
    """Check the zeros, or the columns, of every layer of a record in the model."""
    for row in report.layers:
        weight = matrix(pipe.transformer.get_submodule(row.name))
        if report.groups:
            assert weight.shape[1] == round(row.shape[1] * (1 - row.sparsity))
        else:
            assert (weight == 0).float().mean().item() == pytest.approx(row.sparsity, abs=1e-6)
            assert row.sparsity > 0.1


def some(cases: Iterable[str]) -> list[Any]:
    return [name if name in QUICK else slow(name) for name in cases]


@pytest.mark.parametrize("name", some(CASES))
@pytest.mark.slow
def test_everything_runs_on_the_device(name):
    with pretend_gpu() as counts:
        pipe = denoiser_alone()
        counts.clear()
        report = prune_(pipe, [{}] * 3, settings(**CASES[name]), progress=False)
        assert {p.device.type for p in pipe.transformer.parameters()} == {NAME}
        require_as_recorded(pipe, report)
    assert counts.own_products == 0, counts.host_products


@pytest.mark.parametrize("name", some(ELSEWHERE))
@pytest.mark.slow
def test_products_are_on_the_device_wherever_hessians_rest(name):
    with pretend_gpu() as counts:
        pipe = denoiser_alone()
        counts.clear()
        report = prune_(pipe, [{}] * 3, settings(**ELSEWHERE[name]), progress=False)
        require_as_recorded(pipe, report)
    assert counts.own_products == 0, counts.host_products


@pytest.mark.parametrize("name", some(OFFLOADED))
@pytest.mark.slow
def test_weights_that_rest_on_the_host_are_pruned_on_the_device(name):
    with pretend_gpu() as counts:
        pipe = sd3(2)
        pipe.enable_model_cpu_offload(device=NAME)
        config = settings(num_inference_steps=2, height=16, width=16, **OFFLOADED[name])
        report = prune_(pipe, PROMPTS, config, progress=False)
        require_as_recorded(pipe, report)
    assert counts.own_products == 0, counts.host_products


@pytest.mark.parametrize("name", some(BY_BLOCK))
@pytest.mark.slow
def test_blocks_that_come_to_the_device_in_turn_are_pruned_there(name):
    with pretend_gpu() as counts, group_offloading():
        pipe = sd3(2)
        small = {"num_inference_steps": 1, "height": 16, "width": 16}
        config = settings(device=NAME, offload="group", **small | BY_BLOCK[name])
        report = prune_(pipe, PROMPTS, config, progress=False)
        require_as_recorded(pipe, report)
        assert {p.device.type for p in pipe.transformer.parameters()} == {"cpu"}
    assert counts.own_products == 0, counts.host_products


@pytest.mark.slow
def test_the_same_weights_are_pruned_wherever_hessians_rest():
    """Of emptied places: the sums are added in another order, so a few may differ."""
    found = []
    for changes in ({}, ON_HOST, IN_FILES):
        with pretend_gpu():
            pipe = denoiser_alone()
            prune_(pipe, [{}] * 3, settings(**changes), progress=False)
            layer = pipe.transformer.transformer_blocks[0].attn.to_q
            found.append((matrix(layer) == 0).cpu())
    assert all((other == found[0]).float().mean() > 0.99 for other in found[1:])


@pytest.mark.parametrize("changes", [{}, slow(SENSITIVITY), slow(SENSITIVITY | STRUCTURED)])
def test_a_whole_pipeline_runs_on_the_device(changes):
    with pretend_gpu() as counts:
        pipe = sd3(2 if changes else 1).to(NAME)
        config = settings(num_inference_steps=2, height=16, width=16, **changes)
        require_as_recorded(pipe, prune_(pipe, PROMPTS, config, progress=False))
    places = [place for place in counts.host_products if not place.startswith(ON_THE_HOST)]
    assert not places


@pytest.mark.parametrize(
    ("make", "offloaded", "changes"),
    [
        (sd, False, {"target": "conv", "method": "wanda"}),
        (sd, True, STRUCTURED | {"target": "conv"}),
        (flux, True, {"method": "wanda", "blocks": "2"}),
    ],
)
@pytest.mark.slow
def test_other_models_run_on_the_device(make, offloaded, changes):
    small = {"num_prompts": 1, "num_inference_steps": 1, "height": 16, "width": 16}
    with pretend_gpu() as counts:
        pipe = make()
        if offloaded:
            pipe.enable_model_cpu_offload(device=NAME)
        else:
            pipe.to(NAME)
        report = prune_(pipe, PROMPTS, PruningConfig(**small | changes), progress=False)
        assert report.layers
    assert counts.own_products == 0, counts.host_products


@pytest.mark.parametrize("double", [True, False])
@pytest.mark.parametrize(
    "changes",
    [
        {"pattern": "depth", "sparsity": 0.3, "num_prompts": 4, "allocation_prompts": 2},
        ONE | {"modulation": "60%", "unfoldable": "keep"},
    ],
)
@pytest.mark.slow
def test_blocks_leave_and_modulation_is_folded_on_the_device(changes, double):
    small = {"num_prompts": 2, "num_inference_steps": 2, "height": 16, "width": 16}
    with pretend_gpu(double=double) as counts:
        pipe = sd3().to(NAME)
        report = prune_(pipe, PROMPTS, PruningConfig(**small | changes), progress=False)
        assert report.depth or report.modulation
        assert {p.device.type for p in pipe.transformer.parameters()} == {NAME}
    if double:
        assert counts.own_products == 0, counts.host_products


@pytest.mark.parametrize(
    "name",
    first_quick(
        [
            *("obs", "replay", "asymmetric", "permuted 2:4", "structured", "owl", "held-out"),
            *("8 bits", "4 bits, all layers", "low rank", "authors' ranking", "wanda, swaps"),
        ],
    ),
)
@pytest.mark.slow
def test_a_device_without_float64(name):
    with pretend_gpu(double=False):
        pipe = denoiser_alone()
        require_as_recorded(pipe, prune_(pipe, [{}] * 3, settings(**CASES[name]), progress=False))


@pytest.mark.slow
def test_a_calibration_waits_for_the_device_once_a_call():
    """Once more a prompt, for its latents; a recording looks once more for repeated inputs."""
    drawn = CalibrationSet([{}] * 3, [0, 1, 2], {}, 1)
    with pretend_gpu() as counts, context_of(denoiser_alone(), drawn) as context:
        taps = [tap for block in context.blocks for unit in block.units for tap in unit]
        for gather, each in ((calibrate, 1), (record_trajectory, 2)):
            counts.clear()
            gather(context, taps)
            once = (LIBRARY, "calibration/replay/segments.py")
            own = sum(n for (_, at), n in counts.waits.items() if not at.startswith(once))
            assert own <= 3 * 2 * each + 3, counts.waits


@pytest.mark.slow
def test_launches_of_a_call_at_the_size_of_sd3_medium():
    """At most 1,000 of ours: 142 taps of 1,536 columns, 47 of 6,144. Counted on two small blocks,
    with the launches of wider sums in the place of one."""
    drawn = CalibrationSet([{}] * 2, [0, 1], {}, 1, tokens_per_column=0.1)
    with pretend_gpu() as counts:
        pipe = denoiser_alone(dtype=torch.bfloat16)
        with context_of(pipe, drawn) as context:
            context.scratch.devices[f"{NAME}:0"] = 1e9
            taps = [tap for block in context.blocks for unit in block.units for tap in unit]
            inputs = new_inputs(context, taps)
            with tapped(context, inputs, CallAudit()):
                context.run.latents([{}], [0], {})  # tries what the device can
            with tapped(context, inputs, CallAudit()):
                counts.clear()
                context.run.latents([{}], [1], {})
    hooks = ("calibration/", "models/linear_view")
    own = [n for place, n in counts.launches.items() if place.startswith(hooks)]
    taps_called = 2 * len(taps)
    each = sum(n // taps_called for n in own) - 1
    of_calls = sum(n % taps_called for n in own) / 2
    assert each == 3
    assert of_calls <= 8
    bands = {columns: len(list(band_rows(columns, wide_band(columns)))) for columns in (1536, 6144)}
    assert 142 * (each + bands[1536]) + 47 * (each + bands[6144]) + of_calls <= 1000
