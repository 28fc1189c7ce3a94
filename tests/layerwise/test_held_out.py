"""Held-out prompts change no Hessian but their own.

They choose the damping, and refuse a repair that does harm.
"""

import dataclasses
import json
import math

import pytest
import torch

import obsdiff
from obsdiff import PruningConfig, UserError, prune_
from obsdiff.errors import CalibrationWarning, NotPositiveDefinite
from obsdiff.layerwise.held_out import DAMPING_FACTORS, best, dampings, does_harm, unrepaired
from obsdiff.layerwise.linear import solutions_of
from obsdiff.models.discovery import find_blocks
from obsdiff.models.geometry import columns
from obsdiff.models.linear_view import layer_shapes
from obsdiff.pipelines.record import LayerRecord
from obsdiff.solvers import SOLVERS
from obsdiff.solvers.lstsq import refined
from obsdiff.solvers.problem import Inputs, Target, layer_error, squared_error
from tests.layerwise.test_journal import (
    Killed,
    assert_same,
    denoiser_of,
    killed_after,
    weights_and_layers,
)

from ..conftest import PROMPTS, flux, sd, sd3
from ..support.lanes import first_quick

pytestmark = pytest.mark.filterwarnings("ignore::obsdiff.errors.CalibrationWarning")
QUICK = {"num_inference_steps": 2, "guidance_scale": 3.0, "height": 16, "width": 16}
HELD = {"num_prompts": 4, "held_out": 1} | QUICK
STRUCTURED = {"pattern": "structured", "sparsity": 0.5, "round_to": 1, "keep_first_last": False}


def seen(hessian):
    return Inputs(hessian, torch.zeros(len(hessian)), hessian.diagonal() / 2)


def inputs_of(tokens: int, count: int = 32, directions: int = 32, seed: int = 0):
    """A Hessian (I, I) in float64 of tokens near so many directions, equal for every seed."""
    spread = torch.randn(
        directions, count, dtype=torch.float64, generator=torch.Generator().manual_seed(7)
    )
    generator = torch.Generator().manual_seed(seed)
    noise = 0.1 * torch.randn(tokens, count, dtype=torch.float64, generator=generator)
    x = torch.randn(tokens, directions, dtype=torch.float64, generator=generator) @ spread + noise
    return 2 * x.T @ x / tokens


def weight_of(outputs: int = 24, count: int = 32):
    return torch.randn(
        outputs, count, dtype=torch.float64, generator=torch.Generator().manual_seed(1)
    )


@pytest.mark.slow
@pytest.mark.parametrize("make", first_quick([sd3, sd, flux]))
def test_they_touch_no_hessian_but_their_own(make):
    """To the bit that of the other prompts alone, and theirs that of a run on them alone."""
    with obsdiff.dense_pass(make(), PROMPTS[:4], [PruningConfig(**HELD)]) as both:
        pass
    with obsdiff.dense_pass(make(), PROMPTS[:3], [PruningConfig(**QUICK)]) as first:
        pass
    with obsdiff.dense_pass(make(), PROMPTS[3:4], [PruningConfig(seed=3, **QUICK)]) as last:
        pass
    assert both.inputs.keys() == first.inputs.keys()
    for layer, calibrated in both.inputs.items():
        for mine, other in (
            (calibrated.hessian, first.inputs[layer].hessian),
            (calibrated.held_out, last.inputs[layer].hessian),
        ):
            assert torch.equal(mine.xx, other.xx)
            assert torch.equal(mine.x, other.x)
            assert (mine.samples, mine.alpha, mine.distinct, mine.shared) == (
                other.samples,
                other.alpha,
                other.distinct,
                True,
            )
        assert first.inputs[layer].held_out is None


