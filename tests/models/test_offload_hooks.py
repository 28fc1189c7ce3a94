"""Hooks that offload weights are found on a model and on its parts."""

import pytest
import torch
from accelerate import cpu_offload_with_hook
from diffusers.hooks import apply_group_offloading

from obsdiff.models.offload_hooks import accelerate_hooks, group_hook, group_offloaded

from ..conftest import sd3

CPU = torch.device("cpu")


@pytest.mark.parametrize("level", ["block_level", "leaf_level"])
def test_group_offloading_is_found_in_the_model_and_in_its_blocks(level):
    model = sd3(1).transformer
    assert not group_offloaded(model)
    assert group_hook(model) is None
    apply_group_offloading(model, CPU, CPU, level, num_blocks_per_group=1)
    assert group_offloaded(model)
    block = model.transformer_blocks[0]
    hooked = block if level == "block_level" else block.attn.to_q
    assert group_hook(hooked).config.onload_device == CPU


def test_hooks_of_accelerate_are_no_group_offloading():
    model = sd3(1).transformer
    assert list(accelerate_hooks(model)) == []
    cpu_offload_with_hook(model, CPU)
    assert len(list(accelerate_hooks(model))) == 1
    assert not group_offloaded(model)
