import dataclasses

import pytest
import torch

import obsdiff
from obsdiff import PruningConfig, UserError, prune_
from obsdiff.pipelines.general_prompts import general_prompts
from obsdiff.solvers.problem import layer_error

from .conftest import PROMPTS, flux, sd, sd3
from .support.lanes import first_quick

pytestmark = pytest.mark.filterwarnings("ignore::obsdiff.errors.CalibrationWarning")
QUICK = {"num_inference_steps": 2, "guidance_scale": 3.0, "height": 16, "width": 16}


def weights(pipe) -> dict[str, torch.Tensor]:
    denoiser = getattr(pipe, "transformer", None) or pipe.unet
    return {name: p.detach().clone() for name, p in denoiser.named_parameters()}


@pytest.mark.parametrize("make", first_quick([sd3, lambda: sd3(dual=(0, 1)), sd, flux]))
@pytest.mark.parametrize(
    ("method", "pattern"),
    [
        ("obs", "unstructured"),
        ("obs", "2:4"),
        ("obs", "4:8"),
        ("magnitude", "unstructured"),
        ("magnitude", "1:4"),
    ],
)
def test_every_layer_has_its_sparsity_and_nothing_else_moved(make, pattern, method):
    pipe = make()
    before = weights(pipe)
    config = PruningConfig(method=method, pattern=pattern, packages=1, **QUICK)
    report = prune_(pipe, PROMPTS[:2], config)
    after = weights(pipe)
    pruned = {row.name + ".weight" for row in report.layers}
    assert all(torch.equal(after[name], before[name]) for name in before if name not in pruned)
    for row in report.layers:
        w = after[row.name + ".weight"]
        if config.group:
            n, m = config.group
            assert (w.unflatten(1, (-1, m)) != 0).sum(2).max() <= n
        assert (w == 0).float().mean() == pytest.approx(config.removed, abs=2e-3)
        assert row.sparsity == pytest.approx((w == 0).float().mean().item())


@pytest.mark.slow
def test_half_of_the_steps_is_a_run_of_half_as_many():
    reports = [
        prune_(sd3(), PROMPTS[:2], PruningConfig(**QUICK | settings))
        for settings in (
            {"num_inference_steps": 4, "step_share": 0.5},
            {"num_inference_steps": 2},
        )
    ]
    assert reports[0].settings == reports[1].settings
    assert [row.error for row in reports[0].layers] == [row.error for row in reports[1].layers]


@pytest.mark.parametrize("pattern", ["unstructured", "2:4"])
@pytest.mark.parametrize("make", first_quick([sd3, sd, flux]))
@pytest.mark.slow
def test_the_baselines_on_input_statistics_go_the_same_road(make, pattern):
    """Wanda and DSnoT have other masks than magnitude and each other; kept weights stay."""
    masks = {}
    for method in ("magnitude", "wanda", "dsnot"):
        pipe = make()
        before = weights(pipe)
        report = prune_(
            pipe, PROMPTS[:2], PruningConfig(method=method, pattern=pattern, packages=2, **QUICK)
        )
        after = weights(pipe)
        masks[method] = torch.cat(
            [(after[row.name + ".weight"] != 0).flatten() for row in report.layers]
        )
        for row in report.layers:
            name = row.name + ".weight"
            assert (after[name] == 0).float().mean() == pytest.approx(0.5, abs=2e-3)
            assert ((after[name] == 0) | (after[name] == before[name])).all()
            assert pattern != "2:4" or (after[name].unflatten(1, (-1, 4)) != 0).sum(2).max() <= 2
            assert row.error > 0
            assert row.loss > 0
    assert (masks["magnitude"] != masks["wanda"]).float().mean() > 0.01
    assert (masks["wanda"] != masks["dsnot"]).float().mean() > 0.01


@pytest.mark.slow
def test_later_packages_see_what_earlier_ones_broke():
    """With one package the second block sees the dense first one, with two the pruned one."""
    reports = [
        prune_(sd3(), PROMPTS[:2], PruningConfig(packages=n, sparsity=0.7, **QUICK))
        for n in (1, 12)
    ]
    first, later = (
        [
            [row.error for row in r.layers if row.name.startswith(f"transformer_blocks.{b}.")]
            for r in reports
        ]
        for b in (0, 2)
    )
    assert first[0][:3] == pytest.approx(first[1][:3], rel=1e-4)
    assert later[0] != pytest.approx(later[1], rel=1e-4)


@pytest.mark.slow
def test_batch_size_moves_only_ties():
    pipes = [sd3(), sd3()]
    for pipe, batch in zip(pipes, (1, 4), strict=True):
        prune_(pipe, PROMPTS[:4], PruningConfig(batch_size=batch, **QUICK))
    differ = total = 0
    for a, b in zip(weights(pipes[0]).values(), weights(pipes[1]).values(), strict=True):
        differ += ((a == 0) != (b == 0)).sum().item()
        total += a.numel()
    assert differ / total < 1e-3


@pytest.mark.slow
def test_the_same_run_twice_is_the_same():
    pipes = [sd3(), sd3()]
    for pipe in pipes:
        torch.rand(1)  # the caller's random state plays no part
        prune_(pipe, PROMPTS, PruningConfig(num_prompts=3, **QUICK))
    assert all(
        torch.equal(a, b)
        for a, b in zip(weights(pipes[0]).values(), weights(pipes[1]).values(), strict=True)
    )


