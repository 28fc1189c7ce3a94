"""The command `plan`: the figures of `inspect`, the offload that fits, and a line to type."""

import json
import re
import shlex
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from obsdiff import PruningConfig, UserError
from obsdiff.calibration.device_plan import DevicePlan, Weights
from obsdiff.calibration.packages import GIB
from obsdiff.cli import plan_room
from obsdiff.cli.arguments import parse
from obsdiff.cli.device_memory import device_plan, device_row
from obsdiff.cli.inspect import describe
from obsdiff.cli.main import main
from obsdiff.cli.plan import plan_command
from obsdiff.cli.plan_outcomes import faster, target_row
from obsdiff.cli.plan_room import card_row, memory_row, phase_rows
from obsdiff.cli.plan_text import (
    card_lines,
    command_lines,
    gib,
    room_line,
    step_lines,
    target_lines,
)
from obsdiff.cli.prune import prune_command
from obsdiff.cli.run_plan import PresetRow, TargetRow
from obsdiff.models.meta_device import build_on_meta
from obsdiff.pipelines.folder import open_folder

from ..conftest import flux
from ..support.public_models import CLIP_L, FLUX_DEV, folder_of
from ..tiny_models import TINY

SIZE = ["--height", "16", "--width", "16"]


@pytest.mark.slow
def test_a_plan_has_the_figures_of_inspect_and_ends_with_a_command(sd3_folder, capsys, monkeypatch):
    argv = ["plan", sd3_folder, "--num-prompts", "8", "--num-inference-steps", "5", *SIZE]
    assert main([*argv, "--json"]) == 0
    plan = json.loads(capsys.readouterr().out)
    args = parse(shlex.split(plan["command"])[1:])
    assert (args.run, args.model, args.num_prompts) == (prune_command, sd3_folder, 8)
    assert (args.pattern, args.preset, args.output) == (["structured"], "best", Path("pruned"))
    presets = {row["preset"]: row["passes"] for row in plan["presets"]}
    assert (presets[None], presets["paper"], presets["best"]) == (40, 2 * 40, 40 + 4 * 4 * 5)
    assert presets["fast"] == 8 * 2 + 2 * 4 * 2  # half of the five steps
    gradients = {row["preset"]: row["with_gradients"] for row in plan["presets"]}
    assert (gradients[None], gradients["best"], gradients["fast"]) == (0, 4 * 4 * 5, 2 * 4 * 2)
    folder = open_folder(Path(sd3_folder))
    rows = {row["what"]: row for row in plan["outcomes"]}
    config = PruningConfig(pattern="structured", sparsity=0.3, height=16, width=16)
    found = describe(folder, config, 8)
    assert rows["structured 30%"]["parameters"] == found.prediction["pruned"]["parameters"]
    assert rows["structured 30%"]["macs"] == found.prediction["pruned"]["macs"]["total"]
    small = describe(folder, PruningConfig(preset="small", height=16, width=16), 8).prediction
    assert rows["small 20%"]["parameters"] == small["pruned"]["parameters"]
    depth = PruningConfig(pattern="depth", sparsity=0.1, height=16, width=16)
    shallow = describe(folder, depth, 8).prediction
    assert rows["depth 10%"]["parameters"] == shallow["pruned"]["parameters"]
    assert rows["depth 10%"]["macs"] == shallow["pruned"]["macs"]["total"]
    assert rows["depth 10%"]["leaving"] == "1 of 3 blocks"
    ratio = plan["dense_macs"] / rows["depth 10%"]["macs"]
    assert rows["depth 10%"]["speed"].startswith(f"yes, up to {ratio:.2f} times, but pictures")
    ratio = plan["dense_macs"] / rows["structured 30%"]["macs"]
    assert rows["structured 30%"]["speed"] == f"yes, up to {ratio:.2f} times"
    assert main(argv) == 0
    assert re.search(r"neurons leave; \d+ modulation layers are folded", capsys.readouterr().out)
    whole = sum(part["bytes"] for part in plan["parts"])
    assert rows["depth 10%"]["bytes"] < whole
    assert whole == sum(tensors.size for tensors in folder.components.values())
    assert rows["structured 30%"]["bytes"] < rows["2:4"]["bytes"] == whole
    targeted = describe(folder, PruningConfig(pattern="2:4"), 8).targeted_parameters
    assert rows["2:4"]["zeros"] == pytest.approx(0.5 * targeted / rows["2:4"]["parameters"])
    assert plan["step_seconds"] > 0
    assert plan["disk"]["fits"]
    monkeypatch.setattr(plan_room, "free_disk", lambda output: 1000)
    assert main([*argv, "--target-vram", "1", "--pattern", "2:4", "--output", "out dir"]) == 0
    text, err = capsys.readouterr()
    assert "None" not in text
    assert "TOO LITTLE; choose an --output on a larger disk" in text
    assert "it draws there with --offload none, unpruned" in text
    assert main([*argv, "--vram", "2", "--target-vram", "1e-6"]) == 0
    unmet, err = capsys.readouterr()
    assert "two cards: prune runs on that of --vram 2" in unmet
    assert "to prune to" not in unmet
    assert unmet.splitlines()[-1].startswith("no command: ")
    assert "last line" not in err
    assert text.splitlines()[-1].endswith("--pattern 2:4 --output 'out dir'")
    assert err.startswith("next: ")