@pytest.mark.slow
@pytest.mark.parametrize(
    "more",
    first_quick([{}, {"pattern": "2:4", "method": "alps", "include": "*.0.attn.*"}, STRUCTURED]),
)
def test_a_layer_that_stays_repaired_is_what_the_other_prompts_alone_give(more):
    pipe, alone = sd3(), sd3()
    report = prune_(pipe, PROMPTS[:4], PruningConfig(**HELD | more))
    other = prune_(alone, PROMPTS[:3], PruningConfig(**QUICK | more))
    assert (len(report.prompts), report.seeds, len(other.prompts)) == (4, [0, 1, 2, 3], 3)
    assert sum(row.repaired for row in report.layers) > len(report.layers) / 2
    for row, same in zip(report.layers, other.layers, strict=True):
        assert math.isfinite(row.held_out_error)
        assert (same.held_out_error, same.repaired) == (None, None)
        if row.repaired:
            assert (row.error, row.loss, row.damping) == (same.error, same.loss, same.damping)
            assert torch.equal(
                pipe.transformer.get_submodule(row.name).weight,
                alone.transformer.get_submodule(row.name).weight,
            )


@pytest.mark.parametrize(
    "more",
    first_quick(
        [
            {},
            {"method": "alps", "pattern": "2:4", "include": "*.0.attn.*"},
            {"method": "magnitude", "refine": "lstsq", "blocks": "0"},
        ]
    ),
)
@pytest.mark.slow
def test_the_damping_is_the_best_of_those_tried_for_every_tap(more):
    config, pipe = PruningConfig(choose_damping=True, **HELD | more), sd3()
    weights = {name: p.detach().clone() for name, p in pipe.transformer.named_parameters()}
    with obsdiff.dense_pass(pipe, PROMPTS[:4], [config]) as dense:
        report = prune_(pipe, PROMPTS[:4], config, dense=dense)
    rows, taps = {row.name: row for row in report.layers}, {}
    for row in report.layers:
        taps.setdefault(id(dense.inputs[row.name]), []).append(row.name)
    for layers in taps.values():
        calibrated = dense.inputs[layers[0]]
        mine = [weights[f"{layer}.weight"] for layer in layers]
        inputs = Inputs(calibrated.matrix(), calibrated.mean(), calibrated.variance())
        apart = calibrated.held_out.matrix()
        tried = {d: solutions_of(mine, inputs, config, d) for d in dampings(config)}
        errors = {
            d: sum(layer_error(w, s.weight, apart) for w, s in zip(mine, some, strict=True))
            for d, some in tried.items()
        }
        least = min(errors, key=errors.get)
        for layer, w, solution in zip(layers, mine, tried[least], strict=True):
            found = pipe.transformer.get_submodule(layer).weight
            assert rows[layer].damping == least
            assert torch.equal(
                found, solution.weight if rows[layer].repaired else w * solution.kept
            )
            assert rows[layer].held_out_error == pytest.approx(
                layer_error(w, found, apart), rel=1e-6
            )
            assert rows[layer].error == pytest.approx(
                layer_error(w, found, inputs.hessian), rel=1e-4
            )
    assert len({row.damping for row in report.layers}) > 1


def test_the_ladder():
    assert dampings(PruningConfig(damping=0.02)) == [0.02]
    assert dampings(PruningConfig(damping=0.02, held_out=5, choose_damping=True)) == pytest.approx(
        [0.02 * step for step in DAMPING_FACTORS]
    )
    assert min(DAMPING_FACTORS) < 1 < max(DAMPING_FACTORS)


def test_best_is_the_argmin_and_tries_nothing_twice():
    asked = []

    def solve(damping):
        asked.append(damping)
        return max(damping, 0.1)  # a factorisation that took this much

    for errors, least in (
        ({0.1: 3, 1: 1, 10: 2}, 1),
        ({0.1: 1, 1: 1, 10: 2}, 0.1),
        ({0.1: math.nan, 1: 5, 10: 6}, 1),
    ):
        asked.clear()
        assert (
            best([0.001, 0.01, 0.1, 1, 10], solve, lambda used: used, errors.__getitem__) == least
        )
        assert asked == [0.001, 1, 10]  # what 0.001 became covers 0.01 and 0.1


