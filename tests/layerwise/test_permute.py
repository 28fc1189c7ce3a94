"""Another order of neurons and value dimensions is the same function.

Pruning in it keeps more, resumes, and leaves shared Hessians unchanged.
"""

import json

import pytest
import torch

import obsdiff
from obsdiff import PruningConfig, UserError, dense_pass, prune_
from obsdiff.calibration.gather import DensePass
from obsdiff.config.choices import BEST, PRESETS
from obsdiff.layerwise.permute import Movable, movable_order, permute_
from obsdiff.models.discovery import find_blocks
from obsdiff.models.linear_view import layer_shapes
from obsdiff.pipelines.record import PruningReport
from tests.layerwise.test_journal import (
    Killed,
    assert_same,
    denoiser_of,
    killed_after,
    weights_and_layers,
)

from ..conftest import PROMPTS, flux, sd, sd3
from ..coverage_of_models import build, results
from ..support.lanes import first_quick

QUICK = {
    "pattern": "2:4",
    "num_inference_steps": 2,
    "height": 16,
    "width": 16,
    "guidance_scale": 3.0,
    "num_prompts": 3,
}
MODELS = {  # class -> kinds that are moved
    "SD3Transformer2DModel": {"heads", "neurons"},
    "FluxTransformer2DModel": {"heads", "neurons"},
    "UNet2DConditionModel": {"heads", "neurons"},
    "Lumina2Transformer2DModel": {"heads", "neurons"},  # grouped key and value heads
    "AceStepTransformer1DModel": {"heads", "neurons"},  # the same
}


def shuffled_(model, m: int = 4) -> tuple[list, list[str]]:
    """Puts every group in a random order, in place.

    Returns the groups that were moved, and why others were not.
    """
    moved, left = [], []
    for group in (group for block in find_blocks(layer_shapes(model)) for group in block.groups):
        mine = movable_order(model, group, m)
        if isinstance(mine, Movable):
            permute_(
                model, mine, torch.stack([torch.randperm(mine.width) for _ in range(mine.sets)])
            )
            moved.append(mine)
        else:
            left.append(mine)
    return moved, left


@pytest.mark.parametrize(("name", "kinds"), MODELS.items())
def test_another_order_is_the_same_function(name, kinds):
    model, arguments = build(name)
    before, weights = (
        results(model, arguments),
        {key: value.clone() for key, value in model.state_dict().items()},
    )
    moved, _ = shuffled_(model)
    assert {mine.group.kind for mine in moved} == kinds
    for layer in (layer for mine in moved for layer in mine.group.consumers):
        assert not torch.equal(model.get_submodule(layer).weight, weights[f"{layer}.weight"])
    for a, b in zip(before, results(model, arguments), strict=True):
        torch.testing.assert_close(a, b, atol=1e-10, rtol=1e-10)


@pytest.mark.slow
def test_both_streams_of_joint_attention_move_together():
    moved, _ = shuffled_(sd3().transformer)
    joint = next(mine for mine in moved if mine.group.kind == "heads")
    assert {name.rpartition(".")[2] for name, parts in joint.rows.items() if parts} == {
        "to_v",
        "add_v_proj",
    }
    assert len(joint.group.consumers) == 2


def test_what_m_does_not_divide_stays():
    model = sd3().transformer  # heads of 8
    assert all(
        "does not divide the width of a head" in reason for reason in shuffled_(model, 16)[1]
    )
    assert {mine.group.kind for mine in shuffled_(model, 16)[0]} == {"neurons"}


@pytest.mark.parametrize("make", first_quick([sd3, sd, flux]))
@pytest.mark.slow
def test_pruned_in_another_order(make):
    pipe = make()
    report = prune_(pipe, PROMPTS, PruningConfig(permute=True, **QUICK))
    found = report.permutation
    assert found["layers"] > 0
    assert 0.5 < found["kept_before"] < found["kept_after"] < 1
    for row in report.layers:
        weight = denoiser_of(pipe).get_submodule(row.name).weight
        assert (weight.unflatten(1, (-1, 4)) != 0).sum(2).max() <= 2
    assert report.seconds["permutation"] > 0


def test_by_default_nothing_moves():
    report = prune_(sd3(), PROMPTS, PruningConfig(**QUICK))
    assert not report.permutation
    assert "permutation" not in report.seconds


