"""What an item saves is what is missing when it is gone, whichever else is gone."""

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from obsdiff.allocation.savings import UNITS, amount_of, of_an_item
from obsdiff.calibration.groups import PrunableGroup, prunable_groups
from obsdiff.config import PruningConfig
from obsdiff.evaluation.costs import step_macs
from obsdiff.models.geometry import items
from obsdiff.models.macs import count_macs
from obsdiff.models.structure import Group
from obsdiff.models.surgery import shrink_
from obsdiff.pipelines.run import denoiser_call, prepared

from ..conftest import PROMPTS, flux, sd, sd3

SETTINGS = {"num_inference_steps": 2, "height": 16, "width": 16, "guidance_scale": 3.0}


def opened(
    make: Callable[[], Any], target: str = "linear", round_to: int = 8
) -> tuple[torch.nn.Module, list[PrunableGroup], dict[str, Any]]:
    """A denoiser, its groups, and the arguments of one call."""
    pipe = make()
    denoiser = getattr(pipe, "transformer", None) or pipe.unet
    config = PruningConfig(
        pattern="structured", target=target, keep_first_last=False, round_to=round_to
    )
    groups = prunable_groups(denoiser, config)
    with prepared(pipe):
        return denoiser, groups, denoiser_call(pipe, denoiser, PROMPTS[0], SETTINGS)


def plain(groups: list[PrunableGroup]) -> list[Group]:
    return [prunable.group for prunable in groups]


@pytest.mark.parametrize("unit", UNITS)
@pytest.mark.parametrize(("make", "target"), [(sd3, "linear"), (sd, "conv"), (flux, "linear")])
def test_savings_add_up_to_what_is_missing_exactly(make, target, unit):
    denoiser, groups, call = opened(make, target)
    each = of_an_item(unit, denoiser, plain(groups), call)
    dense = amount_of(unit, denoiser, call)
    g = torch.Generator().manual_seed(0)
    expected = dense
    for prunable in groups:
        assert prunable.total == items(denoiser, prunable.group)
        gone = int(torch.randint(0, prunable.total, (), generator=g))
        expected -= gone * each[prunable.name]
        shrink_(denoiser, prunable.group, list(range(prunable.total - gone)))
    assert amount_of(unit, denoiser, call) == expected < dense


@pytest.mark.slow
def test_operations_are_the_same_fused_or_not_with_data_or_without():
    denoiser, _, call = opened(sd3)
    with sdpa_kernel(SDPBackend.MATH):
        unfused = count_macs(partial(denoiser, **call)).total
    assert amount_of("macs", denoiser, call) == unfused == step_macs(denoiser, call)["total"]


def test_bytes_go_by_the_number_format_of_each_layer():
    denoiser, groups, call = opened(sd3)
    whole = of_an_item("bytes", denoiser, plain(groups), call)
    denoiser.half()
    assert of_an_item("bytes", denoiser, plain(groups), call) == {
        name: saved // 2 for name, saved in whole.items()
    }
