"""What leaves is given by the caller: it leaves, nothing else does, and the rest is repaired."""

import numpy
import pytest
import torch

from obsdiff import PruningConfig, UserError, prune_
from obsdiff.layerwise.journal import TRIALS
from obsdiff.models.linear_view import matrix

from ..conftest import PROMPTS, sd, sd3

QUICK = {"num_prompts": 2, "num_inference_steps": 2, "height": 16, "width": 16}
HEADS, NEURONS = "transformer_blocks.1.attn heads", "transformer_blocks.0.ff neurons"
QUERY, VALUE = "transformer_blocks.0.attn.to_q", "transformer_blocks.1.attn.to_v"


def structured(**changes) -> PruningConfig:
    return PruningConfig(pattern="structured", round_to=1, **QUICK | changes)


def kept_output(pipe, name: str) -> torch.Tensor:
    return matrix(pipe.transformer.get_submodule(name)).clone()


def test_given_heads_and_neurons_leave_and_all_else_stays():
    pipe, dense = sd3(3), sd3(3)
    report = prune_(pipe, PROMPTS, structured(), removed={HEADS: [1], NEURONS: [5, 0, 7]})
    assert {f"{row.owner} {row.kind}": row.removed for row in report.groups} == {
        HEADS: [1],
        NEURONS: [5, 0, 7],
    }
    assert len(report.given) == 64
    first, second = pipe.transformer.transformer_blocks[:2]
    kept = [i for i in range(first.ff.net[0].proj.out_features + 3) if i not in (5, 0, 7)]
    up, whole = (p.transformer.transformer_blocks[0].ff.net[0].proj.weight for p in (pipe, dense))
    assert torch.equal(up, whole[kept])
    down, whole = (p.transformer.transformer_blocks[0].ff.net[2].weight for p in (pipe, dense))
    assert down.shape == whole[:, kept].shape
    assert not torch.allclose(down, whole[:, kept])  # repaired
    assert second.attn.heads == dense.transformer.transformer_blocks[1].attn.heads - 1
    untouched = "transformer_blocks.2.ff.net.2"
    assert torch.equal(kept_output(pipe, untouched), kept_output(dense, untouched))


def test_those_that_obs_would_choose_lead_to_the_same_error():
    """The heads, neurons and errors of a run, given to a second one."""
    own, given = sd3(3), sd3(3)
    config = structured(
        sparsity=0.3, include=(f"{HEADS.split()[0]}.to_out.0",), calibration="single"
    )
    report = prune_(own, PROMPTS, config)
    found = {f"{row.owner} {row.kind}": row.removed for row in report.groups}
    again = prune_(given, PROMPTS, structured(calibration="single"), removed=found)
    for one, other in zip(report.layers, again.layers, strict=True):
        assert other.error == pytest.approx(one.error, rel=1e-3)
        assert other.sparsity == one.sparsity


@pytest.mark.parametrize("pattern", ["unstructured", "2:4"])
def test_given_masks_leave_and_the_repair_lowers_the_error(pattern):
    def masks(pipe):
        noise = torch.Generator().manual_seed(0)
        found = {}
        for name in (QUERY, VALUE):
            shape = matrix(pipe.transformer.get_submodule(name)).shape
            scores = torch.rand(shape, generator=noise).unflatten(1, (-1, 4))
            found[name] = (scores.argsort(-1).argsort(-1) < 2).flatten(1)
        return found

    errors = []
    for compensation in (True, False):
        pipe = sd3(2)
        removed = masks(pipe)
        config = PruningConfig(pattern=pattern, compensation=compensation, **QUICK)
        report = prune_(pipe, PROMPTS, config, removed=removed)
        assert [row.name for row in report.layers] == [QUERY, VALUE]
        for name, mask in removed.items():
            assert torch.equal(kept_output(pipe, name) == 0, mask)
        errors.append([row.error for row in report.layers])
    assert all(repaired < 0.9 * bare for repaired, bare in zip(*errors, strict=True))
    dense = kept_output(sd3(2), QUERY)
    assert torch.equal(kept_output(pipe, QUERY), dense * ~removed[QUERY])


@pytest.mark.parametrize(
    "changes", [{"bits": 4, "group_size": 32}, {"held_out": 1, "choose_damping": True}]
)
@pytest.mark.parametrize("kind", ["masks", "items"])
def test_what_is_given_leaves_with_rounding_and_with_held_out_prompts(kind, changes):
    pipe = sd3(2)
    if kind == "masks":
        removed = {QUERY: torch.rand(matrix(pipe.transformer.get_submodule(QUERY)).shape) < 0.5}
        config = PruningConfig(**QUICK | {"num_prompts": 3} | changes)
    else:
        removed = {NEURONS: list(range(32))}
        config = structured(num_prompts=3, calibration="single", **changes)
    report = prune_(pipe, PROMPTS, config, removed=removed)
    if kind == "masks":
        assert [row.name for row in report.layers] == [QUERY]
        gone = kept_output(pipe, QUERY) == 0
        assert gone[removed[QUERY]].all()
        assert bool((gone == removed[QUERY]).all()) or "bits" in changes  # codes may be 0, too
    else:
        assert [(row.owner, row.removed) for row in report.groups] == [
            ("transformer_blocks.0.ff", list(range(32)))
        ]
    if "bits" in changes:
        rounded = {row.name for row in report.layers if row.bits == 4}
        assert rounded == {row.name for row in report.layers}
    else:
        assert all(row.held_out_error is not None for row in report.layers)


