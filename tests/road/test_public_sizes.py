"""Public models at 1024 px on a hollow accelerator, four prompts a call: what a calibration's call
costs beside the call itself, and what it holds beside what is planned."""

import functools
from pathlib import Path

import pytest

from obsdiff import PruningConfig
from obsdiff.calibration.packages import GIB
from obsdiff.cli.device_memory import device_plan
from obsdiff.models.discovery import find_blocks
from obsdiff.models.linear_view import layer_shapes
from obsdiff.models.meta_device import build_on_meta
from obsdiff.pipelines.folder import open_folder

from ..support.device_counts import LIBRARY
from ..support.hollow_denoiser import BATCH, PROMPTS, Call, count_call
from ..support.public_models import FLUX_DEV, MODELS, SD3_MEDIUM, SD35_LARGE, SDXL, folder_of

pytestmark = pytest.mark.slow
FEWER = {"num_layers": 2, "num_single_layers": 2}  # blocks of FLUX, of which one is on the card
CALLS = {
    "SDXL": Call(SDXL, text=77, steps=50),
    "SD3-medium": Call(SD3_MEDIUM),
    "SD3.5-large": Call(SD35_LARGE | {"num_layers": 8}),
    "FLUX.1-dev": Call(FLUX_DEV, text=512, halves=1),
    "FLUX.1-dev, 4 blocks": Call(FLUX_DEV | FEWER, text=512, halves=1),
}
counted = functools.cache(lambda name: count_call(CALLS[name]))


def plan_of(name, folder):
    """The plan of a model at 1024 px, in bfloat16, from its configs."""
    pipeline, component, _, encoders = MODELS[name.partition(",")[0]]
    folder = folder_of(folder / name, pipeline, component, CALLS[name].config, encoders)
    config = PruningConfig(height=1024, width=1024)
    return device_plan(open_folder(Path(folder), weights=False), config)


def solving_operations(config):
    """Operations of solving all layers: factor and inverse, the sweep, and two layer errors."""
    shapes = layer_shapes(build_on_meta(config))
    taps = [tap for block in find_blocks(shapes) for unit in block.units for tap in unit]
    found = 0
    for tap in taps:
        columns, rows = shapes[tap.layers[0]][1], sum(shapes[layer][0] for layer in tap.layers)
        found += 2 * columns**3 + 3 * 2 * rows * columns**2
    return found


@pytest.mark.parametrize("name", ["SD3-medium", "SD3.5-large", "FLUX.1-dev"])
def test_the_planned_peak_is_the_counted_one(name, tmp_path):
    counts, plan = counted(name), plan_of(name, tmp_path)
    assert counts.peak == pytest.approx(plan.phases("model")["drawing"], rel=0.1)
    beside = counts.peak - plan.denoiser.whole - plan.hessians
    assert beside == pytest.approx(plan.activations, rel=0.1)


@pytest.mark.parametrize(
    ("name", "gib", "there"), [("SDXL", 12, True), ("FLUX.1-dev, 4 blocks", 24, False)]
)
def test_blocks_in_turn_fit_a_small_card_as_planned(name, gib, there, tmp_path):
    counts = count_call(CALLS[name], group=True, hessians_there=there)
    plan = plan_of(name, tmp_path)
    planned = plan.phases("group", hessians=there)["drawing"]
    assert planned == pytest.approx(counts.peak, rel=0.1)
    assert counts.peak < gib * GIB


def test_a_call_of_sd3_medium_has_few_launches_of_ours_and_one_wait():
    """Every call, also while distinct tokens are counted; the first tries what the device can."""
    counts = count_call(CALLS["SD3-medium"], again=True)
    assert counts.own_launches <= 1000
    assert counts.waits.total() == 1


@pytest.mark.parametrize("name", ["SD3-medium", "FLUX.1-dev"])
def test_a_whole_run_has_at_most_1_3_times_the_operations_of_plain_inference(name):
    call, counts = CALLS[name], counted(name)
    calls = PROMPTS // BATCH * call.steps
    solving = solving_operations(call.config) / calls
    assert counts.own_operations + solving <= 0.3 * counts.operations[LIBRARY]
