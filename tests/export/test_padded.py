"""Padded folders: plain diffusers, stored as before, the same pictures; whole or not at all."""

import json

import pytest
import torch
from diffusers import DiffusionPipeline
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from obsdiff import PruningConfig, prune_, save_pruned
from obsdiff.cli.main import main
from obsdiff.export import padded

from ..conftest import PROMPTS, flux, sd, sd3, sdxl
from ..support.lanes import first_quick

pytestmark = pytest.mark.filterwarnings("ignore::obsdiff.errors.CalibrationWarning")
QUICK = {"num_inference_steps": 2, "guidance_scale": 3.0, "height": 16, "width": 16}


def saved(make, folder, **settings):
    """A pipeline pruned at random, on disk."""
    pipe = make()
    config = PruningConfig(method="random", packages=1, keep_first_last=False, **settings, **QUICK)
    return save_pruned(pipe, folder, prune_(pipe, PROMPTS[:1], config))


def latents(folder):
    index = json.loads((folder / "model_index.json").read_text())
    missing = {name: None for name in ("text_encoder_3", "tokenizer_3") if name in index}
    pipe = DiffusionPipeline.from_pretrained(folder, **missing)
    noise = torch.Generator().manual_seed(0)
    return pipe, pipe(PROMPTS[0], generator=noise, output_type="latent", **QUICK).images


@pytest.mark.slow
@pytest.mark.parametrize("make", first_quick([sd3, sd, sdxl, flux]), ids=lambda make: make.__name__)
def test_a_padded_folder_is_plain_and_draws_the_same(make, tmp_path):
    folder = saved(make, tmp_path / "pruned", pattern="structured", sparsity=0.4)
    assert main(["export", str(folder), "--to", "padded", "--output", str(tmp_path / "out")]) == 0
    text = "".join(f.read_text() for f in (tmp_path / "out").rglob("*.json") if f.is_file())
    assert str(tmp_path) not in text
    assert "obsdiff" not in text
    assert "Pruned" not in text
    assert "in dense shapes" in (tmp_path / "out" / "README.md").read_text()
    (_, expected), (pipe, found) = latents(folder), latents(tmp_path / "out")
    part = getattr(pipe, "transformer", None) or pipe.unet
    assert type(part).__module__.startswith("diffusers.")
    assert (found - expected).abs().max() <= 1e-5 * expected.abs().max()


@pytest.mark.slow
def test_weights_are_stored_in_the_format_of_the_pruned_folder(tmp_path):
    folder = saved(lambda: sd().to(torch.float16), tmp_path / "p", pattern="structured")
    assert main(["export", str(folder), "--to", "padded", "--output", str(tmp_path / "out")]) == 0
    file = tmp_path / "out" / "unet" / "diffusion_pytorch_model.safetensors"
    with safe_open(file, "pt") as stored:
        assert {stored.get_slice(name).get_dtype() for name in stored.keys()} == {"F16"}  # noqa: SIM118


@pytest.mark.slow
def test_what_was_not_pruned_is_copied(tmp_path):
    folder = saved(sd3, tmp_path / "pruned", pattern="structured")
    name = "text_encoder/model.safetensors"
    stored = {key: x if "bias" in key else x.half() for key, x in load_file(folder / name).items()}
    save_file(stored, folder / name, {"format": "pt"})
    assert main(["export", str(folder), "--to", "padded", "--output", str(tmp_path / "out")]) == 0
    for file in (name, "tokenizer/tokenizer.json", "scheduler/scheduler_config.json"):
        assert (tmp_path / "out" / file).read_bytes() == (folder / file).read_bytes()


def refused(capsys, *words) -> str:
    assert main(["export", *map(str, words)]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    return line


def test_what_is_not_structured_is_refused(capsys, tmp_path, sd3_folder):
    line = refused(capsys, sd3_folder, "--to", "padded", "--output", tmp_path / "out")
    assert "expected a structured result of obsdiff, or one with low_rank or modulation" in line
    assert not (tmp_path / "out").exists()


def test_the_output_is_new_and_apart_from_the_folder(capsys, tmp_path, sd3_folder):
    (tmp_path / "there").mkdir()
    line = refused(capsys, sd3_folder, "--to", "padded", "--output", tmp_path / "there")
    assert line.endswith("there exists already; choose another")
    line = refused(capsys, sd3_folder, "--to", "padded", "--output", f"{sd3_folder}/inside")
    assert "overlap" in line
    line = refused(capsys, sd3_folder, "--to", "ckpt", "--output", tmp_path / "out")
    assert "to: expected one of padded, with-code, nunchaku-lite, single-file" in line
    assert line.endswith("found 'ckpt'")
    line = refused(capsys, tmp_path / "none", "--to", "padded", "--output", tmp_path / "out")
    assert "none" in line


@pytest.mark.slow
def test_a_run_that_fails_leaves_nothing(monkeypatch, tmp_path):
    folder = saved(sd, tmp_path / "pruned", pattern="structured")

    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(padded, "forget_places", fail)
    assert main(["export", str(folder), "--to", "padded", "--output", str(tmp_path / "out")]) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["pruned"]