@pytest.mark.slow
def test_channels_leave_by_whole_norm_groups():
    pipe = sd()
    report = prune_(pipe, PROMPTS, structured(target="conv", sparsity=0.3))
    row = next(row for row in report.groups if row.kind == "channels")
    name = f"{row.owner} channels"
    again = prune_(sd(), PROMPTS, structured(target="conv"), removed={name: row.removed})
    assert [(found.owner, found.kept) for found in again.groups] == [(row.owner, row.kept)]
    with pytest.raises(UserError, match="norm group"):
        prune_(sd(), PROMPTS, structured(target="conv"), removed={name: row.removed[:1]})


MASK = torch.zeros(4, 4, dtype=torch.bool)


@pytest.mark.parametrize(
    ("changes", "removed", "message"),
    [
        ({}, {}, "at least one group"),
        ({}, {"nowhere heads": [0]}, r"no group 'nowhere heads'.*such as 'transformer_blocks"),
        ({}, {HEADS: [99]}, r"from 0 to \d+, not all of them; found 99"),
        ({}, {HEADS: [0, 0]}, "found 2, 1 different"),
        ({}, {HEADS: [True]}, "found True"),
        ({}, {HEADS: []}, "something that leaves"),
        ({"method": "l1"}, {HEADS: [0]}, "default of method"),
        ({"allocation": "sensitivity"}, {HEADS: [0]}, "default of allocation"),
        ({"target": "ffn"}, {HEADS: [0]}, "nothing is left to prune"),
        ({"target": "ffn"}, {HEADS: [0], NEURONS: [0]}, "1.attn heads is not selected by target"),
        ({"pattern": "depth", "sparsity": 0.3}, {HEADS: [0]}, "found depth"),
        ({"pattern": "unstructured"}, {QUERY: [0]}, "tensor of bool, found list"),
        ({"pattern": "unstructured"}, {QUERY: MASK.float()}, "tensor of bool, found torch.float32"),
        ({"pattern": "unstructured"}, {QUERY: MASK}, r"expected a mask .*, found \(4, 4\)"),
        ({"pattern": "unstructured"}, {"nowhere": MASK}, "no layer 'nowhere'"),
        ({"pattern": "2:4"}, {QUERY: None}, "at most 2 of every 4"),
        ({}, [HEADS], "expected a mapping by the name of a group, found list"),
        ({}, {HEADS: 1}, "expected a list of indices, found int"),
        ({}, {HEADS: torch.tensor(1)}, "expected a list of indices, found Tensor"),
        ({"pattern": "unstructured"}, {QUERY: MASK[0]}, r"expected a mask .*, found \(4,\)"),
        ({"pattern": "unstructured"}, {QUERY: MASK.new_ones(32, 32)}, "masks of all of them"),
    ],
)
def test_what_cannot_be_removed_is_one_line(changes, removed, message):
    pipe = sd3(3)
    if isinstance(removed, dict) and removed.get(QUERY, 0) is None:
        removed = {QUERY: torch.zeros_like(kept_output(pipe, QUERY), dtype=torch.bool)}
    config = PruningConfig(**{"pattern": "structured"} | QUICK | changes)
    with pytest.raises(UserError, match=message):
        prune_(pipe, PROMPTS, config, removed=removed)


@pytest.mark.parametrize(
    "changes", [{"target": "ffn"}, {"exclude": ("*.to_q",)}, {"blocks": "1"}], ids=str
)
def test_a_mask_of_a_layer_that_is_not_selected_is_refused(changes):
    down = "transformer_blocks.1.ff.net.2"
    pipe = sd3(3)
    masks = {name: kept_output(pipe, name) > 0 for name in (QUERY, down)}
    with pytest.raises(UserError, match=r"0\.attn\.to_q is not selected by target, blocks"):
        prune_(pipe, PROMPTS, PruningConfig(**QUICK | changes), removed=masks)


@pytest.mark.parametrize(
    "listed", [numpy.array, torch.tensor, tuple, set], ids=lambda way: way.__name__
)
def test_indices_may_be_listed_in_any_way(listed):
    report = prune_(sd3(3), PROMPTS, structured(), removed={HEADS: listed([1, 2])})
    assert report.groups[0].removed == [1, 2]
    assert all(type(i) is int for i in report.groups[0].removed)


@pytest.mark.slow
def test_a_run_with_other_removals_does_not_resume(tmp_path):
    first = prune_(
        sd3(3), PROMPTS, structured(), removed={HEADS: [1], NEURONS: [5, 0]}, journal=tmp_path
    )
    assert not list(tmp_path.glob(f"{TRIALS}/*"))
    again = prune_(
        sd3(3), PROMPTS, structured(), removed={NEURONS: [0, 5], HEADS: [1]}, journal=tmp_path
    )
    assert again.given == first.given
    assert [row.seconds for row in again.layers] == [row.seconds for row in first.layers]
    with pytest.raises(UserError, match="removed"):
        prune_(sd3(3), PROMPTS, structured(), removed={HEADS: [0]}, journal=tmp_path)