def test_the_record_says_what_was_done():
    report = prune_(
        sd3(), PROMPTS, PruningConfig(num_prompts=3, seed=7, blocks="1", packages=4, **QUICK)
    )
    assert len(report.prompts) == 3
    assert report.seeds == [7, 8, 9]
    assert [row.package for row in report.layers] == [0] * 6 + [1] * 2 + [2] * 2 + [3] * 2
    assert sum(map(len, report.packages)) == len(report.layers) == 12
    assert report.settings == QUICK
    assert set(report.seconds) == {"calibration", "solve"}
    assert report.to_dict()["schema"] == 1
    assert report.sparsity == pytest.approx(0.5, abs=1e-3)
    assert all(0 < row.error < 1 and row.loss > 0 and row.damping == 0.01 for row in report.layers)


def test_the_recorded_error_is_that_of_the_weights():
    pipe, dense = sd3(), sd3()
    report = prune_(pipe, PROMPTS[:2], PruningConfig(include="*.0.attn.to_q", packages=1, **QUICK))
    inputs = []
    layer = "transformer_blocks.0.attn.to_q"
    dense.transformer.get_submodule(layer).register_forward_pre_hook(
        lambda m, args: inputs.append(args[0].flatten(0, -2).double())
    )
    for i, prompt in enumerate(PROMPTS[:2]):
        dense(prompt, generator=torch.Generator().manual_seed(i), output_type="latent", **QUICK)
    weighted = sum(a * x.T @ x for a, x in zip([1.2, 0.8] * 2, inputs, strict=True))
    error = layer_error(
        dense.transformer.get_submodule(layer).weight,
        pipe.transformer.get_submodule(layer).weight,
        weighted,
    )
    assert report.layers[0].error == pytest.approx(error, rel=1e-3)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_pipelines_stay_in_their_format(dtype):
    pipe = sd3().to(dtype)
    prune_(pipe, PROMPTS[:2], PruningConfig(**QUICK))
    w = pipe.transformer.transformer_blocks[0].attn.to_q.weight
    assert w.dtype == dtype
    assert (w == 0).float().mean() == pytest.approx(0.5, abs=2e-3)


def test_prompts_as_dicts_are_calls_of_their_own():
    report = prune_(
        sd3(),
        [
            {"prompt": "fish", "negative_prompt": "bird"},
            {"prompt": "moon", "negative_prompt": "sun"},
        ],
        PruningConfig(packages=1, **QUICK),
    )
    assert len(report.seeds) == 2


@pytest.mark.parametrize(
    ("prompts", "settings", "words"),
    [
        ([], {}, "an empty list"),
        ([3], {}, "found 3"),
        (["a", {"prompt": "b"}], {}, "list of strings"),
        (["a"], {"component": "prior"}, "'prior'"),
        (["a"], {"pattern": "2:5"}, "does not divide"),
    ],
)
def test_wrong_input_is_refused_before_anything_is_run(prompts, settings, words):
    pipe = sd3()
    before = weights(pipe)
    with pytest.raises(UserError) as error:
        prune_(pipe, prompts, PruningConfig(**QUICK | settings))
    assert words in str(error.value)
    assert all(
        torch.equal(a, b) for a, b in zip(before.values(), weights(pipe).values(), strict=True)
    )


def test_nan_in_a_weight_is_named():
    pipe = sd3()
    pipe.transformer.transformer_blocks[2].ff.net[2].weight.data[0, 0] = float("nan")
    with pytest.raises(
        obsdiff.CalibrationError,
        match=r"transformer_blocks\.2\.ff\.net\.2: its weight has inf or NaN",
    ):
        prune_(pipe, PROMPTS[:1], PruningConfig(packages=1, **QUICK))


def test_a_linear_the_table_forgets_stays_dense_and_is_named():
    pipe = sd3()
    pipe.transformer.transformer_blocks[0].adapter = torch.nn.Linear(4, 4)
    with pytest.warns(obsdiff.CalibrationWarning, match=r"transformer_blocks\.0\.adapter"):
        prune_(pipe, PROMPTS[:1], PruningConfig(packages=1, **QUICK))


def test_too_few_tokens_are_warned_about_and_recorded():
    config = PruningConfig(include="*.0.ff.net.2", num_inference_steps=2, guidance_scale=3.0)
    with pytest.warns(
        obsdiff.CalibrationWarning, match=r"1 layers saw less than one distinct token per column"
    ):
        report = prune_(sd3(), PROMPTS[:1], config)
    assert report.layers[0].tokens_per_column == 0.5
    assert "transformer_blocks.0.ff.net.2 has 0.50" in report.warnings[0]
    for method in ("magnitude", "wanda"):  # they read no more than the diagonal
        assert not prune_(sd3(), PROMPTS[:1], dataclasses.replace(config, method=method)).warnings


def test_public_names_are_there():
    assert all(getattr(obsdiff, name) is not None for name in obsdiff.__all__)
    with pytest.raises(AttributeError):
        _ = obsdiff.no_such_name


@pytest.mark.slow
def test_settings_and_prompts_need_not_be_given():
    one, other = sd3(), sd3()
    given = general_prompts()
    report = obsdiff.prune_(one, sparsity=0.4, num_prompts=2, num_inference_steps=2)
    assert set(report.prompts) <= set(given)
    config = PruningConfig(sparsity=0.4, num_prompts=2, num_inference_steps=2)
    obsdiff.prune_(other, given, config)
    assert all(
        torch.equal(weight, other.transformer.state_dict()[name])
        for name, weight in one.transformer.state_dict().items()
    )
    with pytest.raises(UserError, match="sparsty: expected a setting"):
        obsdiff.prune_(one, sparsty=0.4)
