"""Cross sums of replay against their definition.

The recorded calls run through a dense model and through the pruned one, as they are then.
"""

import contextlib
import copy
from collections.abc import Callable
from functools import partial

import pytest
import torch

import obsdiff
from obsdiff import PruningConfig
from obsdiff.calibration.context import CalibratedInputs
from obsdiff.calibration.groups import prunable_groups
from obsdiff.calibration.packages import Package, plan_packages
from obsdiff.calibration.replay.dense_model import DenseModel
from obsdiff.calibration.replay.run import package_spans, record_trajectory, replay_packages
from obsdiff.calibration.selection import select
from obsdiff.calibration.step_weights import StepWeights
from obsdiff.errors import UserError
from obsdiff.layerwise.executor import Executor
from obsdiff.layerwise.structured import prune_groups_
from obsdiff.layerwise.tasks import tasks_of
from obsdiff.models.discovery import find_blocks
from obsdiff.models.linear_view import layer_shapes
from tests.calibration.test_gather import SMALL, pruned
from tests.calibration.test_hooks import calibration_set, denoiser_of

from ...conftest import PROMPTS, flux, sd, sd3
from ...support.contexts import context_of

UNITS = 0  # as many packages as basic units


def inputs_of(denoiser, layers: list[str], calls) -> dict[str, list[torch.Tensor]]:
    """What each layer reads (T, I) in each of the recorded calls."""
    seen = {layer: [] for layer in layers}
    with contextlib.ExitStack() as hooks, torch.no_grad():
        for layer, inputs in seen.items():
            read = partial(noted, inputs)
            hooks.enter_context(denoiser.get_submodule(layer).register_forward_pre_hook(read))
        for args, kwargs in calls:
            denoiser(*args, **kwargs)
    return seen


def noted(inputs: list[torch.Tensor], module, args) -> None:
    inputs.append(args[0].double().flatten(0, -2))


def crossed_all(
    pipe,
    settings: dict,
    change: Callable[[int, Package, CalibratedInputs], None],
    begin: int = 1,
    room: float = 1e9,
) -> list[Package]:
    """Checks the cross sums of every package from `begin` on, by replay beside the dense model.

    change(index, package, inputs) stands for the pruning of a package.
    """
    denoiser, config = denoiser_of(pipe), PruningConfig(calibration="replay", **settings)
    dense, shapes = copy.deepcopy(denoiser), layer_shapes(denoiser)
    drawn = calibration_set(height=16, width=16, step_weights=StepWeights("uniform", 1.0, 1.0))
    packages = plan_packages(find_blocks(shapes), shapes, config)
    with context_of(pipe, drawn, room=room) as context:
        trajectory, first = record_trajectory(context, list(packages[0].taps))
        cache = trajectory.recording.cache
        calls = [cache.get_all(call.inputs) for call in trajectory.recording.calls]
        spans = package_spans(packages, trajectory)
        dense_model = DenseModel(context, trajectory, packages, spans)
        dense_model.begin(begin)
        for i in range(begin):
            change(i, packages[i], first)
        later = replay_packages(context, trajectory, packages, begin, dense_model)
        differences = []
        for i, inputs in enumerate(later, begin):
            assert list(inputs) == list(packages[i].taps)
            differences.append(check(dense, denoiser, inputs, calls))
            change(i, packages[i], inputs)
        assert len(differences) == len(packages) - begin
        assert max(differences) > 1e-4
        dense_model.close()
        assert not any(dense_model.trajectory.outputs)
        assert not dense_model.copies
        if room == 0:
            assert context.scratch.files > len(trajectory.recording.calls)
    return packages


def halving(denoiser):
    def halve(index: int, package: Package, inputs: CalibratedInputs) -> None:
        for layer in package.layers:
            denoiser.get_submodule(layer).weight.data.mul_(0.5)

    return halve


def check(dense, denoiser, inputs: CalibratedInputs, calls) -> float:
    """How much the inputs differ at most: not at all where a package reads the text alone."""
    sizes, layers = [], [tap.layers[0] for tap in inputs]
    there, here = (inputs_of(model, layers, calls) for model in (dense, denoiser))
    for layer, calibrated in zip(layers, inputs.values(), strict=True):
        cross = sum((x0 - x).T @ x for x0, x in zip(there[layer], here[layer], strict=True))
        assert (calibrated.cross.double() - cross).norm() <= 1e-4 * cross.norm()
        sizes.append(cross.norm() / sum(x.T @ x for x in here[layer]).norm())
    return max(sizes)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("make", "packages"),
    [
        *((make, UNITS) for make in (sd3, lambda: sd3(dual=(0, 1)), sd, flux)),
        *((sd3, 5), (flux, 5), (sd3, 2), (sd, 2)),
    ],
)
def test_cross_sums_are_those_of_the_dense_inputs_whatever_a_package_ends_in(make, packages):
    """With one package for every unit, packages begin and end inside of segments.

    The segments then are pruned in part when the dense model leaves them.
    """
    pipe = make()
    linears = layer_shapes(denoiser_of(pipe))
    count = packages or len(select(find_blocks(linears), PruningConfig(), linears))
    denoiser = denoiser_of(pipe)
    assert len(crossed_all(pipe, {"packages": count}, halving(denoiser))) == count