def test_best_passes_over_what_can_not_be_solved():
    def solve(damping):
        if damping < 0.1:
            raise NotPositiveDefinite(f"not with {damping}")
        return damping

    assert best([0.01, 0.1, 1], solve, lambda d: d, lambda d: d) == 0.1
    with pytest.raises(NotPositiveDefinite, match=r"not with 0\.02"):
        best([0.01, 0.02], solve, lambda d: d, lambda d: d)


@pytest.mark.parametrize("method", ["obs", "alps"])
@pytest.mark.parametrize("seed", range(4))
def test_a_repair_by_few_tokens_does_harm_and_one_by_many_does_not(method, seed):
    """32 inputs of full rank and 8 or 4,096 tokens: a free repair by few costs much by others."""
    w, apart = weight_of(), inputs_of(4096, seed=100 + seed)
    for tokens, harm in ((8, True), (4096, False)):
        square = inputs_of(tokens, seed=seed)
        found = SOLVERS[method]([w], seen(square), Target(0.5, damping=1e-5))[0]
        bare = unrepaired(w, found, square)
        assert torch.equal(bare.weight, w * found.kept)
        assert bare.loss == pytest.approx(squared_error(w, bare.weight, square) / 2)
        assert layer_error(w, found.weight, square) < layer_error(
            w, bare.weight, square
        )  # by its own Hessian it always helps
        assert does_harm(w, found.weight, found.kept, apart) is harm
        assert harm is (layer_error(w, found.weight, apart) > layer_error(w, bare.weight, apart))
        assert not does_harm(w, bare.weight, found.kept, apart)


@pytest.mark.parametrize("seed", range(4))
def test_a_damping_without_end_repairs_nothing(seed):
    """So the choice among larger and larger dampings ends at the mask alone."""
    w, square, apart = weight_of(), inputs_of(8, seed=seed), inputs_of(4096, seed=100 + seed)
    kept = SOLVERS["obs"]([w], seen(square), Target(0.5, damping=1e-5))[0]
    found = [refined(w, kept, square, damping).weight for damping in (1e-5, 1e-2, 1e8)]
    errors = [layer_error(w, each, apart) for each in found]
    assert errors[2] == pytest.approx(layer_error(w, w * kept.kept, apart), rel=1e-4)
    assert errors[0] > errors[2]


@pytest.mark.slow
def test_a_layer_whose_repair_does_harm_keeps_its_weights_and_the_run_says_so():
    """16 distinct tokens or so for 128 columns, and next to no damping."""
    pipe, dense = sd3(), sd3()
    config = PruningConfig(
        include="*.ff.net.2",
        damping=1e-7,
        num_prompts=2,
        held_out=1,
        num_inference_steps=1,
        guidance_scale=3.0,
    )
    with pytest.warns(
        CalibrationWarning,
        match=r"\d of 3 layers keep their weights unrepaired, since the repair made them worse "
        "on the held-out prompts",
    ):
        report = prune_(pipe, PROMPTS[:2], config)
    bare = [row for row in report.layers if row.repaired is False]
    assert bare
    worst = max(bare, key=lambda row: row.held_out_error)
    assert any(
        f"most is lost in {worst.name}, held-out error {worst.held_out_error:.3g}" in line
        for line in report.warnings
    )
    for row in bare:
        after, before = (p.transformer.get_submodule(row.name).weight for p in (pipe, dense))
        assert row.sparsity == pytest.approx(0.5, abs=1e-3)
        assert torch.equal(after, before * (after != 0))
    for more in (
        {"held_out": 0},
        {"compensation": False},
        {"method": "wanda"},
    ):  # nobody to ask, or nothing to refuse
        report = prune_(sd3(), PROMPTS[:2], dataclasses.replace(config, **more))
        assert all(row.repaired is None for row in report.layers)
        assert all(
            (row.held_out_error is None) == (more == {"held_out": 0}) for row in report.layers
        )
        assert not any("unrepaired" in line for line in report.warnings)


