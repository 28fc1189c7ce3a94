"""The last step of a calibration is cut short; nothing of what is gathered changes."""

from collections import Counter

import pytest
import torch
from diffusers import HeunDiscreteScheduler

from obsdiff.calibration import calibrate
from obsdiff.running import prepared

from .conftest import flux, sd, sd3
from .test_calibration import denoiser_of, gather, plan, taps_of

SIZE = {"height": 16, "width": 16}


def heun():
    pipe = sd()
    pipe.scheduler = HeunDiscreteScheduler.from_config(pipe.scheduler.config)
    return pipe


def counted(pipe) -> Counter:
    """How often each block's feed-forward is called from now on."""
    calls = Counter()
    for name, module in denoiser_of(pipe).named_modules():
        if name.endswith(".ff"):
            module.register_forward_pre_hook(lambda *_, name=name: calls.update([name]))
    return calls


@pytest.mark.parametrize("make", [sd3, flux, sd, heun])
@pytest.mark.parametrize("first", [True, False], ids=["first layers", "all layers"])
def test_the_hessians_are_those_of_whole_calls(make, first):
    pipe, job = make(), plan(prompts=3, batch=2, **SIZE)
    taps = taps_of(pipe)[:3] if first else taps_of(pipe)
    found = gather(pipe, job, taps)
    with prepared(pipe) as run:
        whole = calibrate(run, denoiser_of(pipe), taps, job, to_the_end=True)
    for tap in taps:
        assert torch.equal(found[tap].xx, whole[tap].xx)
        assert (found[tap].samples, found[tap].alpha) == (whole[tap].samples, whole[tap].alpha)


def test_later_blocks_rest_in_the_last_step_alone():
    pipe = sd3()
    calls = counted(pipe)
    gather(pipe, plan(steps=4), taps_of(pipe)[:1])
    assert calls == {"transformer_blocks.0.ff": 3, "transformer_blocks.1.ff": 3, "transformer_blocks.2.ff": 3}


def test_a_single_step_is_computed_whole_and_the_model_is_left_as_it_was():
    pipe = sd3()
    calls = counted(pipe)
    gather(pipe, plan(steps=1), taps_of(pipe)[:1])
    assert set(calls.values()) == {1}
    assert "forward" not in vars(pipe.transformer)
