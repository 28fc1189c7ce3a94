"""What can't be saved is named before a run."""

import pytest
import torch
from diffusers import UNet2DConditionModel

from obsdiff import PruningConfig, UserError, prune_
from obsdiff.pipelines.saveable import require_saveable

from ..conftest import PROMPTS, flux, sd, sd3, sdxl

pytestmark = pytest.mark.filterwarnings("ignore::obsdiff.errors.CalibrationWarning")


@pytest.mark.parametrize("make", [sd, sd3, flux, sdxl])
def test_pipelines_of_diffusers_can_be_saved(make):
    pipe = make()
    require_saveable(pipe, "unet" if hasattr(pipe, "unet") else "transformer")


def test_a_pruned_model_can_be_saved_again():
    pipe = sd3()
    config = PruningConfig(
        pattern="structured", round_to=1, num_inference_steps=1, height=16, width=16
    )
    prune_(pipe, PROMPTS[:1], config)
    require_saveable(pipe, "transformer")


def test_a_config_that_is_no_json_is_named():
    pipe = sd()
    pipe.unet.register_to_config(mine=torch.device("cpu"))
    with pytest.raises(UserError, match="unet: expected a config that can be saved"):
        prune_(pipe, PROMPTS[:1], PruningConfig())


def test_a_model_without_some_of_its_blocks_is_named():
    pipe = sd3()
    del pipe.transformer.transformer_blocks[1]
    with pytest.raises(UserError, match=r"lacks transformer_blocks\."):
        prune_(pipe, PROMPTS[:1], PruningConfig())
    pipe.transformer.register_to_config(num_layers=2)
    require_saveable(pipe, "transformer")


def test_a_tie_anywhere_in_the_denoiser_is_named():
    pipe = sd()
    pipe.unet.conv_out.bias = pipe.unet.conv_in.bias
    with pytest.raises(UserError, match=r"unet\.conv_in\.bias and unet\.conv_out\.bias"):
        require_saveable(pipe, "unet")


def test_a_class_that_its_config_does_not_build_is_named():
    class Mine(UNet2DConditionModel):
        def __init__(self, *args, extra, **kwargs):
            super().__init__(*args, **kwargs)

    pipe = sd()
    pipe.unet.__class__ = Mine
    with pytest.raises(UserError, match="Mine that its config builds"):
        require_saveable(pipe, "unet")
