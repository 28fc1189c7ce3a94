"""Runs of a pipeline for its latents: the pipeline's own ones, and no trace left in it."""

import pytest
import torch
from diffusers import EulerAncestralDiscreteScheduler

from obsdiff import UserError
from obsdiff.pipelines.run import Run, denoiser_call, prepared

from ..conftest import PROMPTS, sd, sd3

SETTINGS = {"num_inference_steps": 2, "guidance_scale": 3.0}


def test_the_latents_are_the_pipelines_own():
    pipe = sd3()
    generators = [torch.Generator().manual_seed(s) for s in (5, 6)]
    expected = pipe(PROMPTS[:2], generator=generators, output_type="latent", **SETTINGS).images
    with prepared(pipe) as run:
        torch.testing.assert_close(run.latents(PROMPTS[:2], [5, 6], SETTINGS), expected)


def test_a_prompts_noise_does_not_depend_on_its_batch():
    with prepared(sd3()) as run:
        together = run.latents(PROMPTS[:3], [0, 1, 2], SETTINGS)
        alone = torch.cat([run.latents([p], [i], SETTINGS) for i, p in enumerate(PROMPTS[:3])])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)


def test_a_samplers_noise_follows_the_seeds_too():
    """The pipeline sees that the step of an ancestral sampler takes the prompts' generators."""
    pipe, call = sd(), {"num_inference_steps": 3, "height": 16, "width": 16}
    pipe.scheduler = EulerAncestralDiscreteScheduler.from_config(pipe.scheduler.config)
    with prepared(pipe) as run:
        found = []
        for state in (1, 2):
            torch.manual_seed(state)
            found.append(run.latents(PROMPTS[:2], [5, 6], call))
        alone = run.latents(PROMPTS[1:2], [6], call)
    assert torch.equal(*found)
    torch.testing.assert_close(found[0][1:], alone, rtol=1e-2, atol=5e-3)


def test_text_is_encoded_once():
    pipe = sd3()
    calls = []
    pipe.text_encoder.register_forward_hook(lambda *_: calls.append(1))
    with prepared(pipe) as run:
        for _ in range(3):
            run.latents(PROMPTS[:2], [0, 1], SETTINGS)
    assert len(calls) == 2  # prompt and empty prompt


def test_the_vae_never_decodes():
    pipe = sd()
    calls = []
    pipe.vae.decoder.register_forward_hook(lambda *_: calls.append(1))
    with prepared(pipe) as run:
        run.latents(PROMPTS[:1], [0], SETTINGS)
    assert not calls


def test_everything_is_restored_even_after_an_error():
    pipe = sd3()
    pipe.transformer.train()
    pipe.set_progress_bar_config(desc="mine")
    before = (
        pipe.scheduler,
        pipe.scheduler.timesteps.clone(),
        dict(vars(pipe)),
        torch.random.get_rng_state(),
    )
    try:
        with prepared(pipe) as run:
            run.latents(PROMPTS[:1], [0], SETTINGS)
            torch.rand(3)
            raise KeyError("on purpose")
    except KeyError:
        pass
    assert pipe.scheduler is before[0]
    assert torch.equal(pipe.scheduler.timesteps, before[1])
    assert "step" not in vars(pipe.scheduler)
    assert "encode_prompt" not in vars(pipe)
    assert pipe._progress_bar_config == {"desc": "mine"}
    assert pipe.transformer.training
    assert torch.equal(torch.random.get_rng_state(), before[3])


def test_a_dict_is_one_call_of_its_own():
    with prepared(sd3()) as run:
        latents = run.latents([{"prompt": "fish", "height": 8, "width": 16}], [0], SETTINGS)
    assert latents.shape == (1, 4, 4, 8)


def test_a_replay_has_the_steps_of_its_recording():
    pipe = sd3()
    pipe.scheduler.set_timesteps(3)
    run = Run(pipe)
    assert run.steps == 3
    with run.recorded(7):
        run.at_call(5, 2)
        assert (run.steps, run.step, run.prompts) == (7, 5, 2)
    assert run.steps == 3
    with pytest.raises(KeyError), run.recorded(7):
        raise KeyError("on purpose")
    assert run.steps == 3


def test_the_first_call_of_the_denoiser_is_captured_and_its_hook_removed():
    pipe = sd3()
    small = {"num_inference_steps": 1, "guidance_scale": 1.0, "height": 16, "width": 16}
    found = denoiser_call(pipe, pipe.transformer, PROMPTS[0], small)
    assert found["hidden_states"].shape == (1, 4, 8, 8)
    assert not pipe.transformer._forward_pre_hooks
    with pytest.raises(UserError, match="draws without calling this Linear"):
        denoiser_call(pipe, torch.nn.Linear(1, 1), PROMPTS[0], small)
