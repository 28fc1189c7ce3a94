"""Copies of weights: each part computes with its own, and the parameters come back."""

import pytest
import torch
from diffusers.hooks import apply_group_offloading
from torch import nn

from obsdiff.pipelines import weight_copies
from obsdiff.pipelines.weight_copies import copied_weights, slots_of

CPU = torch.device("cpu")


class Model(nn.Module):
    """Two blocks, and a layer and a buffer of no block."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(3, 3)
        self.blocks = nn.ModuleList(nn.Sequential(nn.Linear(3, 3), nn.LayerNorm(3)) for _ in "ab")
        self.register_buffer("shift", torch.ones(3))
        self.seen: list[set[str]] = []

    def forward(self, x):
        x = self.first(x) + self.shift
        for block in self.blocks:
            block[1].register_forward_pre_hook(lambda *_: self.seen.append(self.copied()))
            x = block(x)
        return x

    def copied(self) -> set[str]:
        """The names of the tensors that are not the model's own now."""
        return {name for name, tensor in self.state().items() if tensor is not self.own[name]}

    def state(self):
        return dict(self.named_parameters()) | dict(self.named_buffers())


def offloaded() -> Model:
    model = Model()
    apply_group_offloading(model, CPU, CPU, "block_level", num_blocks_per_group=2)
    model.own = model.state()
    return model


def test_the_weights_of_one_block_and_of_no_block_are_copied_at_a_time():
    model = offloaded()
    rest = {"first.weight", "first.bias", "shift"}
    of_blocks = [{name for name in model.own if name.startswith(f"blocks.{i}")} for i in (0, 1)]
    with copied_weights(model, list(model.blocks)):
        model(torch.ones(2, 3))
        assert model.seen == [rest | of_blocks[0], rest | of_blocks[1]]
        assert not model.copied()


def test_a_backward_pass_reads_the_copies_alone(monkeypatch):
    """They are all that it needs once the parameters are away."""
    monkeypatch.setattr(weight_copies, "copy_of", lambda tensor, _: tensor.detach().clone())
    model, x = offloaded().requires_grad_(False), torch.ones(2, 3, requires_grad=True)
    (wanted,) = torch.autograd.grad(model(x).square().sum(), x)
    with copied_weights(model, list(model.blocks)):
        out = model(x)
        for parameter in model.parameters():
            parameter.data.fill_(torch.nan)
        (found,) = torch.autograd.grad(out.square().sum(), x)
    assert torch.equal(found, wanted)


def test_the_parameters_come_back_after_an_error():
    model = offloaded()
    with copied_weights(model, list(model.blocks)), pytest.raises(RuntimeError):
        model(torch.ones(2, 4))
    assert not model.copied()


def test_a_model_that_is_not_offloaded_is_left_alone():
    model = Model()
    with copied_weights(model, list(model.blocks)):
        assert not any("forward" in vars(module) for module in model.modules())


def test_a_shared_weight_has_one_copy():
    model = offloaded()
    model.blocks[0][0].weight = model.first.weight
    seen = []
    with copied_weights(model, []):
        model.blocks[1].register_forward_pre_hook(
            lambda *_: seen.append(model.blocks[0][0].weight is model.first.weight)
        )
        model(torch.ones(2, 3))
    assert seen == [True]
    assert len(slots_of(model, [])) == 11
