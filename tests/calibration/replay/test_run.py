"""Replay against its definition: the recorded denoiser calls, each through the whole model as it is then."""

import copy

import pytest
import torch

from obsdiff import prune_
from obsdiff.calibration.hooks import calibrate
from obsdiff.calibration.packages import plan_packages
from obsdiff.calibration.replay.recording import TensorCache
from obsdiff.calibration.replay.run import record_trajectory, replay_packages
from obsdiff.calibration.selection import select, select_groups
from obsdiff.config import PruningConfig
from obsdiff.errors import CalibrationError
from obsdiff.layerwise.structured import prune_groups_
from obsdiff.models.discovery import find_blocks
from obsdiff.models.linear_view import layer_shapes
from obsdiff.pipelines.run import prepared
from obsdiff.runtime.scratch import open_scratch
from tests.calibration.test_hooks import calibration_set, denoiser_of

from ...conftest import flux, sd, sd3
from ...coverage_of_models import build
from ...support.direct import DirectPipeline

MAKERS = [sd3, lambda: sd3(dual=(0, 1)), sd, flux]


def hooks(model: torch.nn.Module) -> int:
    """How much hangs on a model's modules: hooks, and forwards of their own."""
    return sum(
        len(m._forward_pre_hooks) + len(m._forward_hooks) + ("forward" in vars(m))
        for m in model.modules()
    )


def replay_all(
    pipe, packages: int, change, room: float = 1e9, pruning_plan=None, wanted: str | None = None
):
    """{layer: Hessian} of every package by replay; change(package) stands for pruning it. Also the inputs of the recorded calls."""
    denoiser, found = denoiser_of(pipe), {}
    before = hooks(denoiser)
    linears = layer_shapes(denoiser)
    blocks, config = (
        find_blocks(linears),
        PruningConfig(packages=packages, calibration="replay", blocks=wanted),
    )
    plans = plan_packages(blocks, linears, config)
    with open_scratch(room) as scratch, prepared(pipe) as run:
        cache = TensorCache(scratch)
        trajectory, first = record_trajectory(
            run,
            denoiser,
            blocks,
            list(plans[0].taps),
            pruning_plan or calibration_set(height=16, width=16),
            cache,
            None,
            lambda n: None,
        )
        inputs = [cache.get_all(call.inputs) for call in trajectory.recording.calls]
        later = replay_packages(
            run,
            denoiser,
            trajectory,
            plans,
            pruning_plan or calibration_set(height=16, width=16),
            None,
            lambda n: None,
        )
        for i, package in enumerate(plans):
            hessians = first if i == 0 else next(later)
            found |= {layer: h for tap, h in hessians.items() for layer in tap.layers}
            change(package)
        later.close()
        assert not any(trajectory.outputs)
    assert hooks(denoiser) == before
    return found, plans, inputs


@pytest.mark.parametrize(("room", "wanted"), [(0, None), (1e9, None), (1e9, "1-2")])
@pytest.mark.parametrize("make", MAKERS)
def test_nothing_pruned_gives_the_hessians_of_one_dense_pass(make, room, wanted):
    """Also where the first block stays dense."""
    pipe = make()
    found, plans, _ = replay_all(pipe, 4, lambda package: None, room, wanted=wanted)
    with prepared(pipe) as run:
        dense = calibrate(
            run,
            denoiser_of(pipe),
            [tap for p in plans for tap in p.taps],
            calibration_set(height=16, width=16),
        )
    for tap, hessian in dense.items():
        other = found[tap.layers[0]]
        assert (other.xx - hessian.xx).norm() < 1e-5 * hessian.xx.norm()
        assert (other.samples, other.alpha) == (hessian.samples, hessian.alpha)
        assert other.distinct == pytest.approx(hessian.distinct, rel=0.01)


@pytest.mark.parametrize("make", MAKERS)
@pytest.mark.parametrize("packages", [2, 5])
def test_later_packages_see_the_changed_model_on_the_recorded_inputs(make, packages):
    pipe = make()
    denoiser, changed = denoiser_of(pipe), []

    def halve(package):
        for layer in package.layers:
            denoiser.get_submodule(layer).weight.data.mul_(0.5)
        changed.append(package)

    found, plans, inputs = replay_all(pipe, packages, halve)
    for package in plans[-1:]:
        for layer in package.layers:  # undo the last change: its Hessians were gathered before
            denoiser.get_submodule(layer).weight.data.mul_(2)
    layer, seen = plans[-1].layers[-1], []
    handle = denoiser.get_submodule(layer).register_forward_pre_hook(
        lambda m, args: seen.append(args[0].double().flatten(0, -2))
    )
    with torch.no_grad():
        for args, kwargs in inputs:
            denoiser(*args, **kwargs)
    handle.remove()
    unweighted = sum(x.T @ x for x in seen)
    weights = [
        1.2,
        0.8 + 0.4 * torch.tensor(2.0).log().item() / torch.tensor(3.0).log().item(),
        0.8,
    ]
    weighted = sum(weights[i] * x.T @ x for i, x in enumerate(seen))
    assert not torch.allclose(weighted, unweighted)
    torch.testing.assert_close(found[layer].xx.double(), weighted, rtol=1e-4, atol=1e-6)


