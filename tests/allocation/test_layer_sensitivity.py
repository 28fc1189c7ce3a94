"""Allocation in a whole run: the total is kept, sensitivities are measured, weights restored."""

import copy
import json

import pytest
import torch

from obsdiff import PruningConfig, dense_pass, prune_
from obsdiff.allocation import layer_sensitivity as sensitivity
from obsdiff.allocation.layer_sensitivity import try_out, with_weights
from obsdiff.cli.main import main
from obsdiff.errors import CalibrationError, UserError
from obsdiff.evaluation.metrics import relative_latent_error
from obsdiff.models.structure import Tap
from obsdiff.solvers import SOLVERS
from obsdiff.solvers.problem import Inputs, Target

from ..conftest import PROMPTS, sd, sd3

QUICK = {
    "num_inference_steps": 2,
    "height": 16,
    "width": 16,
    "guidance_scale": 3.0,
    "num_prompts": 3,
}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("make", "allocation"),
    [*((sd3, way) for way in ("obs", "sensitivity", "drawn", "owl", "alpha")), (sd, "sensitivity")],
)
def test_the_budget_is_kept_and_layers_differ(make, allocation):
    report = prune_(make(), PROMPTS, PruningConfig(sparsity=0.4, allocation=allocation, **QUICK))
    assert report.sparsity == pytest.approx(0.4, abs=0.003)
    shares = {round(row.sparsity, 2) for row in report.layers}
    assert len(shares) > 3
    assert bool(report.sensitivity) == (allocation in ("sensitivity", "drawn"))


@pytest.mark.slow
def test_sensitivity_is_the_error_of_a_model_with_one_tap_pruned():
    pipe, config = sd3(), PruningConfig(sparsity=0.5, allocation="drawn", **QUICK)
    dense = copy.deepcopy(pipe.transformer)
    with dense_pass(pipe, PROMPTS, [config]) as gathered:
        calibrated = gathered.inputs["transformer_blocks.1.ff.net.2"]
        report = prune_(pipe, PROMPTS, config, dense=gathered)
    pipe.transformer = dense

    def draw() -> torch.Tensor:
        seeds = [torch.Generator().manual_seed(seed) for seed in report.seeds]
        return pipe(
            report.prompts,
            generator=seeds,
            output_type="latent",
            num_inference_steps=2,
            height=16,
            width=16,
            guidance_scale=3.0,
        ).images

    base, layer = draw(), dense.get_submodule("transformer_blocks.1.ff.net.2")
    (solution,) = SOLVERS["obs"](
        [layer.weight.detach()],
        Inputs(calibrated.matrix(), calibrated.mean(), calibrated.variance()),
        Target(0.5),
    )
    with with_weights(dense, {"transformer_blocks.1.ff.net.2": solution.weight}):
        error = relative_latent_error(draw(), base)["value"]
    assert report.sensitivity["transformer_blocks.1.ff.net.2"] == pytest.approx(error, rel=1e-3)
    assert torch.equal(draw(), base)


def zero_and_fail(denoiser: torch.nn.Module, layer: torch.nn.Module) -> None:
    with with_weights(denoiser, {"transformer_blocks.0.ff.net.2": torch.zeros(layer.weight.shape)}):
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
        (
            {"pattern": "structured", "allocation": "owl"},
            "allocation: pattern structured does uniform, obs, sensitivity, drawn; found owl",
        ),
        ({"calibration": "live"}, "calibration single; found live"),
        ({"packages": 4}, "calibration single; found live"),
        ({"pattern": "structured", "method": "l1"}, "needs the losses of method obs, found l1"),
    ],
)
def test_what_can_not_be_allocated_is_refused(wrong, words):
    with pytest.raises(UserError, match=words):
        PruningConfig(**{"allocation": "obs"} | wrong)


@pytest.mark.slow
def test_a_run_that_goes_on_finds_its_allocation(tmp_path, monkeypatch):
    config = PruningConfig(allocation="drawn", **QUICK)
    pipes = [sd3(), sd3()]
    whole = prune_(pipes[0], PROMPTS, config, journal=tmp_path)
    for file in sorted(tmp_path.glob("*.safetensors"))[3:]:
        file.unlink()
    monkeypatch.setattr(sensitivity, "measured_sensitivity", None)  # nothing is measured again
    rest = prune_(pipes[1], PROMPTS, config, journal=tmp_path)
    assert rest.sensitivity == whole.sensitivity
    for name, weight in pipes[0].transformer.state_dict().items():
        assert torch.equal(weight, pipes[1].transformer.state_dict()[name]), name


@pytest.mark.slow
def test_what_a_scheduler_draws_by_itself_is_the_same_for_every_layer():
    """A sampler with noise of its own does not drown the effects."""
    pipe = sd3()
    pipe.scheduler.register_to_config(stochastic_sampling=True)
    report = prune_(pipe, PROMPTS, PruningConfig(sparsity=0.1, allocation="drawn", **QUICK))
    assert min(report.sensitivity.values()) < 0.01 * max(report.sensitivity.values())


def test_a_pipeline_that_never_draws_the_same_is_refused(monkeypatch):
    pipe, draws = sd3(), iter(range(10**6))
    layer = pipe.transformer.proj_out
    layer.register_forward_hook(lambda module, args, output: output + 0.01 * next(draws))
    with pytest.raises(CalibrationError, match="the same prompts and seeds drawn twice differ"):
        prune_(pipe, PROMPTS, PruningConfig(allocation="drawn", **QUICK))


