"""SDXL-like and FLUX-like pipelines from disk through the command line, all patterns."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from obsdiff.cli.main import main

from ..cli.test_main import refused
from ..conftest import flux, sdxl

pytestmark = pytest.mark.filterwarnings("ignore::obsdiff.errors.CalibrationWarning")
MODELS = {"sdxl": sdxl, "flux": flux}
# SDXL: down 1 x 2, middle 2, up 2 x 2 transformer blocks of 10 layers; FLUX: 2 double blocks of 12
# and 2 single ones of 5
LAYERS = {"sdxl": 8 * 10, "flux": 2 * 12 + 2 * 5}
DRAW = """
import sys
if sys.argv[1] == "structured": import obsdiff
import torch
from diffusers import DiffusionPipeline
settings = dict(num_inference_steps=2, height=16, width=16, output_type="np")
for folder in sys.argv[2:]:
    pipe = DiffusionPipeline.from_pretrained(folder)
    picture = pipe("fish", **settings, generator=torch.Generator().manual_seed(0)).images[0]
    assert picture.shape == (16, 16, 3)
    print(type(pipe).__name__)
assert ("obsdiff" in sys.modules) == (sys.argv[1] == "structured")
"""
CLASSES = {"sdxl": "StableDiffusionXLPipeline", "flux": "FluxPipeline"}


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("kinds")
    for name, make in MODELS.items():
        make().save_pretrained(folder / name)
    return {name: folder / name for name in MODELS}


@pytest.mark.slow
@pytest.mark.parametrize("patterns", [["unstructured", "2:4"], ["structured"]])
def test_from_disk_to_a_drawing(folders, prompts_file, tmp_path, patterns):
    """Pruned by the command line, and all of them drawn by one process of diffusers."""
    runs = {
        (name, pattern): tmp_path / f"{name} {pattern}" for name in MODELS for pattern in patterns
    }
    for (name, pattern), out in runs.items():
        prune(folders[name], out, prompts_file, pattern)
        record = json.loads((out / "obsdiff.json").read_text())
        if pattern == "structured":
            assert {(g["kind"], g["kept"] / g["total"]) for g in record["groups"]} == {
                ("heads", 0.5),
                ("neurons", 0.5),
            }
        else:
            assert len(record["layers"]) == LAYERS[name]
            assert record["sparsity"] == pytest.approx(0.5, abs=0.01)
    argv = [sys.executable, "-c", DRAW, patterns[0], *map(str, runs.values())]
    done = subprocess.run(argv, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [CLASSES[name] for name, _ in runs]


def prune(model: Path, out: Path, prompts: str, pattern: str) -> None:
    """Prune two packages on two small pictures."""
    argv = ["prune", str(model), "--output", str(out), "--prompts", prompts, "--pattern", pattern]
    quick = ["--num-prompts", "2", "--num-inference-steps", "2", "--packages", "2"]
    size = ["--height", "16", "--width", "16"]
    whole = ["--no-keep-first-last", "--round-to", "1"] if pattern == "structured" else []
    assert main([*argv, *quick, *size, *whole]) == 0


def test_a_denoiser_that_the_table_does_not_know(sd3_folder, tmp_path, capsys):
    folder = Path(shutil.copytree(sd3_folder, tmp_path / "model"))
    save_file(
        {f"blocks.{i}.mixer.{x}.weight": torch.ones(2, 2) for i in range(5) for x in "ab"},
        folder / "transformer" / "diffusion_pytorch_model.safetensors",
    )
    words = (
        "linear layers that no table entry covers: blocks.0.mixer.a, blocks.0.mixer.b, "
        "blocks.1.mixer.a",
        "and 2 more",
    )
    refused(
        capsys,
        ["prune", str(folder), "--output", str(tmp_path / "out")],
        f"{folder}/transformer",
        *words,
    )


def test_video_settings_are_no_flags(folders, tmp_path, capsys):
    refused(
        capsys,
        ["prune", str(folders["sdxl"]), "--output", str(tmp_path / "out"), "--fps", "16"],
        "--fps",
    )
