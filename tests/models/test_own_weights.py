"""Weights that are not a layer's own: named with the call that helps, before anything runs."""

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, parametrize, prune, remove_weight_norm
from torch.nn.utils import spectral_norm as old_spectral_norm
from torch.nn.utils import weight_norm as old_weight_norm

from obsdiff import PruningConfig, UserError, prune_
from obsdiff.models.own_weights import require_own_weights

from ..conftest import PROMPTS, sd3

pytestmark = [
    pytest.mark.filterwarnings("ignore::obsdiff.errors.CalibrationWarning"),
    pytest.mark.filterwarnings("ignore:.*weight_norm:FutureWarning"),
]
FIRST, SECOND = "transformer_blocks.0.ff.net.2", "transformer_blocks.1.ff.net.2"
QUICK = {"num_inference_steps": 2, "height": 16, "width": 16, "calibration": "single"}


def prune_two(pipe):
    config = PruningConfig(include=(FIRST, SECOND), **QUICK)
    return prune_(pipe, PROMPTS[:1], config)


class Doubled(nn.Module):
    def forward(self, weight):
        return 2 * weight


COMPUTED = {
    "mask": (lambda layer: prune.l1_unstructured(layer, "weight", 0.2), "prune.remove"),
    "mask of the bias": (lambda layer: prune.l1_unstructured(layer, "bias", 0.2), "'bias'"),
    "old weight norm": (old_weight_norm, "remove_weight_norm"),
    "old spectral norm": (old_spectral_norm, "remove_spectral_norm"),
    "weight norm": (parametrizations.weight_norm, "remove_parametrizations"),
    "spectral norm": (parametrizations.spectral_norm, "remove_parametrizations"),
    "parametrisation": (
        lambda layer: parametrize.register_parametrization(layer, "weight", Doubled()),
        "remove_parametrizations",
    ),
}


@pytest.mark.parametrize(("change", "words"), COMPUTED.values(), ids=COMPUTED)
def test_a_computed_weight_is_refused_with_the_call_to_make(change, words):
    pipe = sd3()
    change(pipe.transformer.get_submodule(SECOND))
    with pytest.raises(UserError, match=words) as caught:
        prune_two(pipe)
    assert str(caught.value).startswith(SECOND)


def test_the_advised_calls_make_a_weight_prunable():
    pipe = sd3()
    layer = pipe.transformer.get_submodule(SECOND)
    prune.l1_unstructured(layer, "weight", 0.2)
    prune.remove(layer, "weight")
    old_weight_norm(layer, "weight")
    remove_weight_norm(layer, "weight")
    assert len(prune_two(pipe).layers) == 2


def tie(model):
    model.get_submodule(SECOND).weight = model.get_submodule(FIRST).weight


def view(model):
    first, second = model.get_submodule(FIRST), model.get_submodule(SECOND)
    both = torch.cat([first.weight.detach(), second.weight.detach()])
    first.weight = nn.Parameter(both[: len(first.weight)])
    second.weight = nn.Parameter(both[len(first.weight) - 1 : -1])


@pytest.mark.parametrize("share", [tie, view])
def test_weights_in_one_memory_are_refused_with_both_names(share):
    pipe = sd3()
    share(pipe.transformer)
    with pytest.raises(UserError, match="share one memory") as caught:
        prune_two(pipe)
    assert FIRST in str(caught.value)
    assert SECOND in str(caught.value)


def test_one_module_in_two_places_is_refused_with_both_names():
    pipe = sd3()
    blocks = pipe.transformer.transformer_blocks
    blocks[1].ff.net[2] = blocks[0].ff.net[2]
    with pytest.raises(UserError, match="share one memory") as caught:
        require_own_weights(pipe, "transformer", [FIRST])
    assert FIRST in str(caught.value)
    assert SECOND in str(caught.value)


def test_neighbours_in_one_storage_are_weights_of_their_own():
    pipe = sd3()
    first, second = (pipe.transformer.get_submodule(name) for name in (FIRST, SECOND))
    both = torch.stack([first.weight.detach(), second.weight.detach()])
    first.weight, second.weight = nn.Parameter(both[0]), nn.Parameter(both[1])
    assert len(prune_two(pipe).layers) == 2


def test_a_weight_shared_with_another_component_is_refused():
    pipe = sd3()
    pipe.vae.extra = nn.Module()
    pipe.vae.extra.weight = pipe.transformer.get_submodule(FIRST).weight
    with pytest.raises(UserError, match=r"vae\.extra\.weight"):
        prune_two(pipe)


def test_a_tie_between_layers_that_stay_dense_does_not_count():
    pipe = sd3()
    tie(pipe.transformer)
    require_own_weights(pipe, "transformer", ["transformer_blocks.2.ff.net.2"])


def test_a_weight_that_repeats_its_values_is_refused():
    pipe = sd3()
    layer = pipe.transformer.get_submodule(FIRST)
    layer.weight = nn.Parameter(layer.weight.detach()[:1].expand(layer.weight.shape))
    with pytest.raises(UserError, match="some share it"):
        prune_two(pipe)


def test_a_structured_pruning_asks_the_producers_too():
    pipe = sd3()
    producer = "transformer_blocks.1.attn.to_q"
    old_weight_norm(pipe.transformer.get_submodule(producer))
    config = PruningConfig(pattern="structured", sparsity=0.5, round_to=1, **QUICK)
    with pytest.raises(UserError, match=producer):
        prune_(pipe, PROMPTS[:1], config)