def test_latents_that_are_no_numbers_name_the_layer(monkeypatch):
    figures = iter([0.0, float("nan")])
    monkeypatch.setattr(sensitivity, "relative_latent_error", lambda *_: {"value": next(figures)})
    with pytest.raises(
        CalibrationError,
        match=r"transformer_blocks\.0\.attn\.to_q: "
        "the latents have inf or NaN when it is pruned alone",
    ):
        prune_(sd3(), PROMPTS, PruningConfig(allocation="drawn", **QUICK))


@pytest.mark.slow
@pytest.mark.parametrize(
    "settings",
    [
        {"method": "magnitude", "refine": "lstsq"},
        {"preset": "best"},
        {"preset": "fast", "pattern": "2:4"},
    ],
)
def test_it_goes_with_offloading_budgets_and_half_precision(settings):
    quick = QUICK | {"batch_size": 1}
    plain = prune_(sd3(), PROMPTS, PruningConfig(**settings, **quick))
    pipe = sd3()
    pipe.enable_model_cpu_offload(device="cpu")
    offloaded = prune_(pipe, PROMPTS, PruningConfig(**settings, **quick))
    assert [row.sparsity for row in offloaded.layers] == [row.sparsity for row in plain.layers]
    budget = prune_(sd3(), PROMPTS, PruningConfig(memory_budget_gib=0.01, **settings, **quick))
    assert [row.error for row in budget.layers] == [row.error for row in plain.layers]
    half = prune_(sd3().to(torch.bfloat16), PROMPTS, PruningConfig(**settings, **quick))
    assert half.sparsity == pytest.approx(plain.sparsity, abs=0.01)


@pytest.mark.slow
def test_one_dense_pass_serves_several_allocations():
    pipe, dense = sd3(), []
    configs = [PruningConfig(allocation="obs", sparsity=s, **QUICK) for s in (0.3, 0.6)]
    with dense_pass(pipe, PROMPTS, configs) as gathered:
        for config in configs:
            dense.append(prune_(sd3(), PROMPTS, config, dense=gathered))
    for config, report in zip(configs, dense, strict=True):
        assert [row.sparsity for row in report.layers] == [
            row.sparsity for row in prune_(sd3(), PROMPTS, config).layers
        ]


@pytest.mark.parametrize(
    ("settings", "calibrating", "prompts"),
    [
        (["--preset", "fast"], 24 * 5, lambda taps: 8 * 5),
        (["--preset", "best"], 50 * 10, lambda taps: 16 * 10),
        (
            ["--allocation", "drawn", "--allocation-prompts", "2"],
            50 * 10,
            lambda taps: 2 * (taps + 2) * 10,
        ),
    ],
)
def test_inspect_counts_the_drawings(capsys, settings, calibrating, prompts):
    assert main(["inspect", "emoji-sd3", *settings, "--num-inference-steps", "10", "--json"]) == 0
    plan = json.loads(capsys.readouterr().out)
    taps = sum(len(package["taps"]) for package in plan["packages"])
    assert plan["denoiser_passes"] == calibrating
    assert plan["allocation_passes"] == prompts(taps)
    assert main(["inspect", "emoji-sd3"]) == 0
    assert "allocation" not in capsys.readouterr().out


@pytest.mark.slow
def test_a_layer_to_which_the_target_does_nothing_is_not_free():
    """Pruned before, it has all the zeros of the target: what more would cost is what counts."""
    pipe, layer = sd3(), "transformer_blocks.1.ff.net.2"
    prune_(pipe, PROMPTS, PruningConfig(sparsity=0.5, include=(layer,), **QUICK))
    report = prune_(pipe, PROMPTS, PruningConfig(sparsity=0.4, allocation="sensitivity", **QUICK))
    assert report.sensitivity[layer] > 0
    found = {row.name: row.sparsity for row in report.layers}
    assert 0.4 < found[layer] < 0.8


def test_what_is_tried_without_repair_costs_what_pruning_costs():
    pipe, config = (
        sd3(),
        PruningConfig(sparsity=0.5, include="*.1.ff.net.2", compensation=False, **QUICK),
    )
    with dense_pass(pipe, PROMPTS, [config]) as dense:
        ((layer, calibrated),) = dense.inputs.items()
        inputs = Inputs(calibrated.matrix(), calibrated.mean(), calibrated.variance())
        tried = try_out(
            Tap((layer,), "ffn"),
            [pipe.transformer.get_submodule(layer).weight.detach()],
            inputs,
            config,
        )
        (row,) = prune_(pipe, PROMPTS, config, dense=dense).layers
    assert tried.error == pytest.approx(row.error, rel=1e-4)
    assert tried.error == tried.errors[4]


@pytest.mark.slow
def test_a_matrix_of_zeros_says_nothing_of_those_beside_it():
    shares = []
    for zero in (False, True):
        pipe = sd3()
        if zero:
            pipe.transformer.get_submodule("transformer_blocks.1.attn.to_v").weight.data.zero_()
        report = prune_(pipe, PROMPTS, PruningConfig(sparsity=0.5, allocation="alpha", **QUICK))
        shares.append(
            next(
                row.sparsity
                for row in report.layers
                if row.name == "transformer_blocks.1.attn.to_q"
            )
        )
    assert shares[1] == pytest.approx(shares[0], abs=0.1)