@pytest.mark.parametrize("make", first_quick([sd3, sd, flux]))
@pytest.mark.parametrize("choose", [False, True])
@pytest.mark.slow
def test_structured_the_columns_that_are_left_are_judged(make, choose):
    pipe, dense = make(), make()
    few = {
        "num_prompts": 2,
        "held_out": 1,
        "num_inference_steps": 1,
        "height": 16,
        "width": 16,
        "damping": 1e-6,  # factors without more of it with any rounding
        "seed": 10,
    }
    config = PruningConfig(choose_damping=choose, **STRUCTURED | few)
    with obsdiff.dense_pass(pipe, PROMPTS[:2], [config]) as shared:
        report = prune_(pipe, PROMPTS[:2], config, dense=shared)
    before, after = denoiser_of(dense), denoiser_of(pipe)
    groups = {
        consumer: group
        for block in blocks_of(before)
        for group in block.groups
        for consumer in group.consumers
    }
    chosen = {row.owner: row for row in report.groups}
    for row in report.layers:
        group = groups[row.name]
        if (
            len([g for block in blocks_of(before) for g in block.groups if row.name in g.consumers])
            > 1
        ):
            continue  # FLUX's single blocks read heads and neurons together
        reads, gone = (
            columns(before, group, chosen[group.owner].total),
            set(chosen[group.owner].removed),
        )
        left = torch.cat([reads[i] for i in range(len(reads)) if i not in gone])
        left = torch.tensor(sorted(left.tolist()))
        w, found = (
            before.get_submodule(row.name).weight.detach(),
            after.get_submodule(row.name).weight.detach(),
        )
        masked = torch.zeros_like(w)
        masked[:, left] = found
        calibrated = shared.inputs[row.name]
        assert row.held_out_error == pytest.approx(
            layer_error(w, masked, calibrated.held_out.matrix()), rel=1e-4
        )
        assert row.error == pytest.approx(layer_error(w, masked, calibrated.matrix()), rel=1e-4)
        assert torch.equal(found, w[:, left]) is not row.repaired
    assert any("unrepaired" in line for line in report.warnings) is any(
        row.repaired is False for row in report.layers
    )
    assert choose or any(row.repaired is False for row in report.layers)
    powers = [
        math.log10(row.damping / config.damping) for row in report.layers
    ]  # of what was tried, or the ladder of a failed factorisation
    assert powers == pytest.approx([round(power) for power in powers], abs=1e-6)
    assert min(powers) >= (-1 if choose else 0) - 1e-6


def blocks_of(denoiser):
    return find_blocks(layer_shapes(denoiser))


@pytest.mark.slow
@pytest.mark.parametrize("more", first_quick([{}, STRUCTURED]))
def test_a_killed_run_goes_on_to_the_same_bits(tmp_path, monkeypatch, more):
    config = PruningConfig(choose_damping=True, **HELD | more)
    pipe = sd3()
    report = prune_(pipe, PROMPTS[:4], config)
    expected, judged = (
        weights_and_layers(pipe, report),
        [(row.held_out_error, row.repaired) for row in report.layers],
    )
    with monkeypatch.context() as patched:
        killed_after(patched, 3)
        with pytest.raises(Killed):
            prune_(sd3(), PROMPTS[:4], config, journal=tmp_path)
    pipe = sd3()
    report = prune_(pipe, PROMPTS[:4], config, journal=tmp_path)
    assert_same(weights_and_layers(pipe, report), expected)
    assert [(row.held_out_error, row.repaired) for row in report.layers] == judged
    with pytest.raises(UserError, match=r"another config\.held_out \(1 there, 2 here\)"):
        prune_(sd3(), PROMPTS[:4], dataclasses.replace(config, held_out=2), journal=tmp_path)


