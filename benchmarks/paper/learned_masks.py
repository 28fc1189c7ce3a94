"""The baseline EcoDiff: masks of heads and neurons, learned by gradients through the whole drawing.

    minimise E |z(m) - z|^2 / n + b (0.4 mean m_heads + mean m_neurons)      over l             (1)
    m = min(1, max(0, 1.2 s - 0.1)),  s = sigmoid((ln u - ln (1 - u) + l) / e)                  (2)

z (n numbers) the final latents of the dense model, z(m) those with every head and neuron times its
mask; (2) is the hard concrete distribution with u uniform in (0, 1), one mask a drawing. The items
with the least l leave, of all groups together. Nothing is repaired; `ecodiff+obs` is ours, the same
masks and what is left repaired by OBS. The settings are those of the authors' published
configurations: 100 prompts, four times each, four a step, b = e = 0.5, l begins at 3; but no item
of the first and the last block of an SD3, as structured pruning has it here.

References:
    Zhang et al., "Effortless Efficiency: Low-Cost Pruning of Diffusion Models", 2024.
        https://arxiv.org/abs/2412.02852
    Louizos, Welling, Kingma, "Learning Sparse Neural Networks through L0 Regularization", 2017 (2).
        https://arxiv.org/abs/1712.01312
"""

import contextlib
import copy
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from obsdiff import PruningConfig
from obsdiff.calibration.groups import PrunableGroup, prunable_groups
from obsdiff.models.discovery import find_blocks
from obsdiff.models.geometry import columns, rows
from obsdiff.models.linear_view import layer_at
from obsdiff.models.structure import Group
from obsdiff.models.surgery import shrink_
from obsdiff.pipelines.call import choose_prompts
from obsdiff.pipelines.differentiable import differentiable
from obsdiff.pipelines.removed import leaving
from obsdiff.pipelines.run import hooked, prepared

from .lab import CACHE, Lab
from .rows import Row, figures_row, row_of

NAME = "ecodiff"
REPAIRED = "ecodiff+obs"
PROMPTS, EPOCHS, TOGETHER = 100, 4, 4
BEGIN, RATE, PENALTY, WIDTH = 3.0, 0.1, 0.5, 0.5  # l at the start, Adam's rate, b, e
STRETCH = (-0.1, 1.1)
HEADS = 0.4  # weight of the heads' mean
ROOM = 2e9  # bytes of activations that are stored
Masks = dict[str, Tensor]  # a number an item, by group


@dataclass(frozen=True)
class Masked:
    """A group whose items have masks.

    Attributes:
        group: the group.
        reads: columns (N, D) of each item in a consumer.
        price: parameters of one item.
    """

    group: Group
    reads: Tensor
    price: int

    @classmethod
    def of(cls, denoiser: nn.Module, prunable: PrunableGroup) -> "Masked":
        """Return the group with its items counted."""
        group, count = prunable.group, prunable.total
        reads = columns(denoiser, group, count)
        price = sum(len(layer_at(denoiser, name).weight) for name in group.consumers)
        price *= reads.shape[1]
        for name in group.producers:
            layer = layer_at(denoiser, name)
            inputs = layer.weight.shape[1] + (layer.bias is not None)
            price += rows(denoiser, group, name, count).shape[1] * inputs
        return cls(group, reads, price)


def masked_groups(denoiser: nn.Module) -> list[Masked]:
    """The groups that structured pruning selects."""
    config = PruningConfig(pattern="structured", round_to=1)
    return [Masked.of(denoiser, prunable) for prunable in prunable_groups(denoiser, config)]


def ecodiff_row(lab: Lab, share: float, least: float) -> Row:
    """Remove the items with the least masks, at least so many parameters; draw, measure."""
    groups, gone = least_masked(lab, least)
    denoiser, left = without(lab.dense, groups, gone)
    about = {"method": NAME, "pattern": "structured", "sparsity": share, "gone": left}
    return about | figures_row(lab, denoiser)


def repaired_row(lab: Lab, share: float, least: float) -> Row:
    """The same, what is left repaired by OBS; draw, measure."""
    groups, gone = least_masked(lab, least)
    named = {one.group.name: sorted(some) for one, some in zip(groups, gone, strict=True) if some}
    config = PruningConfig(pattern="structured", sparsity=share)
    denoiser, layers, records, seconds = lab.pruned(config, lab.hessians(), named)
    row = row_of(lab, config, denoiser, layers, records)
    return row | {"method": REPAIRED, "solve_seconds": seconds}