@pytest.mark.slow
@pytest.mark.parametrize("make", [sd3, sd])
def test_copies_for_which_memory_has_no_room_are_as_good(make):
    pipe = make()
    crossed_all(pipe, {"packages": 5}, halving(denoiser_of(pipe)), room=0)


@pytest.mark.slow
@pytest.mark.parametrize("begin", [2, 4])
def test_a_run_that_goes_on_has_the_dense_stream_where_it_left_off(begin):
    pipe = sd3()
    linears = layer_shapes(pipe.transformer)
    count = len(select(find_blocks(linears), PruningConfig(), linears))
    crossed_all(pipe, {"packages": count}, halving(pipe.transformer), begin)


@pytest.mark.slow
@pytest.mark.parametrize(("make", "packages"), [(sd3, UNITS), (sd, 2), (flux, UNITS)])
def test_shrunk_blocks_do_not_shrink_the_dense_stream(make, packages):
    pipe = make()
    denoiser = denoiser_of(pipe)
    settings = {
        "pattern": "structured",
        "sparsity": 0.5,
        "keep_first_last": False,
        "round_to": 1,
    }
    shapes = layer_shapes(denoiser)
    count = packages or len(select(find_blocks(shapes), PruningConfig(**settings), shapes))
    config = PruningConfig(calibration="replay", packages=count, **settings)
    groups = prunable_groups(denoiser, config)
    tasks = tasks_of(plan_packages(find_blocks(shapes), shapes, config), groups)
    assert {g.name for task in tasks for g in task.groups} == {g.name for g in groups}

    def shrink(index: int, package: Package, inputs: CalibratedInputs) -> None:
        for task in tasks:
            if task.package == index:
                prune_groups_(denoiser, task, inputs, config)

    crossed_all(pipe, settings | {"packages": count}, shrink)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("make", "settings"),
    [
        (sd3, {"pattern": "structured", "keep_first_last": False}),
        (sd, {}),
        (flux, {"pattern": "2:4", "method": "alps"}),
    ],
    ids=["sd3", "sd", "flux"],
)
def test_the_whole_pruning_changes_from_the_second_package_on(make, settings):
    plain, _ = pruned(make, calibration="replay", packages=3, **settings)
    aimed, report = pruned(make, calibration="replay", packages=3, asymmetric=True, **settings)
    first, second = (report.packages[i][0] + ".weight" for i in (0, 1))
    assert torch.equal(plain[first], aimed[first])
    assert not torch.equal(plain[second], aimed[second])


@pytest.mark.slow
def test_later_packages_bring_the_outputs_nearer_to_the_dense_model():
    """On the calls that calibrated, last block's output by asymmetric against plain replay."""
    dense, errors = sd3(), []
    with torch.no_grad():
        latents = [
            dense_latents(pipe)
            for pipe in (dense, *(made(asymmetric) for asymmetric in (False, True)))
        ]
    errors = [(x - latents[0]).norm() / latents[0].norm() for x in latents[1:]]
    assert errors[1] < errors[0]


def made(asymmetric: bool):
    pipe = sd3()
    obsdiff.prune_(
        pipe,
        PROMPTS[:3],
        PruningConfig(
            calibration="replay",
            packages=6,
            asymmetric=asymmetric,
            **SMALL | {"num_inference_steps": 1},
        ),
    )
    return pipe


def dense_latents(pipe) -> torch.Tensor:
    generators = [torch.Generator().manual_seed(i) for i in range(3)]
    pipe.set_progress_bar_config(disable=True)
    return pipe(
        PROMPTS[:3],
        generator=generators,
        output_type="latent",
        **SMALL | {"num_inference_steps": 1},
    ).images


@pytest.mark.slow
def test_packages_of_one_pass_have_nothing_to_repair():
    plain, _ = pruned(sd3, calibration="replay", packages=1)
    aimed, _ = pruned(sd3, calibration="replay", packages=1, asymmetric=True)
    assert all(torch.equal(plain[name], w) for name, w in aimed.items())


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({}, "needs calibration replay; found single"),
        ({"calibration": "live"}, "needs calibration replay; found live"),
        (
            {"calibration": "replay", "method": "magnitude"},
            "method magnitude repairs nothing; choose alps or obs, or refine lstsq",
        ),
        (
            {"calibration": "replay", "compensation": False},
            "no-compensation repairs nothing; leave one of them out",
        ),
        ({"calibration": "replay", "asymmetric": "yes"}, "expected True or False, found 'yes'"),
    ],
)
def test_what_can_not_be_asymmetric_is_refused(settings, words):
    with pytest.raises(UserError, match=words):
        PruningConfig(**{"asymmetric": True} | settings)


@pytest.mark.slow
def test_a_run_that_fails_gives_back_what_it_took_of_a_shared_pass(monkeypatch):
    config = PruningConfig(calibration="replay", asymmetric=True, packages=5, **SMALL)
    with obsdiff.dense_pass(sd3(), PROMPTS[:3], [config], progress=False) as dense:
        scratch = dense.trajectory.recording.cache.scratch
        before = (scratch.used, scratch.on_disk)
        monkeypatch.setattr(Executor, "run", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            obsdiff.prune_(sd3(), PROMPTS[:3], config, dense=dense)
        assert (scratch.used, scratch.on_disk) == before
        monkeypatch.undo()
        obsdiff.prune_(sd3(), PROMPTS[:3], config, dense=dense)
        assert (scratch.used, scratch.on_disk) == before