@pytest.mark.slow
def test_several_prunings_share_a_pass_and_what_it_held_out():
    some = HELD | {"blocks": "1"}
    configs = [
        PruningConfig(**some),
        PruningConfig(choose_damping=True, pattern="2:4", **some),
        PruningConfig(**some | STRUCTURED),
    ]
    with obsdiff.dense_pass(sd3(), PROMPTS[:4], configs) as dense:
        for config in [*configs, configs[0]]:
            pipe, alone = sd3(), sd3()
            shared = prune_(pipe, PROMPTS[:4], config, dense=dense)
            own = prune_(alone, PROMPTS[:4], config)
            assert all(
                torch.equal(a, b)
                for a, b in zip(
                    pipe.transformer.state_dict().values(),
                    alone.transformer.state_dict().values(),
                    strict=True,
                )
            )
            assert [(row.held_out_error, row.repaired, row.damping) for row in shared.layers] == [
                (row.held_out_error, row.repaired, row.damping) for row in own.layers
            ]
        for other in (PruningConfig(blocks="1", **QUICK), PruningConfig(**some | {"held_out": 2})):
            with pytest.raises(UserError, match="other prompts, seeds or settings"):
                prune_(sd3(), PROMPTS[:4], other, dense=dense)
    with (
        pytest.raises(
            UserError, match="held_out has to be the same for all configs, found 1 and 2"
        ),
        obsdiff.dense_pass(
            sd3(), PROMPTS[:4], [PruningConfig(**HELD), PruningConfig(**HELD | {"held_out": 2})]
        ),
    ):
        pass


@pytest.mark.slow
def test_hessians_on_disk_change_nothing():
    found = []
    for budget in ({}, {"memory_budget_gib": 500_000 / 2**30}):
        pipe = sd3()
        prune_(pipe, PROMPTS[:4], PruningConfig(choose_damping=True, **HELD | budget))
        found.append(pipe.transformer.state_dict())
    assert all(torch.equal(w, found[1][name]) for name, w in found[0].items())


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"held_out": -1}, "held_out: expected a whole number of at least 0, found -1"),
        (
            {"held_out": 100},
            "held_out: expected fewer than num_prompts 100, which include them, found 100",
        ),
        (
            {"held_out": 2, "packages": 4},
            "held_out 2: the second Hessians come from the dense pass of calibration single, "
            "found live",
        ),
        ({"held_out": 2, "calibration": "replay"}, "found replay; choose single"),
        ({"held_out": 2, "preset": "paper"}, "found live; choose single"),
        (
            {"choose_damping": True},
            "choose_damping needs held-out prompts to choose by; set held_out",
        ),
        ({"choose_damping": 3, "held_out": 2}, "choose_damping: expected True or False, found 3"),
        (
            {"choose_damping": True, "held_out": 2, "method": "wanda"},
            "choose_damping: method wanda has no damping",
        ),
        (
            {"choose_damping": True, "held_out": 2, "damping": 0.0},
            "choose_damping tries multiples of damping: expected above 0",
        ),
    ],
)
def test_what_can_not_be_is_one_line(settings, words):
    with pytest.raises(UserError) as error:
        PruningConfig(**settings)
    assert words in str(error.value)
    assert "\n" not in str(error.value)


def test_prompts_that_are_all_held_out_are_refused_before_anything_is_run():
    with pytest.raises(UserError, match="held_out: expected fewer than the 2 prompts, found 2"):
        prune_(sd3(), PROMPTS[:2], PruningConfig(num_prompts=4, held_out=2, **QUICK))


def test_a_record_from_before_loads():
    row = LayerRecord("layer", (2, 3), 0, 0.5, 1.0, 0.1, 0.01, 2.0, 0.1, 0.2, False)
    old = {
        key: value
        for key, value in json.loads(json.dumps(dataclasses.asdict(row))).items()
        if key not in ("held_out_error", "repaired")
    }
    assert (LayerRecord(**old).held_out_error, LayerRecord(**old).repaired) == (None, None)