def least_masked(lab: Lab, least: float) -> tuple[list[Masked], list[set[int]]]:
    """The groups, and of each the items with the least masks; the masks are learned once."""
    file = CACHE / f"{NAME}-{lab.model}-{lab.steps}.safetensors"
    if not file.exists():
        began = time.process_time()
        masks = learned(lab)
        file.parent.mkdir(parents=True, exist_ok=True)
        save_file(masks, file, {"seconds": f"{time.process_time() - began:.0f}"})
    groups = masked_groups(lab.dense)
    return groups, leaving_first(groups, load_file(file), least)


def learned(lab: Lab) -> Masks:
    """Minimise (1) over the calibration prompts; returns l."""
    torch.manual_seed(0)
    groups = masked_groups(lab.dense)
    found = {
        one.group.name: torch.full((len(one.reads),), BEGIN, requires_grad=True) for one in groups
    }
    prompts, seeds = choose_prompts(lab.calibration, PruningConfig(num_prompts=PROMPTS))
    optimizer = torch.optim.Adam(found.values(), lr=RATE)
    with prepared(lab.pipe) as run:
        wanted = [
            run.latents([prompt], [seed], lab.settings).clone()
            for prompt, seed in zip(prompts, seeds, strict=True)
        ]
        with differentiable(run, lab.dense, find_blocks(lab.shapes), ROOM):
            order = [i for _ in range(EPOCHS) for i in torch.randperm(PROMPTS).tolist()]
            for done, i in enumerate(order, 1):
                masks = {name: sampled(logits) for name, logits in found.items()}
                with masked(lab.dense, groups, masks):
                    latents = run.latents([prompts[i]], [seeds[i]], lab.settings)
                    loss = (latents - wanted[i]).square().mean() + penalty(groups, masks)
                    (loss / TOGETHER).backward()
                if done % TOGETHER == 0:
                    optimizer.step()
                    optimizer.zero_grad()
    return {name: logits.detach() for name, logits in found.items()}


def sampled(logits: Tensor) -> Tensor:
    """Draw masks (2) of l."""
    u = torch.rand_like(logits).clamp(1e-6, 1 - 1e-6)
    soft = torch.sigmoid((u.log() - (-u).log1p() + logits) / WIDTH)
    low, high = STRETCH
    return (soft * (high - low) + low).clamp(0, 1)


def penalty(groups: list[Masked], masks: Masks) -> Tensor:
    """The second part of (1)."""
    total = torch.zeros(())
    for kind, weight in (("heads", HEADS), ("neurons", 1.0)):
        some = [masks[one.group.name] for one in groups if one.group.kind == kind]
        if some:
            total = total + weight * torch.cat(some).mean()
    return PENALTY * total


@contextlib.contextmanager
def masked(denoiser: nn.Module, groups: list[Masked], masks: Masks) -> Iterator[None]:
    """Multiply what the consumers of every group read by its masks."""

    def hooks() -> Iterator[Any]:
        for one in groups:
            factors = masks[one.group.name].unsqueeze(1).expand(one.reads.shape).flatten()
            for name in one.group.consumers:
                layer = layer_at(denoiser, name)
                columns_ = torch.ones(layer.weight.shape[1]).index_put(
                    (one.reads.flatten(),), factors
                )
                yield layer.register_forward_pre_hook(
                    lambda _, args, columns_=columns_: (args[0] * columns_, *args[1:])
                )

    with hooked(hooks()):
        yield


def leaving_first(groups: list[Masked], masks: Masks, least: float) -> list[set[int]]:
    """The items of each group with the least masks, as many as have so many parameters.

    One item of each group stays.
    """
    order = sorted(
        (value, i, item) for i, one in enumerate(groups)
        for item, value in enumerate(masks[one.group.name].tolist())
    )  # fmt: skip
    gone: list[set[int]] = [set() for _ in groups]
    for _, i, item in order:
        if sum(one.price * len(some) for one, some in zip(groups, gone, strict=True)) >= least:
            break
        if len(gone[i]) + 1 < len(groups[i].reads):
            gone[i].add(item)
    return gone


def without(
    dense: nn.Module, groups: list[Masked], gone: list[set[int]]
) -> tuple[nn.Module, dict[str, dict[str, int]]]:
    """Remove items from a copy of a denoiser; returns it, and what left by kind."""
    pruned, left = copy.deepcopy(dense), []
    for one, some in zip(groups, gone, strict=True):
        total = len(one.reads)
        shrink_(pruned, one.group, [item for item in range(total) if item not in some])
        left.append({"kind": one.group.kind, "total": total, "kept": total - len(some)})
    return pruned, leaving(left)
