"""SDXL-like and FLUX-like pipelines from disk through the command line, all patterns; and prompts that do not fit a pipeline."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from diffusers import DDPMPipeline, DDPMScheduler, UNet2DModel
from safetensors.torch import save_file

from obsdiff import PruningConfig, UserError, prune_
from obsdiff.cli.main import main
from obsdiff.pipelines.call import check_prompts
from tests.cli.test_main import refused

from ..conftest import flux, sd, sd3, sdxl

pytestmark = pytest.mark.filterwarnings("ignore::obsdiff.errors.CalibrationWarning")
MODELS = {"sdxl": sdxl, "flux": flux}
# SDXL: down 1 x 2, middle 2, up 2 x 2 transformer blocks of 10 layers; FLUX: 2 double blocks of 12 and 2 single ones of 5
LAYERS = {"sdxl": 8 * 10, "flux": 2 * 12 + 2 * 5}
DRAW = """
import sys
if sys.argv[2] == "structured": import obsdiff
import torch
from diffusers import DiffusionPipeline
pipe = DiffusionPipeline.from_pretrained(sys.argv[1])
picture = pipe("fish", num_inference_steps=2, height=16, width=16, output_type="np", generator=torch.Generator().manual_seed(0)).images[0]
assert picture.shape == (16, 16, 3) and ("obsdiff" in sys.modules) == (sys.argv[2] == "structured")
print(type(pipe).__name__)
"""


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("kinds")
    for name, make in MODELS.items():
        make().save_pretrained(folder / name)
    return {name: folder / name for name in MODELS}


@pytest.mark.parametrize("pattern", ["unstructured", "2:4", "structured"])
@pytest.mark.parametrize("name", MODELS)
def test_from_disk_to_a_drawing(folders, prompts_file, tmp_path, name, pattern):
    argv = [
        "prune",
        str(folders[name]),
        "--output",
        str(tmp_path / "out"),
        "--prompts",
        prompts_file,
        "--pattern",
        pattern,
    ]
    quick = [
        "--num-prompts",
        "2",
        "--num-inference-steps",
        "2",
        "--height",
        "16",
        "--width",
        "16",
        "--packages",
        "2",
    ]
    assert (
        main(
            [
                *argv,
                *quick,
                *(["--no-keep-first-last", "--round-to", "1"] if pattern == "structured" else []),
            ]
        )
        == 0
    )
    record = json.loads((tmp_path / "out" / "obsdiff.json").read_text())
    if pattern == "structured":
        assert {(g["kind"], g["kept"] / g["total"]) for g in record["groups"]} == {
            ("heads", 0.5),
            ("neurons", 0.5),
        }
    else:
        assert len(record["layers"]) == LAYERS[name]
        assert record["sparsity"] == pytest.approx(0.5, abs=0.01)
    done = subprocess.run(
        [sys.executable, "-c", DRAW, str(tmp_path / "out"), pattern], capture_output=True, text=True
    )
    assert (
        done.stdout.strip() == {"sdxl": "StableDiffusionXLPipeline", "flux": "FluxPipeline"}[name]
    ), done.stderr


def test_a_denoiser_that_the_table_does_not_know(sd3_folder, tmp_path, capsys):
    folder = Path(shutil.copytree(sd3_folder, tmp_path / "model"))
    save_file(
        {f"blocks.{i}.mixer.{x}.weight": torch.ones(2, 2) for i in range(5) for x in "ab"},
        folder / "transformer" / "diffusion_pytorch_model.safetensors",
    )
    words = (
        "linear layers that no table entry covers: blocks.0.mixer.a, blocks.0.mixer.b, blocks.1.mixer.a",
        "and 2 more",
    )
    refused(
        capsys,
        ["prune", str(folder), "--output", str(tmp_path / "out")],
        f"{folder}/transformer",
        *words,
    )


@pytest.mark.parametrize("key", ["num_frames", "frame_rate"])
def test_video_settings_for_an_image_model(key):
    with pytest.raises(
        UserError, match=rf"StableDiffusion3Pipeline has no argument '{key}'; pass dicts.*prompt"
    ) as error:
        prune_(sd3(), [{"prompt": "fish", key: 16}], PruningConfig(packages=1))
    assert "\n" not in str(error.value)


def test_video_settings_are_no_flags(folders, tmp_path, capsys):
    refused(
        capsys,
        ["prune", str(folders["sdxl"]), "--output", str(tmp_path / "out"), "--fps", "16"],
        "--fps",
    )


def test_prompts_for_a_pipeline_without_a_text_encoder(tmp_path, prompts_file, capsys):
    pipe = sd()
    pipe.text_encoder = None
    with pytest.raises(UserError, match="has no text_encoder, so it reads no text"):
        prune_(pipe, ["fish"], PruningConfig(packages=1))
    check_prompts(pipe, [{"prompt_embeds": torch.zeros(1, 24, 16)}])
    pipe.save_pretrained(tmp_path / "model")
    refused(
        capsys,
        [
            "prune",
            str(tmp_path / "model"),
            "--output",
            str(tmp_path / "out"),
            "--prompts",
            prompts_file,
        ],
        "has no text_encoder",
    )


def test_prompts_for_a_pipeline_with_half_of_its_text_encoders():
    """SD3 does without its third, not without its first; what it stumbles over says so."""
    pipe = sd3()
    pipe.text_encoder = None
    with pytest.raises(UserError, match=r"it has no text_encoder and no text_encoder_3"):
        prune_(pipe, ["fish"], PruningConfig(packages=1, num_inference_steps=1))


def test_prompts_for_a_pipeline_that_takes_none():
    unet = UNet2DModel(
        sample_size=8,
        block_out_channels=(8, 8),
        down_block_types=("DownBlock2D",) * 2,
        up_block_types=("UpBlock2D",) * 2,
        norm_num_groups=4,
    )
    with pytest.raises(UserError, match=r"DDPMPipeline takes no text; pass dicts.*batch_size"):
        check_prompts(DDPMPipeline(unet, DDPMScheduler()), ["fish"])
