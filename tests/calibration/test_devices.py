"""Where a calibration computes, and what is stored where there is room."""

from dataclasses import replace

import pytest
import torch

from obsdiff import PruningConfig, prune_
from obsdiff.calibration import devices
from obsdiff.calibration.calibration_set import CalibrationSet
from obsdiff.calibration.devices import computing_devices, device_rooms, waiting_bytes
from obsdiff.calibration.hooks import new_inputs
from obsdiff.calibration.packages import plan_packages
from obsdiff.calibration.plan import plan_pruning
from obsdiff.calibration.replay.recording import TensorCache
from obsdiff.models.linear_view import layer_shapes
from obsdiff.runtime.distributed import Ranks
from obsdiff.runtime.scratch import open_scratch

from ..conftest import PROMPTS, sd3
from ..support.contexts import context_of
from ..support.pretend_gpu import NAME, pretend_gpu
from ..support.sd3_alone import denoiser_alone

GPU = f"{NAME}:0"


def plan_of(pipe, **settings):
    config = PruningConfig(**{"num_prompts": 1, "num_inference_steps": 1} | settings)
    return plan_pruning(pipe, PROMPTS, config)


def test_a_calibration_computes_where_the_pipeline_runs():
    with pretend_gpu():
        pipe = sd3(1)
        layer = pipe.transformer.transformer_blocks[0].attn.to_q

        def computes(stored: str | None = None) -> torch.device:
            return computing_devices(pipe, [layer], stored)[0]

        assert computes().type == "cpu"
        assert computes(NAME).type == NAME
        pipe.enable_model_cpu_offload(device=NAME)
        assert layer.weight.device.type == "cpu"
        assert computes().type == computes("cpu").type == NAME
        alone = denoiser_alone(1)
        layer = alone.transformer.transformer_blocks[0].attn.to_q
        assert computing_devices(alone, [layer]) == [torch.device(GPU)]


def test_a_pipeline_is_asked_once_a_package_where_it_runs(monkeypatch):
    """Not once a layer: diffusers walks through all modules of all components to answer."""
    pipe, asked = sd3(3), []
    monkeypatch.setattr(devices, "execution_device", lambda pipe: asked.append(pipe) or pipe.device)
    small = {"num_prompts": 1, "num_inference_steps": 1, "height": 16, "width": 16}
    config = PruningConfig(calibration="live", packages=2, **small)
    report = prune_(pipe, PROMPTS, config, progress=False)
    assert 0 < len(asked) <= 3 < len(report.layers)


def test_the_room_of_a_device_is_what_is_free_less_what_is_needed_there():
    with pretend_gpu(memory=10**9) as counts:
        pipe = sd3(1).to(NAME)
        plan = plan_of(pipe)
        rooms = device_rooms(pipe, [plan], Ranks())
        assert rooms == {GPU: 10**9 - counts.held - 10**9 / 8}
        replayed = plan_of(pipe, calibration="replay", packages=1)
        less = device_rooms(pipe, [plan, replayed], Ranks())[GPU]
        assert rooms[GPU] - less == replayed.packages[0].bytes_there
    with pretend_gpu(memory=1000):
        assert device_rooms(denoiser_alone(1), [plan], Ranks()) == {GPU: 0}


def test_an_offload_needs_room_for_its_largest_model():
    with pretend_gpu(memory=10**9):
        pipe = sd3(1)
        largest = sum(p.nbytes for p in pipe.vae.parameters())
        largest = max(largest, sum(p.nbytes for p in pipe.transformer.parameters()))
        largest = max(largest, sum(p.nbytes for p in pipe.text_encoder.parameters()))
        pipe.enable_model_cpu_offload(device=NAME)
        assert waiting_bytes(pipe) == largest
        assert device_rooms(pipe, [plan_of(pipe)], Ranks()) == {GPU: 10**9 * 7 / 8 - largest}


def test_a_cpu_and_a_budget_have_no_room_of_their_own():
    pipe = sd3(1)
    assert device_rooms(pipe, [plan_of(pipe)], Ranks()) == {}
    with pretend_gpu():
        pipe = sd3(1).to(NAME)
        assert device_rooms(pipe, [plan_of(pipe, memory_budget_gib=1.0)], Ranks()) == {}


@pytest.mark.parametrize("budget", [None, 1.0])
def test_planned_hessians_are_those_of_a_run(budget):
    """In wide bands on a device that has room, in narrow ones on the host and with a budget."""
    config = PruningConfig(num_prompts=1, memory_budget_gib=budget)
    with pretend_gpu():
        pipe = denoiser_alone(1)
        wide_ffn_(pipe.transformer)
        for room in (0.0, 1e9):
            with context_of(pipe, CalibrationSet([{}], [0], {})) as context:
                (package,) = plan_packages(context.blocks, layer_shapes(pipe.transformer), config)
                assert package.bytes_there > package.hessian_bytes
                scratch = context.scratch
                scratch.devices.update({} if budget else {GPU: room})
                found = new_inputs(context, list(package.taps), scratch).values()
                there = bool(room and not budget)
                planned = package.bytes_there if there else package.hessian_bytes
                assert sum(i.hessian.packed.nbytes + i.hessian.x.nbytes for i in found) == planned
                assert (scratch.used_on.get(GPU, 0) if there else scratch.used) == planned


def wide_ffn_(model) -> None:
    """Give the only block an FFN that is wider than a narrow band."""
    ff = model.transformer_blocks[0].ff.net
    ff[0].proj = torch.nn.Linear(32, 600, device=NAME)
    ff[2] = torch.nn.Linear(600, 32, device=NAME)


def test_hessians_and_recordings_fill_the_device_then_the_host_then_files():
    with pretend_gpu(), context_of(denoiser_alone(1), CalibrationSet([{}], [0], {})) as context:
        taps = [tap for block in context.blocks for unit in block.units for tap in unit][:3]
        size = 4 * (32 * 32 + 32)
        with open_scratch(size, {GPU: size}) as scratch:
            found = list(new_inputs(context, taps, scratch).values())
            assert [each.hessian.packed.device.type for each in found] == [NAME, "cpu", "cpu"]
            assert (scratch.used, scratch.used_on, scratch.on_disk) == (size, {GPU: size}, size)
            assert {each.hessian.x.device.type for each in found} == {NAME}
        with open_scratch(40, {GPU: 40}) as scratch:
            cache = TensorCache(scratch)
            tensors = [torch.arange(10.0).to(NAME) + i for i in range(3)]
            kept = [cache.put(tensor) for tensor in tensors]
            assert (scratch.used, scratch.used_on, scratch.on_disk) == (40, {GPU: 40}, 40)
            for stored, tensor in zip(kept, tensors, strict=True):
                assert torch.equal(cache.get(stored), tensor)
                cache.drop(stored)
            assert (scratch.used, scratch.used_on, scratch.on_disk) == (0, {GPU: 0}, 0)


@pytest.mark.slow
@pytest.mark.parametrize("calibration", ["single", "replay"])
def test_a_full_device_prunes_as_one_with_room(calibration):
    masks = []
    for memory in (2**40, 10**6):
        with pretend_gpu(memory=memory) as counts:
            pipe = denoiser_alone(2)
            counts.clear()
            packages = None if calibration == "single" else 2
            config = PruningConfig(num_prompts=2, calibration=calibration, packages=packages)
            prune_(pipe, [{}] * 2, replace(config, seed=1), progress=False)
            layer = pipe.transformer.transformer_blocks[1].attn.to_q
            masks.append((layer.weight.detach() == 0).cpu())
            assert counts.own_products == 0
    assert (masks[0] == masks[1]).float().mean() > 0.99
