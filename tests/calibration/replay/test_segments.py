import pytest
import torch

from obsdiff.calibration.hooks import calibrate
from obsdiff.calibration.replay.recording import Recording, TensorCache, recorded
from obsdiff.calibration.replay.segments import CallOrder, StopForward, answering, needed_until
from obsdiff.models.discovery import find_blocks
from obsdiff.models.linear_view import layer_shapes
from tests.calibration.test_hooks import calibration_set, denoiser_of, taps_of

from ...conftest import flux, sd, sd3
from ...support.contexts import context_of


def observed(pipe, steps: int = 2):
    """The order of the denoiser's segments, and the inputs of its first call."""
    with context_of(pipe, calibration_set(steps=steps, height=16, width=16)) as context:
        recording, order = Recording(TensorCache(context.scratch)), CallOrder(context.blocks)
        with recorded(context.run, context.denoiser, recording), order.watched(context.denoiser):
            calibrate(context, taps_of(pipe)[:1])
        return order, recording.cache.get_all(recording.calls[0].inputs)


@pytest.mark.parametrize(("make", "segments"), [(sd3, 3), (flux, 4)])
def test_a_transformer_is_a_chain(make, segments):
    pipe = make()
    order, inputs = observed(pipe)
    assert order.why_not() is None
    assert len(order.calls) == 2
    assert needed_until(denoiser_of(pipe), order, inputs) == [*range(1, segments), segments - 1]


def test_a_unets_skips_are_needed_until_their_level_goes_up():
    pipe = sd()
    order, inputs = observed(pipe)
    assert order.names == ["down_blocks.0", "mid_block.attentions.0", "up_blocks.1"]
    assert needed_until(denoiser_of(pipe), order, inputs) == [2, 2, 2]


def test_a_module_that_reads_an_early_output_again_is_found_out():
    pipe = sd3()
    block, kept = pipe.transformer.transformer_blocks, []
    block[0].register_forward_hook(lambda m, a, out: kept.append(out[1]))
    block[1].register_forward_hook(lambda m, a, out: (out[0], out[1] + 0 * kept[-1]))
    order, inputs = observed(pipe)
    assert needed_until(pipe.transformer, order, inputs)[0] == 2


def test_segments_that_answer_compute_nothing_and_come_back():
    pipe = sd3()
    order, (args, kwargs) = observed(pipe)
    blocks = pipe.transformer.transformer_blocks
    before = pipe.transformer(*args, **kwargs)[0]

    def stop():
        raise StopForward

    with answering(pipe.transformer, order.names, {1: stop}), pytest.raises(StopForward):
        pipe.transformer(*args, **kwargs)
    assert not any("forward" in vars(block) for block in blocks)
    assert torch.equal(pipe.transformer(*args, **kwargs)[0], before)


def test_blocks_that_are_skipped_or_looped_are_said():
    order = CallOrder(find_blocks(layer_shapes(sd3().transformer)))
    order.calls = [["transformer_blocks.0", "transformer_blocks.1"]]
    assert "not called once each" in order.why_not()
    order.calls = [list(order.candidates), list(order.candidates)[::-1]]
    assert "same order" in order.why_not()
