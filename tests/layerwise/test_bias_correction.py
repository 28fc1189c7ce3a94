"""Bias correction against its definition, and on its way through a whole pruning."""

import pytest
import torch
from torch import nn

import obsdiff
from obsdiff import PruningConfig, UserError
from obsdiff.errors import CalibrationWarning
from obsdiff.layerwise.bias_correction import correct_
from tests.calibration.test_gather import SMALL, pruned
from tests.calibration.test_hooks import denoiser_of

from ..conftest import PROMPTS, flux, sd, sd3
from ..support.lanes import first_quick

MAGNITUDE = {
    "method": "magnitude",
    "step_weighting": "uniform",
    "step_weight_min": 1.0,
    "step_weight_max": 1.0,
}
STRUCTURED = {
    "pattern": "structured",
    "method": "l1",
    "sparsity": 0.5,
    "round_to": 1,
    "keep_first_last": False,
}


@pytest.mark.parametrize(
    "layer",
    [nn.Linear(6, 4, dtype=torch.float64), nn.Conv2d(3, 4, 3, dtype=torch.float64)],
    ids=["linear", "convolution"],
)
def test_the_mean_output_over_the_calibration_stays(layer):
    torch.manual_seed(0)
    x = (
        torch.randn(
            *((50, 6) if isinstance(layer, nn.Linear) else (50, 3, 3, 3)), dtype=torch.float64
        )
        + 1
    )
    before, dense = layer.weight.detach().flatten(1).clone(), layer(x)
    after = before * (torch.rand_like(before) > 0.5)
    layer.weight.data.copy_(after.view_as(layer.weight))
    assert not torch.allclose(layer(x).mean(0), dense.mean(0))
    correct_(layer, before, after, x.flatten(1).mean(0))
    torch.testing.assert_close(layer(x).mean(0), dense.mean(0))


def test_no_other_bias_is_better():
    """The weighted squared error falls with it, and rises when it is moved on."""
    torch.manual_seed(0)
    layer, x, alpha = (
        nn.Linear(5, 3, dtype=torch.float64),
        torch.randn(40, 5, dtype=torch.float64) + 1,
        torch.rand(40, dtype=torch.float64),
    )
    before, dense = layer.weight.detach().clone(), layer(x).detach()
    after = before * (torch.rand_like(before) > 0.4)
    layer.weight.data.copy_(after)
    correct_(layer, before, after, (alpha.unsqueeze(1) * x).sum(0) / alpha.sum())
    (error,) = torch.autograd.grad((alpha * ((layer(x) - dense) ** 2).sum(1)).sum(), layer.bias)
    torch.testing.assert_close(error, torch.zeros_like(error), atol=1e-10, rtol=0)


def mean_output(pipe, layer: str, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    """The mean output (O,) of a layer with that weight and bias in the dense model.

    Over all tokens of the calibration prompts, each with its seed.
    """
    seen = []
    pipe.set_progress_bar_config(disable=True)
    with (
        denoiser_of(pipe)
        .get_submodule(layer)
        .register_forward_pre_hook(lambda m, args: seen.append(args[0].flatten(0, -2)))
    ):
        for i, prompt in enumerate(PROMPTS[:3]):
            pipe(prompt, generator=torch.Generator().manual_seed(i), output_type="latent", **SMALL)
    return torch.cat(seen).mean(0) @ weight.T + bias


@pytest.mark.slow
def test_a_pruned_layer_gives_the_dense_mean_for_the_dense_inputs():
    pipe, (after, _) = sd3(), pruned(sd3, calibration="single", correct_bias=True, **MAGNITUDE)
    bare, _ = pruned(sd3, calibration="single", **MAGNITUDE)
    layer, dense = "transformer_blocks.1.ff.net.2", denoiser_of(pipe).state_dict()
    means = [
        mean_output(pipe, layer, state[f"{layer}.weight"], state[f"{layer}.bias"])
        for state in (dense, after, bare)
    ]
    torch.testing.assert_close(means[1], means[0], rtol=1e-4, atol=1e-5)
    assert (means[2] - means[0]).norm() > 100 * (means[1] - means[0]).norm()


@pytest.mark.parametrize(
    "settings", [MAGNITUDE, STRUCTURED, {"pattern": "2:4"}], ids=["magnitude", "structured", "2:4"]
)
@pytest.mark.parametrize("make", first_quick([sd3, sd, flux]))
@pytest.mark.slow
def test_biases_alone_change(make, settings):
    plain, _ = pruned(make, calibration="single", **settings)
    corrected, report = pruned(make, calibration="single", correct_bias=True, **settings)
    changed = {name for name, tensor in corrected.items() if not torch.equal(tensor, plain[name])}
    assert changed
    assert changed <= {f"{row.name}.bias" for row in report.layers}


@pytest.mark.parametrize("settings", [MAGNITUDE, STRUCTURED], ids=["magnitude", "structured"])
@pytest.mark.slow
def test_a_run_that_goes_on_has_them(tmp_path, settings):
    """All pieces are taken from the journal."""
    config = PruningConfig(calibration="single", correct_bias=True, **SMALL | settings)
    states = []
    for _ in range(2):
        pipe = sd3()
        obsdiff.prune_(pipe, PROMPTS[:3], config, journal=tmp_path)
        states.append(pipe.transformer.state_dict())
    assert all(torch.equal(states[1][name], tensor) for name, tensor in states[0].items())


def test_without_any_bias_it_says_so():
    with pytest.warns(CalibrationWarning, match="none of the pruned layers has a bias"):
        pruned(sd, calibration="single", correct_bias=True, include=("*.to_q",), **MAGNITUDE)


def test_anything_but_yes_and_no_is_refused():
    with pytest.raises(UserError, match="expected True or False, found 'yes'"):
        PruningConfig(correct_bias="yes")
