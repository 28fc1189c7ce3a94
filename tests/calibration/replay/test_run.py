"""Replay against its definition: the recorded calls, each through the whole model as it is then."""

import copy
from collections.abc import Callable

import pytest
import torch

from obsdiff import prune_
from obsdiff.calibration.calibration_set import CalibrationSet
from obsdiff.calibration.groups import prunable_groups
from obsdiff.calibration.hooks import calibrate
from obsdiff.calibration.packages import Package, plan_packages
from obsdiff.calibration.replay.run import record_trajectory, replay_packages
from obsdiff.calibration.selection import select
from obsdiff.calibration.step_weights import StepWeights
from obsdiff.config import PruningConfig
from obsdiff.errors import CalibrationError
from obsdiff.layerwise.structured import prune_groups_
from obsdiff.layerwise.tasks import tasks_of
from obsdiff.models.discovery import find_blocks
from obsdiff.models.linear_view import layer_shapes
from tests.calibration.test_hooks import calibration_set, denoiser_of

from ...conftest import flux, sd, sd3
from ...coverage_of_models import build
from ...support.contexts import context_of
from ...support.direct import DirectPipeline
from ...support.lanes import first_quick

MAKERS = [sd3, lambda: sd3(dual=(0, 1)), sd, flux]


def hooks(model: torch.nn.Module) -> int:
    """How much hangs on a model's modules: hooks, and forwards of their own."""
    return sum(
        len(m._forward_pre_hooks) + len(m._forward_hooks) + ("forward" in vars(m))
        for m in model.modules()
    )


def replay_all(
    pipe,
    packages: int,
    change: Callable[[Package], None],
    room: float = 1e9,
    drawn: CalibrationSet | None = None,
    wanted: str | None = None,
):
    """The Hessian of every layer by replay, the packages, and the inputs of the recorded calls.

    change(package) stands for the pruning of a package.
    """
    denoiser, found = denoiser_of(pipe), {}
    before = hooks(denoiser)
    shapes = layer_shapes(denoiser)
    config = PruningConfig(packages=packages, calibration="replay", blocks=wanted)
    plans = plan_packages(find_blocks(shapes), shapes, config)
    drawn = drawn or calibration_set(height=16, width=16)
    with context_of(pipe, drawn, room=room) as context:
        trajectory, first = record_trajectory(context, list(plans[0].taps))
        cache = trajectory.recording.cache
        inputs = [cache.get_all(call.inputs) for call in trajectory.recording.calls]
        later = replay_packages(context, trajectory, plans)
        for i, package in enumerate(plans):
            calibrated = first if i == 0 else next(later)
            assert list(calibrated) == list(package.taps)
            found |= {layer: c.hessian for tap, c in calibrated.items() for layer in tap.layers}
            change(package)
        later.close()
        assert not any(trajectory.outputs)
        assert context.run.recorded_steps is None
    assert hooks(denoiser) == before
    return found, plans, inputs


@pytest.mark.parametrize(("room", "wanted"), [(0, None), (1e9, None), (1e9, "1-2")])
@pytest.mark.parametrize("make", first_quick(MAKERS))
@pytest.mark.slow
def test_nothing_pruned_gives_the_hessians_of_one_dense_pass(make, room, wanted):
    """Also where the first block stays dense."""
    pipe = make()
    found, plans, _ = replay_all(pipe, 4, lambda package: None, room, wanted=wanted)
    with context_of(pipe, calibration_set(height=16, width=16)) as context:
        dense = calibrate(context, [tap for p in plans for tap in p.taps])
    for tap, calibrated in dense.items():
        hessian, other = calibrated.hessian, found[tap.layers[0]]
        assert (other.xx - hessian.xx).norm() < 1e-5 * hessian.xx.norm()
        assert (other.samples, other.alpha) == (hessian.samples, hessian.alpha)
        assert other.distinct == pytest.approx(hessian.distinct, rel=0.01)


@pytest.mark.parametrize("make", first_quick(MAKERS))
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
    torch.testing.assert_close(found[layer].xx.double(), weighted, rtol=1e-4, atol=1e-5)


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
        replay_all(pipe, 2, lambda package: None, drawn=calibration_set(steps=1))


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
@pytest.mark.slow
def test_shrunk_packages_are_replayed_as_they_are_then(make):
    """The Hessians of the last package are those of the recorded calls through the shrunk model."""
    pipe = make()
    denoiser = denoiser_of(pipe)
    config = PruningConfig(
        pattern="structured",
        sparsity=0.5,
        packages=2,
        calibration="replay",
        keep_first_last=False,
        round_to=1,
    )
    shapes = layer_shapes(denoiser)
    packages = plan_packages(find_blocks(shapes), shapes, config)
    first, last = packages
    tasks = [t for t in tasks_of(packages, prunable_groups(denoiser, config)) if t.package == 0]
    assert {tap for task in tasks for tap in task.taps} == set(first.taps)
    drawn = calibration_set(height=16, width=16, step_weights=StepWeights("uniform", 1.0, 1.0))
    with context_of(pipe, drawn) as context:
        trajectory, inputs = record_trajectory(context, list(first.taps))
        cache = trajectory.recording.cache
        for task in tasks:
            prune_groups_(denoiser, task, inputs, config)
        replayed = next(replay_packages(context, trajectory, packages))
        assert list(replayed) == list(last.taps)
        found = {tap.layers[0]: calibrated.hessian for tap, calibrated in replayed.items()}
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
    """add_time_condition.attention.to_out.0: the number is the layer's, not its segment's.

    In one step replay sees what live sees, in the same packages.
    """
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