def test_what_can_not_be_replayed_says_so():
    pipe = sd3()
    block = pipe.transformer.transformer_blocks[1]
    forward = block.forward
    block.forward = lambda *args, **kwargs: (
        (forward(*args, **kwargs), block._call_impl(*args, **kwargs))[0]
        if not nested.append(1) and len(nested) == 1
        else forward(*args, **kwargs)
    )
    nested = []
    with pytest.raises(
        CalibrationError, match="calibration replay can't run this model block by block"
    ):
        replay_all(pipe, 2, lambda package: None, pruning_plan=calibration_set(steps=1))


def test_a_call_ends_when_the_package_has_seen_its_inputs():
    pipe, computed = sd3(), []
    layers = ["transformer_blocks.2.ff.net.2", "transformer_blocks.0.attn.to_q"]
    for layer in layers:
        pipe.transformer.get_submodule(layer).register_forward_hook(
            lambda module, args, out, layer=layer: computed.append(layer)
        )
    replay_all(pipe, 3, lambda package: None)
    assert [computed.count(layer) for layer in layers] == [
        3,
        3 + 3,
    ]  # the last layer in the recording alone; the first once more, pruned


@pytest.mark.parametrize("make", [sd3, sd, flux])
def test_shrunk_packages_are_replayed_as_they_are_then(make):
    """Structured: the Hessians of the last package are those of the recorded calls through the model without the heads and neurons
    that left before."""
    pipe = make()
    denoiser, config = (
        denoiser_of(pipe),
        PruningConfig(
            pattern="structured",
            sparsity=0.5,
            packages=2,
            calibration="replay",
            keep_first_last=False,
            round_to=1,
        ),
    )
    linears = layer_shapes(denoiser)
    blocks = find_blocks(linears)
    first, last = plan_packages(blocks, linears, config)
    groups = [
        group for group in select_groups(blocks, config) if group.consumers[0] in first.layers
    ]
    with open_scratch(1e9) as scratch, prepared(pipe) as run:
        cache, pruning_plan = (
            TensorCache(scratch),
            calibration_set(height=16, width=16, weighting=("uniform", 1.0, 1.0)),
        )
        trajectory, hessians = record_trajectory(
            run, denoiser, blocks, list(first.taps), pruning_plan, cache, None, lambda n: None
        )
        prune_groups_(
            denoiser,
            groups,
            {layer: h for tap, h in hessians.items() for layer in tap.layers},
            config,
            0,
        )
        found = {
            tap.layers[0]: h
            for tap, h in next(
                replay_packages(
                    run, denoiser, trajectory, [first, last], pruning_plan, None, lambda n: None
                )
            ).items()
        }
        seen = {layer: [] for layer in found}
        for layer in found:
            denoiser.get_submodule(layer).register_forward_pre_hook(
                lambda m, args, layer=layer: seen[layer].append(args[0].double().flatten(0, -2))
            )
        with torch.no_grad():
            for call in trajectory.recording.calls:
                args, kwargs = cache.get_all(call.inputs)
                denoiser(*args, **kwargs)
    for layer, hessian in found.items():
        torch.testing.assert_close(
            hessian.matrix().double(),
            2 * sum(x.T @ x for x in seen[layer]) / hessian.samples,
            rtol=1e-4,
            atol=1e-5,
        )


@pytest.mark.slow
@pytest.mark.parametrize("name", ["Kandinsky3UNet", "I2VGenXLUNet"])
def test_blocks_without_a_number_stand_in_segments_too(name):
    """add_time_condition.attention.to_out.0: the number is the layer's, not its segment's. In one step replay sees what live sees, in the same packages."""
    found, (model, arguments) = {}, build(name)
    linears = layer_shapes(model)
    units = len(select(find_blocks(linears), PruningConfig(), linears))
    for way in (
        {"calibration": "live"},
        {"calibration": "replay"},
        {"calibration": "replay", "asymmetric": True},
    ):
        pipe = DirectPipeline(copy.deepcopy(model), arguments, steps=1)
        prune_(pipe, [{}], PruningConfig(packages=units, **way))
        found[str(way)] = pipe.transformer.state_dict()
    live, plain, aimed = found.values()
    for key in live:
        torch.testing.assert_close(live[key], plain[key])
    assert any(not torch.equal(plain[key], aimed[key]) for key in plain)
