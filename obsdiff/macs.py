"""Multiply-accumulates of a model's forward, counted by torch's own flop counter.

Counted are matrix products: of linear layers, of convolutions, and inside attention (queries by keys, weights by values).
A model on the meta device has shapes and no data: counting it takes no memory and no time to speak of.
"""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

LINEAR, CONVOLUTION = ("mm", "addmm"), ("convolution", "_convolution")


@dataclass(frozen=True)
class Macs:
    """Multiply-accumulates of one call, by kind."""

    linear: int
    convolution: int
    attention: int

    @property
    def total(self) -> int:
        return self.linear + self.convolution + self.attention

    def to_dict(self) -> dict[str, int]:
        return dataclasses.asdict(self) | {"total": self.total}


def count_macs(call: Callable[[], Any]) -> Macs:
    """Multiply-accumulates of what `call` computes: half of its floating-point operations."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        call()
    kinds = {"linear": 0, "convolution": 0, "attention": 0}
    for op, flops in counter.get_flop_counts().get("Global", {}).items():
        name = str(op).removeprefix("aten.")
        kind = "linear" if name in LINEAR else "convolution" if name in CONVOLUTION else "attention"
        kinds[kind] += flops // 2
    return Macs(**kinds)
