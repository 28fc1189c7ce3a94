"""Multiply-accumulates of a model's forward, counted by torch's own flop counter.

Matrix products are counted: of linear layers, of convolutions, and inside attention (queries by
keys, weights by values). A model on the meta device has shapes and no data, so counting it needs
almost no memory and time.
"""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

LINEAR, CONVOLUTION = ("mm", "addmm"), ("convolution", "_convolution")


@dataclass(frozen=True)
class Macs:
    """Multiply-accumulates of one call.

    Attributes:
        linear: of linear layers.
        convolution: of convolutions.
        attention: of the matrix products inside attention.
    """

    linear: int
    convolution: int
    attention: int

    @property
    def total(self) -> int:
        """The sum over all kinds."""
        return self.linear + self.convolution + self.attention

    def to_dict(self) -> dict[str, int]:
        """Return the counts by kind, and their total."""
        return dataclasses.asdict(self) | {"total": self.total}


def attention_flops(query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
    """Return the operations of fused attention on a CPU, which torch's counter has no formula for.

    Two products: queries (B, H, L, D) with keys (B, H, S, D), their weights with values (B, H, S,
    E). The arguments are the shapes.
    """
    batch, heads, length, depth = query
    return 2 * batch * heads * length * key[-2] * (depth + value[-1])


FUSED = {torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: attention_flops}


def count_macs(call: Callable[[], Any]) -> Macs:
    """Count the multiply-accumulates of a call: half of its floating-point operations.

    Args:
        call: the computation, without arguments; run once, without gradients.
    """
    with FlopCounterMode(display=False, custom_mapping=FUSED) as counter, torch.no_grad():
        call()
    kinds = {"linear": 0, "convolution": 0, "attention": 0}
    for op, flops in counter.get_flop_counts().get("Global", {}).items():
        kinds[kind_of(op)] += flops // 2
    return Macs(**kinds)


def kind_of(op: Any) -> str:
    """Return the kind of a counted operator; any other matrix product is attention's."""
    name = str(op).removeprefix("aten.")
    return "linear" if name in LINEAR else "convolution" if name in CONVOLUTION else "attention"


def macs_by_module(model: nn.Module, call: Callable[[], Any]) -> dict[str, tuple[int, int]]:
    """Count the multiply-accumulates inside each module of a model.

    Args:
        model: the model.
        call: a computation that calls the model; run once, without gradients.

    Returns:
        Module name -> multiply-accumulates of its layers, and of its attention.
    """
    with FlopCounterMode(display=False, custom_mapping=FUSED) as counter, torch.no_grad():
        call()
    found: dict[str, tuple[int, int]] = {}
    for name, counts in counter.get_flop_counts().items():
        sums = [0, 0]
        for op, flops in counts.items():
            sums[kind_of(op) == "attention"] += flops // 2
        found[name.partition(".")[2]] = (sums[0], sums[1])
    return found
