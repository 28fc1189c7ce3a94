"""A table of seconds by layer, from real calls of the layers."""

from functools import partial

import pytest
import torch

from obsdiff.allocation import layer_latency as latency_table
from obsdiff.allocation.layer_latency import (
    apart,
    between,
    interchangeable,
    levels,
    part_of,
    recorded_arguments,
    seconds_saved,
)
from obsdiff.models.geometry import items
from obsdiff.models.surgery import shrink_
from tests.allocation.test_savings import opened, plain

from ..conftest import flux, sd, sd3


def test_levels_go_to_the_end_and_seconds_never_rise():
    assert levels(0) == [0]
    assert levels(3) == [0, 1, 2, 3]
    assert levels(60) == [0, 10, 20, 30, 40, 50, 60]
    assert between([0, 2, 4], [1.0, 0.8, 0.9]) == pytest.approx([0.0, 0.1, 0.2, 0.2, 0.2])


@pytest.mark.parametrize(("make", "target"), [(sd3, "linear"), (sd, "conv"), (flux, "linear")])
def test_a_layer_by_itself_computes_what_it_does_in_the_model(make, target):
    denoiser, groups, call = opened(make, target)
    for group in plain(groups):
        part = part_of(group)
        args, kwargs = recorded_arguments(denoiser, part, call)
        alone = apart(denoiser, part)
        with torch.no_grad():
            expected = denoiser.get_submodule(part)(*args, **kwargs)
            found = alone.get_submodule(part)(*args, **kwargs)
        torch.testing.assert_close(found, expected)
        shrink_(alone, group, [0])
        assert items(alone, group) == 1
        with torch.no_grad():
            alone.get_submodule(part)(*args, **kwargs)


def test_every_group_has_a_row_for_its_steps(monkeypatch):
    monkeypatch.setattr(latency_table, "LAYER_ROUNDS", 2)
    monkeypatch.setattr(latency_table, "SHORTEST", 0.0)
    denoiser, groups, call = opened(sd3, round_to=4)
    parameters = sum(p.numel() for p in denoiser.parameters())
    found, table = seconds_saved(denoiser, groups, call)
    assert found.keys() == {prunable.name for prunable in groups}
    for prunable in groups:
        row = found[prunable.name]
        assert len(row) == prunable.most // prunable.step + 1
        assert row[0] == 0
        assert row == sorted(row)
    assert sorted(name for row in table for name in row["groups"]) == sorted(
        prunable.name for prunable in groups
    )
    for row in table:
        one = next(prunable for prunable in groups if prunable.name == row["groups"][0])
        assert row["kind"] == one.group.kind
        assert row["left"][0] == one.total
        assert row["left"][-1] == one.total - one.most // one.step * one.step
        assert len(row["seconds"]) == len(row["left"])
        assert all(seconds > 0 for seconds in row["seconds"])
    assert sum(p.numel() for p in denoiser.parameters()) == parameters
    assert len(table) == len(
        latency_table.interchangeable(denoiser, groups, partial(denoiser, **call))
    )


def test_attentions_to_pictures_and_to_text_are_not_the_same():
    denoiser, groups, call = opened(sd)
    alike = interchangeable(denoiser, groups, partial(denoiser, **call))
    assert sorted(g.name for some in alike for g in some) == sorted(
        prunable.name for prunable in groups
    )
    assert all(len({g.owner.rpartition(".")[2] for g in plain(some)}) == 1 for some in alike)
    assert any(len(some) > 1 for some in alike)
