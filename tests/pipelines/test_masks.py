"""Zeros after a LoRA was fused: gone, found by verify, put back from the folder."""

import os

import pytest
import torch
from diffusers import DiffusionPipeline
from safetensors.torch import load_file, save_file

import obsdiff
from obsdiff import PruningConfig, UserError, apply_masks_, prune_, save_pruned
from obsdiff.cli.main import main
from obsdiff.pipelines.record import RECORD

from ..conftest import PROMPTS, sd, sd3
from ..support.loras import peft_lora

pytestmark = pytest.mark.filterwarnings("ignore::obsdiff.errors.CalibrationWarning")
QUICK = {"num_inference_steps": 2, "height": 16, "width": 16}
MISSING = {"text_encoder_3": None, "tokenizer_3": None}
WEIGHTS = "transformer/diffusion_pytorch_model.safetensors"


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A folder with 50 % zeros, and the report of its run."""
    pipe = sd3()
    report = prune_(pipe, PROMPTS[:1], PruningConfig(method="magnitude", packages=1, **QUICK))
    return save_pruned(pipe, tmp_path_factory.mktemp("pruned") / "out", report), report


def opened(folder):
    return DiffusionPipeline.from_pretrained(folder, **MISSING)


def fused(folder):
    pytest.importorskip("peft")
    pipe = opened(folder)
    pipe.load_lora_weights(peft_lora(pipe.transformer, "transformer.", "to_q", "ff.net.2"))
    pipe.fuse_lora()
    pipe.unload_lora_weights()
    return pipe


def test_the_zeros_come_back_and_the_rest_of_the_lora_stays(run):
    folder, report = run
    pipe, before = fused(folder), opened(folder).transformer.state_dict()
    filled = {name: weight.clone() for name, weight in pipe.transformer.state_dict().items()}
    layers = {f"{row.name}.weight" for row in report.layers}
    changed = sum(int(((before[n] == 0) & (filled[n] != 0)).sum()) for n in layers)
    assert apply_masks_(pipe, folder) == changed > 0
    for name, weight in pipe.transformer.state_dict().items():
        zero = (before[name] == 0) & (name in layers)
        assert torch.equal(weight, filled[name].masked_fill(zero, 0)), name
    assert apply_masks_(pipe, str(folder / RECORD)) == 0


def test_verify_says_that_the_zeros_are_gone(run, tmp_path, capsys):
    pipe = fused(run[0])
    copied = save_pruned(opened(run[0]), tmp_path / "copy", run[1])
    pipe.transformer.save_pretrained(copied / "transformer")
    capsys.readouterr()
    assert main(["verify", str(copied)]) == 1
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert "the zeros are gone in " in line
    assert f"{WEIGHTS} has changed" in line
    with pytest.raises(UserError, match=r"the zeros are gone: .* expected 50.00% by its record"):
        apply_masks_(pipe, copied)


def test_what_has_no_such_zeros_is_one_line(run, tmp_path):
    folder, report = run
    with pytest.raises(UserError, match="found PruningReport: which weights are zero"):
        apply_masks_(opened(folder), report)
    with pytest.raises(UserError, match=r"found no obsdiff\.json"):
        apply_masks_(opened(folder), tmp_path)
    with pytest.raises(UserError, match="StableDiffusionPipeline lacks"):
        apply_masks_(sd(), folder)
    with pytest.raises(UserError, match=r"expected a weight of \(32, 32\) as in .*, found one of"):
        apply_masks_(sd3_of_other_widths(), folder)
    pytest.importorskip("peft")
    pipe = opened(folder)
    pipe.load_lora_weights(peft_lora(pipe.transformer, "transformer.", "to_q"))
    with pytest.raises(UserError, match=r"unload_lora_weights\(\) first"):
        apply_masks_(pipe, folder)


def sd3_of_other_widths():
    pipe = sd3()
    layer = pipe.transformer.transformer_blocks[1].attn.to_q
    layer.weight = torch.nn.Parameter(layer.weight.detach()[:8])
    return pipe


def test_a_damaged_folder_changes_nothing(run, tmp_path):
    folder = save_pruned(opened(run[0]), tmp_path / "copy", run[1])
    pipe = fused(run[0])
    before = {name: weight.clone() for name, weight in pipe.transformer.state_dict().items()}
    stored = load_file(folder / WEIGHTS)
    last = f"{run[1].layers[-1].name}.weight"
    save_file({name: w for name, w in stored.items() if name != last}, folder / WEIGHTS)
    with pytest.raises(UserError, match=f"its weights lack {last}"):
        apply_masks_(pipe, folder)
    (folder / WEIGHTS).write_bytes(b"nothing")
    with pytest.raises(UserError, match="can't be read"):
        apply_masks_(pipe, folder)
    (folder / WEIGHTS).unlink()
    os.symlink(run[0] / WEIGHTS, folder / WEIGHTS)
    with pytest.raises(UserError, match="is a link"):
        apply_masks_(pipe, folder)
    assert all(torch.equal(before[n], w) for n, w in pipe.transformer.state_dict().items())


def test_a_structured_result_has_none(tmp_path):
    pipe = sd3()
    config = PruningConfig(method="random", packages=1, pattern="structured", **QUICK)
    folder = obsdiff.save_pruned(pipe, tmp_path / "out", prune_(pipe, PROMPTS[:1], config))
    with pytest.raises(UserError, match="found one of pattern structured"):
        apply_masks_(pipe, folder)
