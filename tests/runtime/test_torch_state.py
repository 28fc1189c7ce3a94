"""States of torch around the call: the result is that of a plain call, and they are restored."""

import contextlib

import pytest
import torch

from obsdiff import PruningConfig, dense_pass, prune_
from obsdiff.runtime.torch_state import plain_torch

from ..conftest import PROMPTS, sd3
from ..support.lanes import first_quick

pytestmark = pytest.mark.filterwarnings("ignore::obsdiff.errors.CalibrationWarning")
QUICK = {
    "num_inference_steps": 2,
    "height": 16,
    "width": 16,
    "include": ("*.1.attn.to_*", "*.2.ff.net.2"),
}


@contextlib.contextmanager
def default_dtype():
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)


@contextlib.contextmanager
def deterministic():
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)


STATES = {
    "autocast": lambda: torch.autocast("cpu", dtype=torch.bfloat16),
    "inference mode": torch.inference_mode,
    "no gradients": torch.no_grad,
    "default dtype": default_dtype,
    "default device": lambda: torch.device("meta"),
    "deterministic algorithms": deterministic,
}
RUNS = {
    "obs, live": {"calibration": "live", "packages": 2},
    "lstsq, replay": {"calibration": "replay", "packages": 2, "refine": "lstsq"},
    "alps": {"method": "alps", "calibration": "single"},
    "wanda": {"method": "wanda", "pattern": "2:4", "calibration": "single"},
    "structured": {"pattern": "structured", "round_to": 1, "calibration": "single"},
}


def weights(pipe):
    return {name: p.detach().clone() for name, p in pipe.transformer.named_parameters()}


@pytest.mark.parametrize("run", first_quick(RUNS.values()), ids=RUNS)
@pytest.mark.slow
def test_the_result_is_that_of_a_plain_call(run):
    include = {} if run.get("pattern") == "structured" else {"include": QUICK["include"]}
    config = PruningConfig(**{k: v for k, v in QUICK.items() if k != "include"} | include | run)
    expected = sd3()
    prune_(expected, PROMPTS[:1], config)
    wanted = weights(expected)
    for name, state in STATES.items():
        pipe = sd3()
        with state():
            prune_(pipe, PROMPTS[:1], config)
        found = weights(pipe)
        assert all(torch.equal(found[key], wanted[key]) for key in wanted), name
        assert not any(p.is_inference() for p in pipe.transformer.parameters()), name


def test_a_shared_dense_pass_is_made_without_autocast():
    config = PruningConfig(calibration="single", **QUICK)
    plain = sd3()
    prune_(plain, PROMPTS[:1], config)
    pipe = sd3()
    with (
        torch.autocast("cpu", dtype=torch.bfloat16),
        dense_pass(pipe, PROMPTS[:1], [config]) as dense,
    ):
        assert torch.is_autocast_enabled("cpu")
        prune_(pipe, PROMPTS[:1], config, dense=dense)
    wanted = weights(plain)
    assert all(torch.equal(w, wanted[name]) for name, w in weights(pipe).items())


@pytest.mark.parametrize("state", STATES.values(), ids=STATES)
def test_the_states_are_restored(state):
    def states():
        return (
            torch.is_autocast_enabled("cpu"),
            torch.is_inference_mode_enabled(),
            torch.is_grad_enabled(),
            torch.get_default_dtype(),
            torch.get_default_device(),
            torch.are_deterministic_algorithms_enabled(),
            torch.is_deterministic_algorithms_warn_only_enabled(),
        )

    with state():
        before = states()
        with contextlib.suppress(KeyError), plain_torch():
            assert not torch.is_autocast_enabled("cpu")
            assert torch.zeros(1).dtype == torch.float32
            assert torch.zeros(1).device.type == "cpu"
            raise KeyError
        assert states() == before