def test_a_unet_gives_transformer_blocks(capsys):
    assert main(["plan", "emoji-unet", "--vram", "8", "--json"]) == 0
    plan = json.loads(capsys.readouterr().out)
    rows = {row["what"]: row for row in plan["outcomes"]}
    assert rows["depth 10%"]["macs"] < plan["dense_macs"]
    assert rows["depth 10%"]["leaving"] == "1 of 4 blocks"


def test_a_class_whose_blocks_cannot_leave_says_so(tmp_path, capsys):
    unet = {"_class_name": "UNet3DConditionModel"} | TINY["UNet3DConditionModel"][0]
    clip = {"text_encoder": (("transformers", "CLIPTextModel"), CLIP_L | {"num_hidden_layers": 1})}
    folder = folder_of(tmp_path / "video", "TextToVideoSDPipeline", "unet", unet, clip)
    size = ["--height", "64", "--width", "64"]
    assert main(["plan", folder, "--vram", "8", *size, "--json"]) == 0
    rows = {row["what"]: row for row in json.loads(capsys.readouterr().out)["outcomes"]}
    assert rows["depth 10%"]["why_not"] == "whole blocks of UNet3DConditionModel can't leave"


@pytest.mark.slow
def test_flux_needs_no_size_and_takes_the_offload_that_inspect_takes(tmp_path, capsys):
    model = FLUX_DEV | {"num_layers": 2, "num_single_layers": 1}
    clip = {"text_encoder": (("transformers", "CLIPTextModel"), CLIP_L | {"num_hidden_layers": 1})}
    folder = folder_of(tmp_path / "flux", "FluxPipeline", "transformer", model, clip)
    assert main(["plan", folder, "--vram", "4", "--ram", "8", "--json"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert (plan["settings"]["height"], plan["settings"]["width"]) == (1024, 1024)
    assert (plan["stored"], plan["step_seconds"], plan["dense_macs"] > 0) == (False, None, True)
    row = device_row(
        device_plan(open_folder(Path(folder), weights=False), PruningConfig(**config_in(plan))),
        4 * GIB,
    )
    assert (plan["card"]["offload"], plan["card"]["fits"]) == (row.offload, row.fits)
    totals = {p["name"]: p["weights"] + p["hessians"] + p["work"] for p in plan["card"]["phases"]}
    assert {name: size / GIB for name, size in totals.items()} == pytest.approx(row.phases_gib)
    assert plan["memory"]["free"] == 8 * GIB


def config_in(plan):
    """The settings of a plan's JSON."""
    return {name: value for name, value in plan["config"].items() if value is not None}


PLAN = DevicePlan(Weights(100, 90, 10), {"a": 30}, {"vae": 5}, 7, 20, 16, 12, 9, 80)


@pytest.mark.parametrize("hessians", [True, False])
@pytest.mark.parametrize("offload", ["none", "model", "group"])
@pytest.mark.parametrize("plan", [PLAN, PLAN.drawing_alone(), replace(PLAN, activations=None)])
def test_the_parts_of_a_phase_are_its_sum(plan, offload, hessians):
    rows = phase_rows(plan, offload, hessians)
    assert {row.name: row.total for row in rows} == plan.phases(offload, hessians)
    assert all(min(row.weights, row.hessians, row.work) >= 0 for row in rows)


def test_faster_is_a_factor_of_operations_at_most():
    dense, half, unknown = ({"macs": {"total": macs}} for macs in (100, 50, None))
    assert faster(dense, half) == "yes, up to 2.00 times"
    assert faster(dense, dense) == "no: nothing leaves"
    assert faster(unknown, unknown) == "yes"


BY_GRADIENTS = PruningConfig(allocation="sensitivity")


def test_what_is_not_counted_is_not_said_to_fit():
    plan = replace(PLAN, activations=None, gradients=None)
    row = card_row(plan, 300 * GIB, "", BY_GRADIENTS, "bfloat16")
    assert (row.fits, row.uncounted) == (None, ["activations", "gradients (the phase allocating)"])
    assert (
        "not known whether it fits: at least 1.6e-07 GiB, activations and gradients (the phase "
        "allocating) not counted, with --offload none"
    ) in next(card_lines(row))
    known = card_row(PLAN, 300 * GIB, "", BY_GRADIENTS, "bfloat16")
    assert (known.fits, known.uncounted) == (True, [])
    host, _ = memory_row(plan, None, 6.0, BY_GRADIENTS, "float32")
    assert host.fits is None
    assert "not known whether it fits: at least" in room_line("memory", host, gib, "GiB")


def test_what_does_not_fit_has_a_way_out():
    drawn = replace(PLAN, activations=90, gradients=None)
    row = card_row(drawn, 100, "", PruningConfig(), "float32")
    ways = "fewer pixels (--height, --width), a smaller --batch-size, --dtype bfloat16"
    assert row.advice == f"try {ways}, a larger card, or --device cpu"
    assert "TOO LITTLE with --offload group; try fewer pixels" in next(card_lines(row))
    kept = card_row(PLAN, 100, "", PruningConfig(offload="none"), "bfloat16")
    assert kept.advice == "--offload group fits"
    small = card_row(PLAN, 1, "", PruningConfig(), "bfloat16")
    assert small.advice == "try a larger card, or --device cpu"
    host, _ = memory_row(PLAN, None, 1e-9, PruningConfig(), "bfloat16")
    line = room_line("memory", host, gib, "GiB")
    assert "TOO LITTLE; try a machine with more memory (" in line


def test_a_target_that_is_not_met_has_no_command():
    unmet = TargetRow(8 * GIB, "group", 0.4, 9 * GIB, 20 * GIB, False, "try a larger card")
    plan = SimpleNamespace(target=unmet, command="", chosen="structured 40%")
    (line,) = target_lines(plan)
    assert line.endswith("even structured 40% does not fit, 9.0 GiB with --offload group")
    assert command_lines(plan) == [
        "no command: the result would not draw on the card of --target-vram; try a larger card"
    ]


def test_passes_with_gradients_are_said_apart():
    rows = [PresetRow(None, 1250), PresetRow("best", 1650, 400)]
    plan = SimpleNamespace(prompts=25, settings={}, presets=rows, step_seconds=None)
    _, default, best = step_lines(plan)
    assert default.split() == ["default", "1,250"]
    assert best.endswith("1,250 + 400 with gradients")
    plan.step_seconds = 0.2
    _, default, best, measured = step_lines(plan)
    assert default.endswith("1,250, at least 4 min")
    assert best.endswith("1,250 + 400 with gradients, at least 4 min + 80 s")
    assert "0.2 s here, measured" in measured


def test_hessians_beyond_half_of_the_free_memory_rest_in_files():
    plan = replace(PLAN, hessians=10 * GIB, beside=8 * GIB, solving=GIB)
    config = PruningConfig(calibration="single")
    row, in_files = memory_row(plan, None, 6.0, config, "float32")
    assert in_files == pytest.approx(7 * GIB, rel=0.001)  # 3 of 10 are in memory
    assert row.needed + in_files == pytest.approx(11 * GIB, rel=0.001)
    assert row.fits
    assert memory_row(plan, None, 60.0, config, "float32")[1] == 0
    budget = replace(config, memory_budget_gib=3.0)
    assert memory_row(plan, None, 60.0, budget, "float32")[1] == 8 * GIB
    with pytest.raises(UserError, match="ram: expected GiB above 0, found 0"):
        memory_row(plan, None, 0.0, config, "float32")


def test_a_card_is_met_by_the_least_pruning():
    pipe = flux()
    model = build_on_meta({"_class_name": "FluxTransformer2DModel", **pipe.transformer.config})
    plan = replace(PLAN.drawing_alone(), denoiser=Weights.of(model), encoders={}, others={})
    config, dense = PruningConfig(keep_first_last=False), plan.peak("none") / 0.94
    whole = target_row(plan, model, config, round(dense) + 1)
    assert (whole.offload, whole.sparsity, whole.fits) == ("none", 0.0, True)
    some = target_row(plan, model, config, round(0.95 * dense))
    assert (some.offload, some.fits) == ("none", True)
    assert 0 < some.sparsity <= 0.4
    assert some.peak <= 0.94 * 0.95 * dense < some.dense_peak
    little = target_row(plan, model, config, round(0.6 * dense))
    assert little.offload == "group"
    assert not target_row(plan, model, config, 1).fits
    unmet = target_row(plan, model, config, 1, "float32")
    assert unmet.advice == "try --dtype bfloat16, a larger card"


@pytest.mark.parametrize(
    ("flags", "word"), [(["--vram", "0"], "vram"), (["--target-latency", "0.8"], "target_latency")]
)
@pytest.mark.slow
def test_what_cannot_be_planned_is_one_line(sd3_folder, capsys, flags, word):
    more = ["--pattern", "structured"] if "latency" in word else []
    assert main(["plan", sd3_folder, *flags, *more, *SIZE]) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert word in err
    assert parse(["plan", sd3_folder]).run is plan_command


@pytest.mark.parametrize("command", ["plan", "inspect"])
def test_a_wrong_value_of_a_config_is_named_with_its_file(tmp_path, capsys, command):
    model = FLUX_DEV | {"num_layers": "many"}
    folder = folder_of(tmp_path / "flux", "FluxPipeline", "transformer", model, {})
    assert main([command, folder, "--vram", "24"]) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert f"can't be built from {folder}/transformer/config.json: " in err
    assert "correct the value there, or fetch the file again" in err
