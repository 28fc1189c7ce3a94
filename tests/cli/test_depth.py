"""Pattern depth on the command line: inspect predicts what prune leaves."""

import json

import pytest
from safetensors.torch import load_file

from obsdiff import PruningConfig
from obsdiff.cli import prediction
from obsdiff.cli.depth_prediction import predict_depth
from obsdiff.cli.main import main
from obsdiff.models.depth import changed_settings, stacks_of
from obsdiff.models.meta_device import build_on_meta, example_inputs

from ..conftest import ddpm, sd

FLAGS = [
    *("--pattern", "depth", "--num-prompts", "2", "--allocation-prompts", "1"),
    *("--num-inference-steps", "1", "--height", "16", "--width", "16"),
]


@pytest.mark.slow
def test_inspect_predicts_what_prune_leaves(sd3_folder, prompts_file, tmp_path, capsys):
    flags = [*FLAGS, "--prompts", prompts_file]
    assert main(["inspect", sd3_folder, *flags, "--json"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert plan["prediction"]["blocks"] == {"removed": 1, "total": 3}
    assert main(["inspect", sd3_folder, *flags]) == 0
    text = capsys.readouterr().out
    assert "1 of 3 blocks" in text
    assert "package" not in text
    out = tmp_path / "out"
    assert main(["prune", sd3_folder, "--output", str(out), *flags, "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["parameters"] == {
        "before": plan["prediction"]["dense"]["parameters"],
        "after": plan["prediction"]["pruned"]["parameters"],
    }
    assert record["depth"]["trials"] == 2  # the last of three blocks never leaves
    assert json.loads((out / "transformer" / "config.json").read_text())["num_layers"] == 2
    weights = load_file(out / "transformer" / "diffusion_pytorch_model.safetensors")
    assert {str(w.dtype) for w in weights.values()} == {"torch.float16"}  # as stored
    assert main(["verify", str(out)]) == 0
    few = ["--num-inference-steps", "1", "--height", "16", "--width", "16", "--num-prompts", "2"]
    run = [str(out), "--against", sd3_folder, "--output", str(tmp_path / "run"), *few]
    capsys.readouterr()
    assert main(["evaluate", *run, "--rounds", "0", "--prompts", prompts_file, "--json"]) == 0
    (evaluated,) = json.loads(capsys.readouterr().out)["runs"]
    assert evaluated["cost"]["blocks"] == {"removed": 1, "total": 3}
    assert evaluated["cost"]["macs"]["total"] < plan["prediction"]["dense"]["macs"]["total"] * 2
    page = tmp_path / "page.html"
    assert main(["report", str(tmp_path / "run"), "--output", str(page)]) == 0
    assert "1 of 3 blocks" in page.read_text()


def test_inspect_says_what_to_expect(sd3_folder, capsys):
    assert main(["inspect", sd3_folder, *FLAGS]) == 0
    text = capsys.readouterr().out
    assert "expect pictures to change visibly" in text
    assert "emoji-sd3 has a relative latent error of 0.49, repaired 0.46, emoji-unet 0.21" in text


def test_a_unet_gives_a_transformer_block(capsys):
    assert main(["inspect", "emoji-unet", *FLAGS, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["prediction"]
    assert found["blocks"] == {"removed": 1, "total": 4}
    assert found["dense"]["parameters"] - found["pruned"]["parameters"] > 0
    assert found["pruned"]["macs"]["total"] < found["dense"]["macs"]["total"]


@pytest.mark.parametrize("widths", [(16, 32), (16, 16)])
def test_no_run_leaves_more_than_is_predicted(widths):
    """Of a UNet the smallest blocks see the most tokens; blocks of one size see different ones."""
    config = json.loads(sd().unet.to_json_string()) | {"block_out_channels": widths}
    found = predict_depth(config, PruningConfig(pattern="depth"), (16, 16), 5)
    assert found["at_most"]
    dense = build_on_meta(config)
    left = [
        count(build_on_meta(config | changed_settings(config, stacks_of(dense), [name])))
        for name in (f"{stack.blocks}.0" for stack in stacks_of(dense))
    ]
    assert len(left) == 4
    assert found["pruned"]["parameters"] == max(one["parameters"] for one in left)
    assert found["pruned"]["macs"]["total"] == max(one["macs"]["total"] for one in left)


def count(model):
    return prediction.count(model, example_inputs(model, 16, 16, 5))


def test_export_does_not_say_that_a_folder_with_fewer_blocks_opens_everywhere(tmp_path, capsys):
    """ComfyUI must not open it: see docs/depth.md."""
    sd().save_pretrained(tmp_path / "sd")
    words = ["export", str(tmp_path / "sd"), "--to", "padded", "--output", str(tmp_path / "out")]
    assert main(words) == 2
    error = capsys.readouterr().err
    assert "the shapes of plain diffusers already" in error
    assert "wherever the dense model does" not in error


def test_a_unet_without_transformer_blocks_is_refused_by_name(tmp_path, capsys):
    ddpm().save_pretrained(tmp_path / "ddpm")
    words = ["prune", str(tmp_path / "ddpm"), "--output", "/nowhere/out", "--pattern", "depth"]
    assert main(words) == 2
    error = capsys.readouterr().err
    assert "found UNet2DModel, whose blocks can't leave" in error
    assert error.count("\n") == 1
