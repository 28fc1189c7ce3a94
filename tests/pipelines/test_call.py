"""Prompts and settings that do not fit a pipeline's call, and pipelines that run others."""

import numpy as np
import pytest
import torch
from diffusers import DDPMPipeline, DDPMScheduler, KandinskyV22CombinedPipeline, UNet2DModel

from obsdiff import PruningConfig, UserError, prune_
from obsdiff.pipelines.call import call_settings, check_prompts, choose_prompts, denoiser_name

from ..cli.test_main import refused
from ..conftest import sd, sd3


@pytest.mark.parametrize("key", ["num_frames", "frame_rate"])
def test_video_settings_for_an_image_model(key):
    with pytest.raises(
        UserError, match=rf"StableDiffusion3Pipeline .*'{key}'; .* dicts.*prompt"
    ) as error:
        prune_(sd3(), [{"prompt": "fish", key: 16}], PruningConfig(packages=1))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("settings", "steps"),
    [
        ({}, None),
        ({"step_share": 0.5}, 14),  # of the pipeline's own 28
        ({"step_share": 0.5, "num_inference_steps": 10}, 5),
        ({"step_share": 0.01, "num_inference_steps": 10}, 1),
        ({"step_share": 1, "num_inference_steps": 10}, 10),
    ],
)
def test_calibration_runs_a_share_of_the_steps(settings, steps):
    found = call_settings(sd3(), PruningConfig(**settings))
    assert found.get("num_inference_steps") == steps


def test_a_share_of_no_known_number_of_steps_is_refused():
    class Unsaid:
        def __call__(self, num_inference_steps=None): ...

    with pytest.raises(UserError, match="step_share: Unsaid has no number of steps of its own"):
        call_settings(Unsaid(), PruningConfig(step_share=0.5))


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
    with pytest.raises(UserError, match=r"DDPMPipeline accepts no text; .* dicts.*batch_size"):
        check_prompts(DDPMPipeline(unet, DDPMScheduler()), ["fish"])


def test_pipelines_that_run_others_are_refused():
    pipe = KandinskyV22CombinedPipeline.__new__(KandinskyV22CombinedPipeline)
    vars(pipe)["prior_pipe"] = sd3()
    with pytest.raises(UserError, match="runs other pipelines, StableDiffusion3Pipeline"):
        denoiser_name(pipe, None)


@pytest.mark.parametrize(
    ("prompts", "words"),
    [
        (["a cat", "a dog", None], r"found None as prompts\[2\]"),
        (["a cat", {"prompt": "a dog"}], r"found {'prompt': 'a dog'} as prompts\[1\]"),
        ([{"prompt": "a dog"}, "a cat"], r"found 'a cat' as prompts\[1\]"),
        ([np.bytes_(b"a")], r"prompts\[0\]"),
        ([], "empty list"),
        ("a cat", "found str"),
        (np.array("a cat"), "found ndarray"),
    ],
)
def test_the_first_prompt_of_a_wrong_type_is_named(prompts, words):
    with pytest.raises(UserError, match=words):
        choose_prompts(prompts, PruningConfig())


def test_prompts_of_numpy_are_strings():
    found, _ = choose_prompts(np.array(["a cat", "a dog"]), PruningConfig())
    assert [type(prompt) for prompt in found] == [str, str]
