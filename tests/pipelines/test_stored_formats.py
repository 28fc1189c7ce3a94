"""Formats of a saved pipeline: untouched weights in every bit as stored, pruned ones by tensor."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from diffusers import DiffusionPipeline
from safetensors.torch import load_file, save_file

from obsdiff.cli.main import main
from obsdiff.models.client_marker import MARKER_KEY
from obsdiff.pipelines.stored_formats import copy_files, exact_format

from ..conftest import sd3
from ..support.lanes import first_quick

pytestmark = pytest.mark.filterwarnings("ignore::obsdiff.errors.CalibrationWarning")
TRANSFORMER = "transformer/diffusion_pytorch_model.safetensors"
ENCODER = "text_encoder/model.safetensors"
QUICK = [
    *("--num-prompts", "2", "--num-inference-steps", "2", "--height", "16", "--width", "16"),
    *("--device", "cpu"),
]


def mixed(tensors):
    """Float16, but float32 for every third tensor and for norms, with values of float32."""
    return {
        name: x.float() + 1e-5 if i % 3 == 0 or "norm" in name else x.half()
        for i, (name, x) in enumerate(sorted(tensors.items()))
        if x.is_floating_point()
    } | {name: x for name, x in tensors.items() if not x.is_floating_point()}


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("mixed") / "model"
    sd3().save_pretrained(folder)
    for file in (TRANSFORMER, ENCODER, "vae/diffusion_pytorch_model.safetensors"):
        save_file(mixed(load_file(folder / file)), folder / file, {"format": "pt"})
    return folder


def prune(model, out, prompts_file, *more):
    words = ["prune", str(model), "--output", str(out), "--prompts", prompts_file, *QUICK, *more]
    assert main(words) == 0
    return out


def bits(x):
    return x.dtype, x.shape, x.contiguous().view(torch.uint8).tolist()


@pytest.mark.parametrize(
    "pattern",
    first_quick([["--calibration", "single"], ["--pattern", "structured", "--round-to", "1"]]),
)
@pytest.mark.slow
def test_each_tensor_keeps_its_stored_format(model, prompts_file, tmp_path, pattern):
    out = prune(model, tmp_path / "out", prompts_file, *pattern)
    for file in (ENCODER, "vae/diffusion_pytorch_model.safetensors"):
        assert (out / file).read_bytes() == (model / file).read_bytes()
    before, after = load_file(model / TRANSFORMER), load_file(out / TRANSFORMER)
    assert (MARKER_KEY in after) == (len(pattern) > 2)  # heads were removed
    assert {name: x.dtype for name, x in after.items() if name != MARKER_KEY} == {
        name: x.dtype for name, x in before.items()
    }
    changed = {name for name in before if bits(before[name]) != bits(after[name])}
    record = json.loads((out / "obsdiff.json").read_text())
    layers = {row["name"] for row in record["layers"]}
    assert {f"{layer}.weight" for layer in layers} <= changed
    if len(pattern) == 2:
        assert changed == {f"{layer}.weight" for layer in layers}
    assert main(["verify", str(out)]) == 0


@pytest.mark.slow
def test_several_outputs_of_one_run_are_each_as_stored(model, prompts_file, tmp_path):
    out = prune(model, tmp_path / "out", prompts_file, "--sparsity", "0.3", "0.5")
    for part in ("0.30", "0.50"):
        assert (out / part / ENCODER).read_bytes() == (model / ENCODER).read_bytes()
        DiffusionPipeline.from_pretrained(out / part, text_encoder_3=None, tokenizer_3=None)
        assert main(["verify", str(out / part)]) == 0
    assert (out / "0.30" / ENCODER).samefile(out / "0.50" / ENCODER)
    assert not (out / "0.30" / TRANSFORMER).samefile(out / "0.50" / TRANSFORMER)
    assert not (out / "0.30" / ENCODER).samefile(model / ENCODER)


@pytest.mark.slow
def test_a_variant_is_copied_under_plain_names(model, prompts_file, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(model, folder)
    for file in folder.rglob("*.safetensors"):
        file.rename(file.with_suffix(".fp16.safetensors"))
    out = prune(folder, tmp_path / "out", prompts_file)
    assert (out / ENCODER).read_bytes() == (model / ENCODER).read_bytes()
    names = {file.name for file in out.rglob("*.safetensors")}
    assert names == {"model.safetensors", "diffusion_pytorch_model.safetensors"}


@pytest.mark.slow
def test_an_asked_format_is_that_of_all_weights_and_the_card_says_so(model, prompts_file, tmp_path):
    out = prune(model, tmp_path / "out", prompts_file, "--dtype", "bf16")
    for file in (TRANSFORMER, ENCODER):
        floats = {x.dtype for x in load_file(out / file).values() if x.is_floating_point()}
        assert floats == {torch.bfloat16}
    assert "in bfloat16" in (out / "README.md").read_text()


def test_shards_are_copied_with_an_index_that_names_them(tmp_path):
    parts = {"a": torch.ones(3), "b": torch.zeros(2, dtype=torch.half)}
    files = []
    for number, (name, x) in enumerate(parts.items(), 1):
        files.append(tmp_path / f"model.fp16-{number:05}-of-00002.safetensors")
        save_file({name: x}, files[-1])
    target = tmp_path / "target"
    target.mkdir()
    copy_files(tuple(files), target, "model")
    index = json.loads((target / "model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == 16
    assert index["weight_map"] == {
        "a": "model-00001-of-00002.safetensors",
        "b": "model-00002-of-00002.safetensors",
    }
    for name, file in index["weight_map"].items():
        assert bits(load_file(target / file)[name]) == bits(parts[name])


def test_a_tensor_without_a_stored_name_loses_no_value():
    fine = torch.tensor([1 + 2.0**-20])
    assert exact_format(fine, "float16", {"float16", "float32"}) == torch.float32
    assert exact_format(fine.half().float(), "float16", {"float32"}) == torch.float16
    assert exact_format(fine, "bfloat16", {"bfloat16"}) == torch.bfloat16
