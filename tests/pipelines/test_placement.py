"""Offloading for a run: the result of a plain run, little on the device, and all restored."""

import pytest
import torch

from obsdiff import PruningConfig, dense_pass, prune_
from obsdiff.errors import UserError
from obsdiff.pipelines import placement
from obsdiff.pipelines.placement import is_offloaded, models_of

from ..conftest import PROMPTS, flux, sd, sd3
from ..support.lanes import first_quick
from ..support.pretend_gpu import pretend_gpu

pytestmark = pytest.mark.filterwarnings("ignore::obsdiff.errors.CalibrationWarning")
QUICK = {"num_inference_steps": 2, "height": 16, "width": 16, "num_prompts": 3, "batch_size": 1}
RUNS = {
    "single": {},
    "replay": {"calibration": "replay", "packages": 2},
    "live": {"calibration": "live", "packages": 2},
    "structured": {"pattern": "structured", "round_to": 1, "calibration": "single"},
}


def denoiser(pipe):
    return getattr(pipe, "transformer", None) or pipe.unet


def bits(pipe):
    return {name: p.detach().cpu().clone() for name, p in denoiser(pipe).named_parameters()}


@pytest.fixture
def on_cpu(monkeypatch):
    """Let the CPU be a device to offload from: diffusers' hooks run as on an accelerator."""
    monkeypatch.setattr(placement, "require_offloadable", lambda pipe, device: None)


@pytest.mark.usefixtures("on_cpu")
@pytest.mark.parametrize("offload", ["model", "group"])
@pytest.mark.parametrize(
    ("make", "run"),
    first_quick([*((sd3, run) for run in RUNS), (sd, "single"), (flux, "replay")]),
)
@pytest.mark.slow
def test_an_offloaded_run_ends_with_the_bits_of_a_plain_one(make, offload, run):
    settings = QUICK | RUNS[run]
    plain, moved = make(), make()
    prune_(plain, PROMPTS, PruningConfig(**settings))
    report = prune_(moved, PROMPTS, PruningConfig(offload=offload, **settings))
    assert report.layers
    before, after = bits(plain), bits(moved)
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert not is_offloaded(moved)
    modules = [module for part in models_of(moved).values() for module in part.modules()]
    assert not any("forward" in vars(module) for module in modules)
    moved(PROMPTS[0], num_inference_steps=1, height=16, width=16, output_type="latent")


@pytest.mark.slow
@pytest.mark.usefixtures("on_cpu")
def test_several_prunings_share_an_offloaded_dense_pass():
    configs = [PruningConfig(offload="model", sparsity=s, **QUICK) for s in (0.3, 0.5)]
    pipe = sd3()
    with dense_pass(pipe, PROMPTS, configs) as dense:
        assert not is_offloaded(pipe)
        prune_(pipe, PROMPTS, configs[1], dense=dense)
    plain = sd3()
    prune_(plain, PROMPTS, PruningConfig(sparsity=0.5, **QUICK))
    wanted = bits(plain)
    assert all(torch.equal(w, wanted[name]) for name, w in bits(pipe).items())


@pytest.mark.usefixtures("on_cpu")
def test_text_is_encoded_once_before_the_denoiser_runs():
    pipe, order = sd3(), []
    pipe.text_encoder.register_forward_pre_hook(lambda *_: order.append("text"))
    pipe.transformer.register_forward_pre_hook(lambda *_: order.append("denoiser"))
    prune_(pipe, PROMPTS, PruningConfig(offload="model", guidance_scale=1.0, **QUICK))
    ran = [name for i, name in enumerate(order) if i == 0 or order[i - 1] != name]
    # stopped at the denoiser's door once a prompt, and then the denoiser alone
    assert order.count("text") == 3
    assert ran[-1] == "denoiser"
    assert "text" not in order[-2 * 3 :]


@pytest.mark.slow
@pytest.mark.parametrize("offload", ["model"])
def test_encoders_and_denoiser_are_not_on_the_device_together(offload):
    def peak(**settings):
        with pretend_gpu() as counts:
            pipe = sd3()
            sizes = {
                name: sum(p.nbytes for p in part.parameters())
                for name, part in models_of(pipe).items()
            }
            config = PruningConfig(device="pretend", **QUICK | settings)
            prune_(pipe, PROMPTS, config)
            return counts.peak, sizes

    whole, sizes = peak()
    less, _ = peak(offload=offload)
    others = sum(size for name, size in sizes.items() if name != "transformer")
    assert whole - less > 0.9 * others


def test_what_cannot_be_offloaded_is_one_line():
    with pytest.raises(UserError, match="offload: expected an accelerator as the device"):
        prune_(sd3(), PROMPTS, PruningConfig(offload="model", **QUICK))
    pipe = sd3()
    pipe.enable_model_cpu_offload(device="cpu")
    with (
        pytest.raises(UserError, match=r"offloaded already; leave the setting out"),
        placement.placed(pipe, "transformer", PruningConfig(offload="group", device="meta")),
    ):
        pass
