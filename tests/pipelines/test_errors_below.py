"""Errors from below a pipeline's call: one line that says who raised them."""

import pytest

from obsdiff import PruningConfig, prune_
from obsdiff.errors import RunFailed
from obsdiff.pipelines.errors_below import one_line_errors
from obsdiff.pipelines.run import prepared

from ..conftest import PROMPTS, sd

SETTINGS = {"num_inference_steps": 2, "guidance_scale": 3.0}


def test_a_schedulers_index_error_names_the_scheduler():
    pipe = sd()
    with pytest.raises(RunFailed, match=r"DDIMScheduler\..* raised IndexError: ") as caught:
        prune_(pipe, PROMPTS[:1], PruningConfig(num_inference_steps=1000, num_prompts=1))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("error", [KeyError("x"), ZeroDivisionError(), OSError("gone\nhere")])
def test_every_kind_of_error_becomes_one_line(error, monkeypatch):
    pipe = sd()

    def fail(*args, **kwargs):
        raise error

    with prepared(pipe) as run:
        monkeypatch.setattr(pipe.unet, "forward", fail)
        with pytest.raises(RunFailed, match=type(error).__name__) as caught:
            run.latents(PROMPTS[:1], [0], SETTINGS)
    assert "\n" not in str(caught.value)
    assert caught.value.__cause__ is error


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("CUDA out of memory"), EOFError()])
def test_a_lack_of_memory_and_errors_on_purpose_pass(error):
    with pytest.raises(type(error)), one_line_errors(sd(), EOFError):
        raise error


def test_an_error_of_our_own_hook_is_blamed_on_no_prompt_and_no_library(monkeypatch):
    """A bug, or an operator that a device lacks: the command line shows where it is."""
    monkeypatch.setattr("obsdiff.calibration.hessian.add_products_", int)
    with pytest.raises(TypeError, match="int"):
        prune_(sd(), PROMPTS[:1], PruningConfig(num_inference_steps=1, num_prompts=1))
