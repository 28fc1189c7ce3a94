"""Layouts: counts and kept items, checked against the model, composed when it is pruned again."""

import pytest
import torch

from obsdiff.errors import UserError
from obsdiff.models import surgery
from obsdiff.models.discovery import find_blocks
from obsdiff.models.kept_items import as_ranges, items_of, kept_by
from obsdiff.models.layout import layout_of, shrink_to_
from obsdiff.models.linear_view import layer_shapes
from obsdiff.models.pruned_classes import mark_pruned_
from obsdiff.models.surgery import shrink_

from ..conftest import ddpm, sd3
from ..support.cut_heads import cut_

ATTENTION = "transformer_blocks.1.attn"


def groups_of(model, target="linear"):
    return [g for block in find_blocks(layer_shapes(model, target)) for g in block.groups]


def kept_heads(value) -> dict:
    return {ATTENTION: {"heads": 2, "heads_kept": value}}


def test_a_dense_model_is_shrunk_to_the_shapes_of_a_layout():
    pruned, again = sd3().transformer, sd3().transformer
    layout = {ATTENTION: {"heads": 2}, "transformer_blocks.0.ff": {"neurons": 40}}
    groups = {(g.owner, g.kind): g for g in groups_of(pruned)}
    shrink_(pruned, groups[ATTENTION, "heads"], [3, 1])
    shrink_(pruned, groups["transformer_blocks.0.ff", "neurons"], list(range(40)))
    shrink_to_(again, layout)
    assert layer_shapes(again) == layer_shapes(pruned)
    again.load_state_dict(pruned.state_dict())


@pytest.mark.parametrize(
    ("layout", "words"),
    [
        ({ATTENTION: {"heads": -1}}, "1 to 4 can be left; found -1"),
        ({ATTENTION: {"heads": 0}}, "found 0"),
        ({ATTENTION: {"heads": 5}}, "found 5"),
        ({ATTENTION: {"heads": True}}, "found True"),
        ({ATTENTION: {"heads": "2"}}, "found '2'"),
        (
            {ATTENTION: {"neurons": 2}},
            "no 'neurons' in 'transformer_blocks.1.attn'",
        ),
        ({"transformer_blocks.9.attn": {"heads": 2}}, "transformer_blocks.9.attn"),
        ({ATTENTION: {"heads_kept": "0"}}, "no 'heads_kept' in"),
        ({ATTENTION: {"heads": 2, "foo": 2}}, "no 'foo' in"),
        (kept_heads(None), "expected ranges such as '0-2,5', found NoneType"),
        (kept_heads([0, 1]), "found list"),
        (kept_heads(""), "found ''"),
        (kept_heads("0-1,"), "found ''"),
        (kept_heads("1-0"), "items from 0 to 3, found '1-0'"),
        (kept_heads("0-999999999"), "items from 0 to 3, found '0-999999999'"),
        (kept_heads("9" * 10**6), "found '99999999999999999999'"),
        (kept_heads("-1,2"), "found '-1'"),
        (kept_heads("٣,1"), "found '٣'"),
        (kept_heads("0-2"), "expected 2 items, found more"),
        (kept_heads("3"), "expected 2 different items, found 1"),
        (kept_heads("3,3"), "expected 2 different items, found 1"),
        ({"__class__": {"heads": 2}}, "__class__"),
        ({ATTENTION: 2}, "found 2"),
        ([1], "found list"),
    ],
)
def test_a_tampered_layout_is_one_clear_error(layout, words):
    with pytest.raises(UserError) as error:
        shrink_to_(sd3().transformer, layout)
    assert words in str(error.value)


@pytest.mark.parametrize("items", [[0], [4], [0, 1, 2, 5], [5, 0, 1], list(range(9)), [2, 1, 0]])
def test_ranges_are_read_back(items):
    assert items_of(as_ranges(items), len(items), 9) == items
    assert as_ranges([0, 1, 2, 5]) == "0-2,5"


def test_items_of_a_second_cut_are_those_of_the_dense_model():
    model = sd3().transformer
    group = next(g for g in groups_of(model) if g.name == f"{ATTENTION} heads")
    shrink_(model, group, [0, 2, 3])
    mark_pruned_(model, {ATTENTION: {"heads": 3}})
    assert model.config["pruned_layout"] == {ATTENTION: {"heads": 3, "heads_kept": "0,2-3"}}
    again = type(model).from_config(model.config)
    for each in (model, again):
        shrink_(each, group, [0, 2])
        mark_pruned_(each, {ATTENTION: {"heads": 2}})
        assert each.config["pruned_layout"] == {ATTENTION: {"heads": 2, "heads_kept": "0,3"}}


def test_what_an_older_layout_does_not_state_stays_unknown():
    model = sd3().transformer
    cut_(model, "heads", "neurons")
    older = type(model).from_config(dict(model.config) | {"pruned_layout": layout_of(model)})
    assert older.config["pruned_layout"] == layout_of(model)
    cut_(older, "heads")
    left = {ATTENTION: {"heads": 2}}
    assert {owner: older.config["pruned_layout"][owner] for owner in left} == left


def test_channels_are_named_one_by_one_and_kept_by_norm_groups():
    model = ddpm().unet
    cut_(model, "channels", target="conv")
    layout = model.config["pruned_layout"]["down_blocks.0.resnets.0"]
    assert layout == {"channels": 14, "channels_kept": "2-15"}
    for wrong in ("1-14", "2-3,5-14,4,15"):
        with pytest.raises(UserError, match="expected whole norm groups of 2 channels"):
            shrink_to_(ddpm().unet, {"down_blocks.0.resnets.0": layout | {"channels_kept": wrong}})


def test_an_interrupted_cut_leaves_no_record(monkeypatch):
    model = sd3().transformer
    group = groups_of(model)[0]

    def fail(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(surgery, "record_kept_", fail)
    with pytest.raises(KeyboardInterrupt):
        shrink_(model, group, [0])
    assert not kept_by(model.get_submodule(group.owner))
    assert torch.equal(model.get_submodule(group.producers[0]).weight, sd3_weight(group))


def sd3_weight(group):
    return sd3().transformer.get_submodule(group.producers[0]).weight
