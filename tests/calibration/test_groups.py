"""Numbers of heads, neurons and norm groups, and the steps in which they leave."""

import dataclasses

import pytest

from obsdiff import PruningConfig
from obsdiff.calibration.groups import PrunableGroup, at_sparsity, prunable_groups
from obsdiff.calibration.selection import select_groups
from obsdiff.config.choices import BUDGETS
from obsdiff.models.discovery import find_blocks
from obsdiff.models.linear_view import layer_shapes
from obsdiff.models.structure import Group
from obsdiff.models.surgery import shrink_

from ..conftest import ddpm, flux, sd, sd3

MODELS = {
    "heads": (sd3, "transformer_blocks.1.attn"),
    "neurons": (sd3, "transformer_blocks.1.ff"),
    "channels": (ddpm, "mid_block.resnets.0"),
}


def denoiser_of(pipe):
    return getattr(pipe, "transformer", None) or pipe.unet


def config_of(kind: str = "neurons", **settings) -> PruningConfig:
    target = "conv" if kind == "channels" else "linear"
    given = {"pattern": "structured", "target": target, "keep_first_last": False}
    return PruningConfig(**given | settings)


def group_of(denoiser, kind: str, owner: str) -> Group:
    blocks = find_blocks(layer_shapes(denoiser, "conv" if kind == "channels" else "linear"))
    groups = [group for block in blocks for group in block.groups]
    return next(group for group in groups if (group.kind, group.owner) == (kind, owner))


@pytest.mark.parametrize(
    ("kind", "settings", "numbers"),
    [
        # (total, each, uniform, step, most, movable) of 4 heads
        ("heads", {"sparsity": 0.3}, (4, 1, 1, 1, 3, True)),
        ("heads", {"sparsity": 0.5}, (4, 1, 2, 1, 3, True)),
        ("heads", {"sparsity": 0.5, "round_to": 3}, (4, 1, 2, 1, 3, True)),
        # 128 neurons: an eighth is kept at least; 38 of them are 0.3, so 88 stay in multiples of 8
        ("neurons", {"sparsity": 0.3, "round_to": 8}, (128, 1, 40, 8, 112, True)),
        ("neurons", {"sparsity": 0.25, "round_to": 1}, (128, 1, 32, 2, 112, True)),
        ("neurons", {"sparsity": 0.5, "round_to": 32}, (128, 1, 64, 32, 96, True)),
        # 96 does not divide 128: none leaves, or the 32 of uniform pruning
        ("neurons", {"sparsity": 0.3, "round_to": 96}, (128, 1, 32, 32, 32, False)),
        # 24 does not divide it either: 24 stay at sparsity 0.8, 48 at 0.6, 96 at 0.3
        ("neurons", {"sparsity": 0.3, "round_to": 24}, (128, 1, 32, 104, 104, False)),
        ("neurons", {"sparsity": 0.6, "round_to": 24}, (128, 1, 80, 104, 104, False)),
        ("neurons", {"sparsity": 0.3, "round_to": 4096}, (128, 1, 0, 1, 0, False)),
        # 32 channels in 8 norm groups of 4
        ("channels", {"sparsity": 0.3}, (8, 4, 2, 1, 7, True)),
        ("channels", {"sparsity": 0.99, "round_to": 3}, (8, 4, 7, 1, 7, True)),
    ],
)
def test_the_numbers_of_a_group(kind, settings, numbers):
    make, owner = MODELS[kind]
    denoiser = denoiser_of(make())
    group = group_of(denoiser, kind, owner)
    found = PrunableGroup.of(denoiser, group, config_of(kind, **settings))
    assert found == PrunableGroup(group, *numbers)
    assert found.name == f"{owner} {kind}"
    assert found.kept == found.total - found.uniform


def test_the_numbers_are_those_of_the_denoiser_as_it_is_now():
    denoiser = sd3().transformer
    config = config_of(sparsity=0.5)
    for kind, left, uniform in (("heads", 3, 2), ("neurons", 64, 32)):
        group = group_of(denoiser, kind, MODELS[kind][1])
        shrink_(denoiser, group, list(range(left)))
        found = PrunableGroup.of(denoiser, group, config)
        assert (found.total, found.uniform) == (left, uniform)


@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize("round_to", [8, 24])
def test_at_another_sparsity_it_is_what_it_would_have_been_made_with(kind, round_to):
    make, owner = MODELS[kind]
    denoiser = denoiser_of(make())
    group = group_of(denoiser, kind, owner)
    low, high = (config_of(kind, sparsity=s, round_to=round_to) for s in (0.2, 0.6))
    found = PrunableGroup.of(denoiser, group, low)
    assert found.at(high) == PrunableGroup.of(denoiser, group, high) != found
    assert found.kept_at(high) == found.at(high).kept < found.kept == found.kept_at(low)


def test_at_a_sparsity_there_is_no_budget_and_no_target_latency():
    for name in BUDGETS:
        config = config_of(**{name: 0.7})
        found = at_sparsity(config, 0.4)
        assert found.sparsity == 0.4
        assert {getattr(found, other) for other in BUDGETS} == {None}
        changed = {"sparsity", name}
        for field in dataclasses.fields(config):
            same = getattr(found, field.name) == getattr(config, field.name)
            assert same is (field.name not in changed), field.name


@pytest.mark.parametrize(
    ("make", "settings"),
    [
        (sd3, {"exclude": "*.1.attn.to_q"}),
        (sd3, {"keep_first_last": True}),
        (sd, {"target": "conv"}),
        (flux, {}),
        (ddpm, {"target": "conv"}),
    ],
)
def test_the_groups_of_a_denoiser_are_those_that_the_config_selects(make, settings):
    denoiser, config = denoiser_of(make()), config_of(**settings)
    found = prunable_groups(denoiser, config)
    wanted = select_groups(find_blocks(layer_shapes(denoiser, config.target)), config)
    assert [prunable.group for prunable in found] == wanted != []
    assert found == [PrunableGroup.of(denoiser, group, config) for group in wanted]
    assert len({prunable.name for prunable in found}) == len(found)
    assert all(1 <= prunable.kept <= prunable.total for prunable in found)
    assert all(0 <= prunable.most < prunable.total for prunable in found)