@pytest.mark.slow
@pytest.mark.parametrize("after", first_quick([0, 3]))
@pytest.mark.parametrize("method", first_quick(["obs", "alps"]))
def test_a_killed_run_goes_on_to_the_same_bits(monkeypatch, tmp_path, method, after):
    config = PruningConfig(permute=True, method=method, blocks="1", **QUICK)
    pipe = sd3()
    whole = prune_(pipe, PROMPTS, config)
    expected = weights_and_layers(pipe, whole)
    with monkeypatch.context() as patched:
        killed_after(patched, after)
        with pytest.raises(Killed):
            prune_(sd3(), PROMPTS, config, journal=tmp_path)
    pipe = sd3()
    report = prune_(pipe, PROMPTS, config, journal=tmp_path)
    assert_same(weights_and_layers(pipe, report), expected)
    assert report.permutation == whole.permutation
    pipe = sd3()  # all is solved
    assert_same(weights_and_layers(pipe, prune_(pipe, PROMPTS, config, journal=tmp_path)), expected)


@pytest.mark.slow
def test_a_shared_pass_stays_as_it_is():
    with_, without = (PruningConfig(permute=on, blocks="1", **QUICK) for on in (True, False))
    alone = [
        weights_and_layers(pipe, prune_(pipe, PROMPTS, config))
        for config, pipe in ((with_, sd3()), (without, sd3()))
    ]
    pipe = sd3()
    with dense_pass(pipe, PROMPTS, [with_, without]) as dense:
        assert isinstance(dense, DensePass)
        for config, expected in zip((with_, without, with_), (*alone, alone[0]), strict=True):
            pipe = sd3()
            assert_same(
                weights_and_layers(pipe, prune_(pipe, PROMPTS, config, dense=dense)), expected
            )


@pytest.mark.slow
def test_a_memory_budget_gives_the_same_kept_scores():
    reports = [
        prune_(sd3(), PROMPTS, PruningConfig(permute=True, blocks="1", **budget, **QUICK))
        for budget in ({"calibration": "single"}, {"calibration": "single", "memory_budget_gib": 1})
    ]
    assert reports[0].permutation == reports[1].permutation


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"pattern": "unstructured"}, "expected an N:M pattern"),
        ({"pattern": "structured"}, "expected an N:M pattern"),
        ({"pattern": "2:4", "calibration": "live"}, "calibration single; found live"),
        ({"pattern": "2:4", "packages": 2}, "calibration single; found live"),
        ({"pattern": "2:4", "permute": "yes"}, "expected True or False"),
    ],
)
def test_refused(changes, said):
    with pytest.raises(UserError, match=said):
        PruningConfig(**{"permute": True} | changes)


def test_a_preset_may_set_it(monkeypatch):
    monkeypatch.setitem(PRESETS["best"], "n:m", BEST["n:m"] | {"permute": True})
    assert PruningConfig(preset="best", pattern="2:4").permute is True
    assert PruningConfig(preset="best", pattern="2:4", permute=False).permute is False
    assert PruningConfig(pattern="2:4").permute is False


def test_old_records_load():
    assert PruningReport({}).permutation == {}


@pytest.mark.slow
def test_what_carries_nothing_has_no_score_and_keeps_its_order(tmp_path):
    """An FFN whose neurons are all dead: no share of its score could be said."""
    pipe, dead = sd3(), "transformer_blocks.1.ff"
    pipe.transformer.get_submodule(f"{dead}.net.2").weight.data.zero_()
    found = prune_(
        pipe, PROMPTS, PruningConfig(permute=True, **QUICK), journal=tmp_path / "journal"
    ).permutation
    assert 0.5 < found["kept_before"] < found["kept_after"] < 1
    note = json.loads((tmp_path / "journal" / "permutation.json").read_text())["value"]
    orders = note["value"]["orders"]
    assert f"{dead} neurons" not in orders
    assert orders


def test_layers_whose_order_stays_are_not_counted_as_moved():
    """Heads of 8 are one group of 4:8 each: there is nothing to exchange."""
    settings = QUICK | {"pattern": "4:8", "include": ("*.to_out.0", "*.to_add_out")}
    with pytest.warns(obsdiff.CalibrationWarning, match="no layer got another order of its inputs"):
        found = prune_(sd3(), PROMPTS, PruningConfig(permute=True, **settings)).permutation
    assert found["layers"] == 0
