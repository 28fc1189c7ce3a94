"""Tasks: what each prunes, and a result that alone makes the same model."""

import copy

import pytest
import torch

from obsdiff import PruningConfig
from obsdiff.calibration.calibrated_input import CalibratedInput
from obsdiff.calibration.context import CalibratedInputs
from obsdiff.calibration.groups import prunable_groups
from obsdiff.calibration.hessian import Hessian
from obsdiff.calibration.packages import Package, plan_packages
from obsdiff.layerwise.linear import prune_layers_, prune_tap_
from obsdiff.layerwise.structured import prune_structured_
from obsdiff.layerwise.tasks import Allocation, Task, TaskResult, apply_, owners_of, tasks_of
from obsdiff.models.discovery import find_blocks
from obsdiff.models.linear_view import layer_shapes, matrix
from obsdiff.models.structure import Tap
from obsdiff.runtime.distributed import Ranks

from ..conftest import flux, sd3

STRUCTURED = {"pattern": "structured", "keep_first_last": False, "sparsity": 0.5, "round_to": 8}


def planned(denoiser, config: PruningConfig) -> tuple[list[Package], list[Task]]:
    shapes = layer_shapes(denoiser, config.target)
    packages = plan_packages(find_blocks(shapes), shapes, config)
    structured = config.pattern == "structured"
    return packages, tasks_of(packages, prunable_groups(denoiser, config) if structured else [])


def inputs_of(denoiser, taps: tuple[Tap, ...]) -> CalibratedInputs:
    """Sums of random tokens, the same ones for the same taps."""
    g, found = torch.Generator().manual_seed(0), {}
    for tap in taps:
        columns = matrix(denoiser.get_submodule(tap.layers[0])).shape[1]
        found[tap] = CalibratedInput(Hessian.zeros(columns))
        found[tap].hessian.update(torch.randn(2 * columns, columns, generator=g), 1.0)
    return found


@pytest.mark.parametrize("make", [sd3, flux])
def test_without_groups_every_tap_is_a_task(make):
    config = PruningConfig(calibration="live", packages=3)
    packages, tasks = planned(make().transformer, config)
    assert [task.number for task in tasks] == list(range(len(tasks)))
    found = [(task.package, task.taps) for task in tasks]
    assert found == [(i, (tap,)) for i, package in enumerate(packages) for tap in package.taps]
    assert all(task.touched == set(task.layers) == set(task.taps[0].layers) for task in tasks)
    assert not any(task.groups for task in tasks)


@pytest.mark.parametrize("make", [sd3, flux])
def test_groups_that_share_a_consumer_are_one_task_heads_first(make):
    denoiser, config = make().transformer, PruningConfig(**STRUCTURED)
    packages, tasks = planned(denoiser, config)
    groups = prunable_groups(denoiser, config)
    assert [task.number for task in tasks] == list(range(len(tasks)))
    assert sorted(g.name for task in tasks for g in task.groups) == sorted(g.name for g in groups)
    for task in tasks:
        consumers = {name for g in task.groups for name in g.group.consumers}
        producers = {name for g in task.groups for name in g.group.producers}
        assert len({g.group.consumers[0] for g in task.groups}) == 1
        assert consumers <= set(task.layers)
        assert task.touched == set(task.layers) | producers
        assert set(task.taps) <= set(packages[task.package].taps)
    kinds = [[g.group.kind for g in task.groups] for task in tasks]
    assert (["heads", "neurons"] in kinds) == (make is flux)


def test_every_tap_of_a_task_has_one_owner():
    denoiser, config = flux().transformer, PruningConfig(**STRUCTURED)
    _, tasks = planned(denoiser, config)
    shapes = layer_shapes(denoiser)
    owners = owners_of(tasks, shapes, Ranks(0, 2))
    assert set(owners) == {tap for task in tasks for tap in task.taps}
    assert set(owners.values()) == {0, 1}
    assert all(len({owners[tap] for tap in task.taps}) == 1 for task in tasks)
    assert set(owners_of(tasks, shapes, Ranks()).values()) == {0}


