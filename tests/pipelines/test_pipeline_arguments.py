"""Components that a pipeline's class takes, and entries of model_index.json that it does not."""

import inspect
import json
import shutil
from pathlib import Path

import diffusers
import pytest
import torch

from obsdiff.errors import UserError
from obsdiff.pipelines.folder import open_folder
from obsdiff.pipelines.load import load_pipeline
from obsdiff.pipelines.pipeline_arguments import has_pipeline_module, taken_components


@pytest.fixture
def model(sd3_folder, tmp_path) -> Path:
    return Path(shutil.copytree(sd3_folder, tmp_path / "model"))


def add(model: Path, **entries) -> None:
    index = json.loads((model / "model_index.json").read_text())
    (model / "model_index.json").write_text(json.dumps(index | entries))


@pytest.mark.parametrize(
    "name",
    [
        "StableDiffusion3Pipeline",
        "StableDiffusionPipeline",
        "StableDiffusionXLPipeline",
        "StableDiffusionXLInpaintPipeline",
        "FluxPipeline",
        "FluxKontextPipeline",
        "WanPipeline",
        "DDPMPipeline",
        "DDIMPipeline",
        "PixArtSigmaPipeline",
        "SanaPipeline",
        "KandinskyV22CombinedPipeline",
        "StableDiffusionControlNetPipeline",
        "IFPipeline",
    ],
)
def test_the_source_says_what_the_class_says(name):
    real = inspect.signature(getattr(diffusers, name).__init__).parameters
    assert taken_components(name) == set(real) - {"self"}


def test_what_is_not_there_is_not_known():
    assert taken_components("NoSuchPipeline") is None
    assert taken_components("DiffusionPipeline") is None
    assert has_pipeline_module("flux")
    assert not any(map(has_pipeline_module, ("../flux", "os", "", "pipeline_utils", "a.b")))


EXTRA = {
    "controlnet_list": ["controlnet", "MultiControlNetModel"],
    "prior": ["diffusers", "PriorTransformer"],
    "gone": ["some_library", "Some.Class"],
    "empty": [None, None],
}


def test_entries_that_the_class_does_not_take_are_left_alone(model, tmp_path):
    add(model, **EXTRA)
    (model / "prior").mkdir()  # with or without a folder
    (model / "prior" / "config.json").write_text("no JSON")
    folder = open_folder(model)
    assert folder.ignored == ("controlnet_list", "prior", "gone")
    assert any("controlnet_list, prior, gone left alone" in note for note in folder.notes())
    assert not set(EXTRA) & {*folder.components, *folder.left_out}
    pipe, _ = load_pipeline(folder, device="cpu")
    pipe.save_pretrained(tmp_path / "out", safe_serialization=True)
    assert not set(EXTRA) & set(json.loads((tmp_path / "out" / "model_index.json").read_text()))
    again, _ = load_pipeline(open_folder(tmp_path / "out"), device="cpu")
    for one, other in zip(
        pipe.transformer.parameters(), again.transformer.parameters(), strict=True
    ):
        assert torch.equal(one, other)


def test_a_component_that_the_class_takes_is_still_missed(model):
    shutil.rmtree(model / "text_encoder_2")
    with pytest.raises(UserError, match="'text_encoder_2', but there is no such folder"):
        open_folder(model)
