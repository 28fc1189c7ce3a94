"""The table of modulation layers: what the inputs of these layers depend on, in every class."""

import pytest
import torch

from obsdiff.models.modulation_table import BY_PROMPT, MODULATION, modulation_layers
from obsdiff.models.modulation_table import modulation_share as share

from ..coverage_of_models import build

TEXTS = ("pooled_projections", "encoder_hidden_states", "class_labels")  # may depend on the prompt


def test_the_share_of_a_class():
    assert set(BY_PROMPT) <= set(MODULATION)
    assert share("SD3Transformer2DModel") == share("PrunedSD3Transformer2DModel") == 0.7
    assert share("QwenImageTransformer2DModel") == 0.1


@pytest.mark.parametrize("cls", MODULATION)
@pytest.mark.slow
def test_the_prompt_enters_where_the_table_says_so(cls):
    model, make = build(cls)
    name = modulation_layers(cls, dict(model.named_modules()))[0]
    seen: list[torch.Tensor] = []
    model.get_submodule(name).register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    given = make()
    texts = {key: given[key] for key in TEXTS if given.get(key) is not None}
    others = {
        key: (text + 1) % 2 if not text.is_floating_point() else text.flip(-1) + 1
        for key, text in texts.items()
    }
    with torch.no_grad():
        for call in (given, given | others):
            torch.manual_seed(0)
            model(**call)
    half = len(seen) // 2
    assert texts
    assert torch.equal(seen[0], seen[half]) == (cls not in BY_PROMPT)
