"""Allocation in a whole run: the budget is kept, what is measured is measured, and the model is put back."""

import copy

import pytest
import torch

from obsdiff import PruningConfig, dense_pass, prune_
from obsdiff.errors import UserError
from obsdiff.metrics import relative_latent_error
from obsdiff.sensitivity import replaced
from obsdiff.solvers import SOLVERS, Inputs, Target

from .conftest import PROMPTS, sd, sd3

QUICK = {"num_inference_steps": 2, "height": 16, "width": 16, "guidance_scale": 3.0, "num_prompts": 3}


@pytest.mark.parametrize("make", [sd3, sd])
@pytest.mark.parametrize("allocation", ["obs", "sensitivity", "owl", "alpha"])
def test_the_budget_is_kept_and_layers_differ(make, allocation):
    report = prune_(make(), PROMPTS, PruningConfig(sparsity=0.4, allocation=allocation, **QUICK))
    assert report.sparsity == pytest.approx(0.4, abs=0.003)
    shares = {round(row.sparsity, 2) for row in report.layers}
    assert len(shares) > 3
    assert bool(report.sensitivity) == (allocation == "sensitivity")


def test_sensitivity_is_the_error_of_a_model_with_one_tap_pruned():
    pipe, config = sd3(), PruningConfig(sparsity=0.5, allocation="sensitivity", **QUICK)
    dense = copy.deepcopy(pipe.transformer)
    with dense_pass(pipe, PROMPTS, [config]) as gathered:
        hessian = gathered.hessians["transformer_blocks.1.ff.net.2"]
        report = prune_(pipe, PROMPTS, config, dense=gathered)
    pipe.transformer = dense

    def draw() -> torch.Tensor:
        seeds = [torch.Generator().manual_seed(seed) for seed in report.seeds]
        return pipe(report.prompts, generator=seeds, output_type="latent", num_inference_steps=2, height=16, width=16, guidance_scale=3.0).images

    base, layer = draw(), dense.get_submodule("transformer_blocks.1.ff.net.2")
    (solution,) = SOLVERS["obs"]([layer.weight.detach()], Inputs(hessian.matrix(), hessian.mean(), hessian.variance()), Target(0.5))
    with replaced(dense, {"transformer_blocks.1.ff.net.2": solution.weight}):
        error = relative_latent_error(draw(), base)["value"]
    assert report.sensitivity["transformer_blocks.1.ff.net.2"] == pytest.approx(error, rel=1e-3)
    assert torch.equal(draw(), base)


def zero_and_fail(denoiser: torch.nn.Module, layer: torch.nn.Module) -> None:
    with replaced(denoiser, {"transformer_blocks.0.ff.net.2": torch.zeros(layer.weight.shape)}):
        assert (layer.weight == 0).all()
        raise ZeroDivisionError


def test_weights_are_put_back_whatever_happens():
    pipe = sd3()
    layer = pipe.transformer.get_submodule("transformer_blocks.0.ff.net.2")
    memory, before = layer.weight.data_ptr(), layer.weight.detach().clone()
    with pytest.raises(ZeroDivisionError):
        zero_and_fail(pipe.transformer, layer)
    assert layer.weight.data_ptr() == memory
    assert torch.equal(layer.weight, before)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"pattern": "2:4"}, "allocation: pattern 2:4 does uniform; found obs"),
        ({"pattern": "structured", "allocation": "owl"}, "allocation: pattern structured does uniform, obs, sensitivity; found owl"),
        ({"calibration": "live"}, "calibration single; found live"),
        ({"packages": 4}, "calibration single; found live"),
        ({"pattern": "structured", "method": "l1"}, "by the losses of method obs, found l1"),
    ],
)
def test_what_can_not_be_allocated_is_refused(wrong, words):
    with pytest.raises(UserError, match=words):
        PruningConfig(**{"allocation": "obs"} | wrong)


def test_a_run_that_goes_on_finds_its_allocation(tmp_path):
    config = PruningConfig(allocation="sensitivity", **QUICK)
    pipes = [sd3(), sd3()]
    whole = prune_(pipes[0], PROMPTS, config, journal=tmp_path)
    for file in sorted(tmp_path.glob("*.safetensors"))[3:]:
        file.unlink()
    rest = prune_(pipes[1], PROMPTS, config, journal=tmp_path)
    assert rest.sensitivity == whole.sensitivity
    for name, weight in pipes[0].transformer.state_dict().items():
        assert torch.equal(weight, pipes[1].transformer.state_dict()[name]), name
