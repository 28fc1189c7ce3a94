"""What a pruning needs on a card, from public configs, and the offload that fits."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from diffusers import SD3Transformer2DModel
from diffusers.hooks import apply_group_offloading

from obsdiff import PruningConfig, prune_
from obsdiff.allocation.gradient_memory import gradient_bytes
from obsdiff.allocation.jacobian import figures_of
from obsdiff.calibration.calibration_set import CalibrationSet
from obsdiff.calibration.device_plan import DevicePlan, Weights
from obsdiff.calibration.packages import GIB
from obsdiff.cli import device_memory
from obsdiff.cli.device_memory import device_line, device_plan, device_row
from obsdiff.cli.main import main
from obsdiff.models.activation_memory import HeldBytes, activation_bytes
from obsdiff.models.discovery import find_blocks
from obsdiff.models.linear_view import layer_at, layer_shapes
from obsdiff.models.meta_device import build_on_meta, example_inputs
from obsdiff.pipelines import weight_copies
from obsdiff.pipelines.folder import open_folder
from obsdiff.pipelines.text_first import encode_first

from ..conftest import PROMPTS, sd3
from ..support.contexts import context_of
from ..support.pretend_gpu import pretend_gpu
from ..support.public_models import MODELS, folder_of


@pytest.fixture(scope="module")
def plans(tmp_path_factory):
    """The plan of each model at 1024 x 1024, four prompts a batch, in bfloat16."""
    found = {}
    for name, parts in MODELS.items():
        place = folder_of(tmp_path_factory.mktemp("models") / name, *parts)
        config = PruningConfig(height=1024, width=1024)
        found[name] = device_plan(open_folder(Path(place), weights=False), config)
    return found


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "billions", "encoders"),
    [
        ("SDXL", 2.57, {"text_encoder": 0.123, "text_encoder_2": 0.695}),
        ("SD3-medium", 2.03, {"text_encoder_3": 4.76}),
        ("SD3.5-large", 8.06, {"text_encoder_3": 4.76}),
        ("FLUX.1-dev", 11.9, {"text_encoder_2": 4.76}),
    ],
)
def test_weights_are_those_of_the_public_models(plans, name, billions, encoders):
    plan = plans[name]
    assert plan.denoiser.whole / 2e9 == pytest.approx(billions, rel=0.03)  # and position embeddings
    for encoder, size in encoders.items():
        assert plan.encoders[encoder] / 2e9 == pytest.approx(size, rel=0.01)
    assert set(plan.others) == {"vae"}
    assert plan.others["vae"] / 2e9 == pytest.approx(0.084, rel=0.02)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "vram", "offload", "beside"),
    [
        ("SDXL", 24, "none", False),
        ("SDXL", 16, "none", False),
        ("SDXL", 12, "group", False),
        ("SD3-medium", 24, "none", False),
        ("SD3-medium", 12, "model", False),
        ("SD3.5-large", 80, "none", False),
        ("SD3.5-large", 24, "group", False),
        ("FLUX.1-dev", 80, "none", False),
        ("FLUX.1-dev", 24, "group", True),
    ],
)
def test_the_offload_that_fits_a_card(plans, name, vram, offload, beside):
    row = device_row(plans[name], vram * GIB)
    assert (row.offload, row.fits, bool(row.hessians_beside_gib)) == (offload, True, beside)
    assert max(row.phases_gib.values()) < vram


def test_phases_by_hand():
    plan = DevicePlan(Weights(100, 90, 10), {"a": 30, "b": 50}, {"vae": 5}, 7, 20, 16, 12)
    assert plan.phases("none") == {"text": 185, "drawing": 212, "solving": 217}
    assert plan.phases("model") == {"text": 50, "drawing": 127, "solving": 32}
    assert plan.phases("group") == {"text": 50, "drawing": 47, "solving": 32}
    assert plan.phases("group", hessians=False)["drawing"] == 27
    assert replace(plan, apart=4).phases("group")["drawing"] == 43
    assert replace(plan, apart=4).phases("model") == plan.phases("model")
    # 6 % stay free
    assert [plan.choice(n) for n in (231, 230, 136, 135, 54, 1)] == [
        *("none", "model", "model", "group", "group", "group"),
    ]


def test_gradients_are_a_phase_of_their_own():
    weights = Weights(100, 90, 10)
    plan = DevicePlan(weights, {"a": 30}, {"vae": 5}, 7, 20, 16, 12, gradients=9, changes=80)
    assert plan.phases("none")["allocating"] == 135 + 80 + 9 + 20
    assert plan.phases("model")["allocating"] == 100 + 9 + 20
    assert plan.phases("group")["allocating"] == 100 - 90 + 10 + 9 + 20
    assert plan.choice(260) == "none"
    assert plan.choice(250) == "model"


@pytest.mark.slow
def test_inspect_plans_for_a_card(tmp_path, capsys):
    folder = folder_of(tmp_path / "flux", *MODELS["FLUX.1-dev"])
    flags = ["--height", "1024", "--width", "1024"]
    assert main(["inspect", folder, *flags, "--vram", "24"]) == 0
    text = capsys.readouterr().out
    assert "device      24.0 GiB free, 6% of it kept in reserve: --offload group" in text
    assert "rest on the CPU or in files" in text
    assert main(["inspect", folder, *flags, "--vram", "24", "--json"]) == 0
    row = json.loads(capsys.readouterr().out)["device"]
    assert row["offload"] == "group"
    assert set(row["phases_gib"]) == {"text", "drawing", "solving"}
    assert main(["inspect", folder, "--vram", "0"]) == 2
    assert "vram: expected GiB above 0, found 0" in capsys.readouterr().err


def wide_sd3():
    """The tiny pipeline with a transformer of width 512, so that weights and tokens count."""
    pipe = sd3()
    torch.manual_seed(0)
    pipe.transformer = SD3Transformer2DModel(
        sample_size=32, patch_size=2, in_channels=4, out_channels=4, num_layers=3,
        attention_head_dim=64, num_attention_heads=8, joint_attention_dim=32,
        caption_projection_dim=512, pooled_projection_dim=32, pos_embed_max_size=32,
    ).eval()  # fmt: skip
    return pipe


@pytest.fixture(scope="module")
def wide(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wide") / "sd3"
    wide_sd3().save_pretrained(folder)
    return open_folder(folder)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::obsdiff.errors.CalibrationWarning")
@pytest.mark.parametrize("offload", ["none", "model"])
def test_the_planned_peak_is_the_counted_one(wide, offload):
    """The pretend accelerator has no fused attention, so neither has the plan here."""
    settings = {"num_prompts": 4, "num_inference_steps": 1, "height": 64, "width": 64}
    config = PruningConfig(dtype="float32", method="magnitude", offload=offload, **settings)
    model = build_on_meta(wide.config("transformer"))
    drawn = activation_bytes(model, example_inputs(model, 32, 32, 280), 8, fused=False)
    planned = replace(device_plan(wide, config), activations=drawn).phases(offload)["drawing"]
    with pretend_gpu() as counts:
        prune_(wide_sd3(), PROMPTS[:4], replace(config, device="pretend"))
    assert counts.peak == pytest.approx(planned, rel=0.1)


@pytest.mark.slow
@pytest.mark.parametrize("offload", ["model", "group"])
def test_the_planned_peak_of_gradients_is_the_counted_one(wide, offload, monkeypatch):
    """On the CPU: what is made there beside the weights; with group offloading, their copies.

    The plan is above it: the meta device adds no gradient in place.
    """
    monkeypatch.setattr(weight_copies, "copy_of", lambda tensor, _: tensor.detach().clone())
    call = {"num_inference_steps": 1, "height": 64, "width": 64}
    config = PruningConfig(dtype="float32", allocation="sensitivity", **call)
    model = build_on_meta(wide.config("transformer"))
    blocks = find_blocks(layer_shapes(model))
    counted = gradient_bytes(model, example_inputs(model, 32, 32, 280), blocks, 2)
    plan = replace(device_plan(wide, config), gradients=counted)
    planned = plan.phases(offload, hessians=False)["allocating"]
    pipe, cpu = wide_sd3(), torch.device("cpu")
    model = pipe.transformer
    if offload == "group":
        apply_group_offloading(model, cpu, cpu, "block_level", num_blocks_per_group=1)
    else:
        planned -= plan.denoiser.whole
    layers = [layer for block in blocks for layer in block.layers]
    changes = {layer: {layer: torch.zeros_like(layer_at(model, layer).weight)} for layer in layers}
    known = [tensor for change in changes.values() for tensor in change.values()]
    known += [*model.parameters(), *model.buffers()]
    with context_of(pipe, CalibrationSet(PROMPTS[:1], [0], call)) as context:
        encode_first(context.run, context.calibration_set.batches(), call)
        with HeldBytes(known) as held:
            figures_of(context, changes, [0])
    assert held.peak <= planned < 1.2 * held.peak


def test_prune_takes_what_fits_on_a_card(sd3_folder, monkeypatch):
    monkeypatch.setattr(device_memory, "usable_device", lambda *_: torch.device("cuda"))
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda *_: (2**30, 2**30))
    folder, config = open_folder(Path(sd3_folder)), PruningConfig(height=16, width=16)
    placed, lines = device_memory.placed_config(folder, config)
    assert (placed.device, placed.offload) == ("cuda", "none")
    assert "1.0 GiB free" in lines[0]
    assert "--offload none" in lines[0]
    asked = replace(config, offload="group")
    assert device_memory.placed_config(folder, asked) == (replace(asked, device="cuda"), [])


def test_activations_that_cannot_be_counted_are_not_known(sd3_folder):
    """A picture larger than the model's positions; the run itself refuses it."""
    config = PruningConfig(height=4096, width=4096)
    plan = device_plan(open_folder(Path(sd3_folder)), config)
    assert plan.activations is None
    assert "activations not known" in device_line(device_row(plan, GIB))
