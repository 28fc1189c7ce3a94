"""What an item saves is what is missing when it is gone, whichever else is gone."""

from functools import partial

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from obsdiff.allocation.savings import UNITS, amount_of, of_an_item
from obsdiff.calibration.selection import select_groups
from obsdiff.config import PruningConfig
from obsdiff.evaluation.costs import step_macs
from obsdiff.models.discovery import require_blocks
from obsdiff.models.geometry import items
from obsdiff.models.linear_view import layer_shapes
from obsdiff.models.macs import count_macs
from obsdiff.models.surgery import shrink_
from obsdiff.pipelines.run import denoiser_call, prepared

from ..conftest import PROMPTS, flux, sd, sd3

SETTINGS = {"num_inference_steps": 2, "height": 16, "width": 16, "guidance_scale": 3.0}


def opened(make, target: str = "linear"):
    """A denoiser, its groups, and the arguments of one call."""
    pipe = make()
    denoiser = getattr(pipe, "transformer", None) or pipe.unet
    config = PruningConfig(pattern="structured", target=target, keep_first_last=False)
    groups = select_groups(require_blocks(layer_shapes(denoiser, target), "tiny", target), config)
    with prepared(pipe):
        return denoiser, groups, denoiser_call(pipe, denoiser, PROMPTS[0], SETTINGS)


@pytest.mark.parametrize("unit", UNITS)
@pytest.mark.parametrize(("make", "target"), [(sd3, "linear"), (sd, "conv"), (flux, "linear")])
def test_savings_add_up_to_what_is_missing_exactly(make, target, unit):
    denoiser, groups, call = opened(make, target)
    each, dense = of_an_item(unit, denoiser, groups, call), amount_of(unit, denoiser, call)
    g = torch.Generator().manual_seed(0)
    expected = dense
    for group in groups:
        total = items(denoiser, group)
        gone = int(torch.randint(0, total, (), generator=g))
        expected -= gone * each[group.name]
        shrink_(denoiser, group, list(range(total - gone)))
    assert amount_of(unit, denoiser, call) == expected < dense


def test_operations_are_the_same_fused_or_not_with_data_or_without():
    denoiser, _, call = opened(sd3)
    with sdpa_kernel(SDPBackend.MATH):
        unfused = count_macs(partial(denoiser, **call)).total
    assert amount_of("macs", denoiser, call) == unfused == step_macs(denoiser, call)["total"]


def test_bytes_go_by_the_number_format_of_each_layer():
    denoiser, groups, call = opened(sd3)
    whole = of_an_item("bytes", denoiser, groups, call)
    denoiser.half()
    assert of_an_item("bytes", denoiser, groups, call) == {
        name: saved // 2 for name, saved in whole.items()
    }