def test_a_tap_is_pruned_in_place_and_every_layer_recorded():
    denoiser, config = sd3().transformer, PruningConfig(sparsity=0.25)
    tap = planned(denoiser, config)[1][0].taps[0]
    before = {name: w.clone() for name, w in denoiser.state_dict().items()}
    rows = prune_tap_(denoiser, tap, inputs_of(denoiser, (tap,))[tap], config, 2)
    assert [row.name for row in rows] == list(tap.layers)
    assert len(rows) > 1
    for row in rows:
        weight = denoiser.get_submodule(row.name).weight
        assert (weight == 0).float().mean().item() == row.sparsity == 0.25
        assert (row.package, row.shape) == (2, tuple(weight.shape))
        assert 0 < row.error < 1
    changed = {
        name for name, w in denoiser.state_dict().items() if not torch.equal(w, before[name])
    }
    assert changed == {f"{layer}.weight" for layer in tap.layers}


def test_an_allocation_decides_the_sparsity_of_a_task():
    denoiser, config = sd3().transformer, PruningConfig(sparsity=0.5)
    _, tasks = planned(denoiser, config)
    shares = {layer: 0.25 if task.number else 0.75 for task in tasks for layer in task.layers}
    inputs = inputs_of(denoiser, tuple(tap for task in tasks[:2] for tap in task.taps))
    for task, share in zip(tasks[:2], (0.75, 0.25), strict=True):
        result = prune_layers_(denoiser, inputs, config, Allocation(sparsity=shares), task)
        assert [row.sparsity for row in result.layers] == [share] * len(task.layers)
        assert not inputs.keys() & set(task.taps)
    assert not inputs


@pytest.mark.parametrize(
    "settings",
    [{"sparsity": 0.5}, {"correct_bias": True}, STRUCTURED, STRUCTURED | {"correct_bias": True}],
    ids=["unstructured", "bias", "structured", "structured bias"],
)
@pytest.mark.parametrize("make", [sd3, flux])
def test_a_result_makes_the_same_of_another_copy_of_the_model(make, settings):
    denoiser, config = make().transformer, PruningConfig(**settings)
    other = copy.deepcopy(denoiser)
    _, tasks = planned(denoiser, config)
    for task in tasks:
        prune_ = prune_structured_ if task.groups else prune_layers_
        result = prune_(denoiser, inputs_of(denoiser, task.taps), config, Allocation(), task)
        assert bool(result.biases) <= config.correct_bias
        again = TaskResult.of(result.tensors, result.layers, result.groups)
        assert again.weights.keys() == result.weights.keys()
        assert again.biases.keys() == result.biases.keys()
        apply_(other, task, again)
    found, wanted = other.state_dict(), denoiser.state_dict()
    assert found.keys() == wanted.keys()
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)


def test_an_allocation_decides_how_many_items_of_a_group_stay():
    denoiser, config = sd3().transformer, PruningConfig(**STRUCTURED)
    _, tasks = planned(denoiser, config)
    kept = {g.name: 3 if g.group.kind == "heads" else 24 for task in tasks for g in task.groups}
    kept.pop(tasks[-1].groups[0].name)  # a group that is not in the allocation is pruned uniformly
    for task in tasks:
        result = prune_structured_(
            denoiser, inputs_of(denoiser, task.taps), config, Allocation(kept=kept), task
        )
        for row, prunable in zip(result.groups, task.groups, strict=True):
            assert row.kept == kept.get(prunable.name, prunable.kept)
            assert (row.owner, row.kind, row.package) == (
                prunable.group.owner,
                prunable.group.kind,
                task.package,
            )


def test_a_result_without_the_weight_of_a_record_is_an_error():
    denoiser, config = sd3().transformer, PruningConfig()
    task = planned(denoiser, config)[1][0]
    result = prune_layers_(denoiser, inputs_of(denoiser, task.taps), config, Allocation(), task)
    tensors = dict(result.tensors)
    del tensors[task.layers[0]]
    with pytest.raises(KeyError, match=task.layers[0]):
        TaskResult.of(tensors, result.layers, result.groups)
