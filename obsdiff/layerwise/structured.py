"""Structured pruning of one package: choose heads, neurons and channels, repair what reads them, take them out of the model.

Used by prune.py once the package's Hessians are there. The same methods serve one attention, joint attention of two
streams, an FFN, and the projection of FLUX's single blocks that reads heads and neurons together.
"""

import time
import zlib
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from types import MappingProxyType

import torch
from torch import nn

from ..calibration.hessian import Hessian
from ..calibration.selection import kept_count
from ..config import PruningConfig
from ..errors import NotPositiveDefinite
from ..models.geometry import columns, items, rows, unit_size
from ..models.linear_view import matrix, write_
from ..models.structure import Group
from ..models.surgery import shrink_
from ..pipelines.record import GroupRecord, LayerRecord
from ..solvers import BASELINES
from ..solvers.lstsq import lstsq
from ..solvers.obs_structured import Consumer, obs_heads, obs_neurons
from ..solvers.problem import layer_error, squared_error
from .bias_correction import correct_
from .held_out import best, dampings, does_harm
from .problem import targets_of
from .tasks import by_consumer, left_items

Matrices = dict[str, torch.Tensor]  # by layer
GroupsSolved = tuple[dict[str, Consumer], list[GroupRecord]]


def prune_groups_(
    denoiser: nn.Module,
    groups: list[Group],
    hessians: Mapping[str, Hessian],
    config: PruningConfig,
    package: int,
    left: Mapping[str, float] = MappingProxyType({}),
) -> tuple[list[LayerRecord], list[GroupRecord]]:
    """Prune the groups of one package in place; `hessians` are those of their consumers, by layer name, and are used up. `left`: how
    many items of a group stay, by its name, where it is not the config that says so."""
    layers, records = [], []
    for together in by_consumer(groups):
        began = time.perf_counter()
        names = list(dict.fromkeys(name for group in together for name in group.consumers))
        before = {name: matrix(denoiser.get_submodule(name)).clone() for name in names}
        matrices = matrices_of({name: hessians[name] for name in names})
        before, aimed = targets_by_layer(
            before, {name: hessians[name] for name in names}, matrices, config
        )
        apart = matrices_of({name: other for name in names if (other := hessians[name].held_out)})
        consumers, gone = solved_best(
            partial(solved, denoiser, together, before, matrices, package, left),
            before,
            apart,
            config,
        )
        records += gone
        for name, consumer in consumers.items():
            repaired = (
                keep_if_good_(consumer, before[name], apart[name])
                if apart and config.repairs
                else None
            )
            error = layer_error(before[name], consumer.weight, matrices[name])
            if config.method != "obs" or not config.compensation or repaired is False:
                consumer.loss = squared_error(before[name], consumer.weight, matrices[name]) / 2
            consumer.damping = max(consumer.damping, aimed[name])
            row = consumer_record(
                name,
                before[name],
                consumer,
                error,
                hessians[name],
                package,
                time.perf_counter() - began,
            )
            held_out = layer_error(before[name], consumer.weight, apart[name]) if apart else None
            layers.append(replace(row, held_out_error=held_out, repaired=repaired))
            write_(name, denoiser.get_submodule(name), consumer.weight)
            if config.correct_bias:
                correct_(
                    denoiser.get_submodule(name),
                    before[name],
                    consumer.weight,
                    hessians[name].mean(),
                )
        for group, chosen in zip(together, gone, strict=True):
            shrink_(denoiser, group, left_items(denoiser, group, chosen))
    return layers, records


def matrices_of(hessians: Mapping[str, Hessian]) -> Matrices:
    """H of each layer, in the memory of its sums; layers that read one input share it."""
    squares = {
        number: hessian.take_()
        for number, hessian in {id(hessian): hessian for hessian in hessians.values()}.items()
    }
    return {name: squares[id(hessian)] for name, hessian in hessians.items()}


def targets_by_layer(
    before: Matrices, hessians: Mapping[str, Hessian], matrices: Matrices, config: PruningConfig
) -> tuple[Matrices, dict[str, float]]:
    """What each layer aims at, layers of one Hessian together, and the damping that it took."""
    together: dict[int, list[str]] = {}
    for name, hessian in hessians.items():
        together.setdefault(id(hessian), []).append(name)
    found: Matrices = {}
    dampings: dict[str, float] = {}
    for first, *others in together.values():
        names = [first, *others]
        weights, damping = targets_of(
            first, [before[name] for name in names], hessians[first], matrices[first], config
        )
        found |= zip(names, weights, strict=True)
        dampings |= dict.fromkeys(names, damping)
    return {name: found[name] for name in before}, dampings


def solved_best(
    solve: Callable[[PruningConfig], GroupsSolved],
    before: Matrices,
    apart: Matrices,
    config: PruningConfig,
) -> GroupsSolved:
    """What `solve` gives with the config's damping, or with the one that does best on the held-out Hessians `apart`, if it is to be chosen."""

    def error(found: GroupsSolved) -> float:
        return sum(
            layer_error(before[name], consumer.weight, apart[name])
            for name, consumer in found[0].items()
        )

    return best(
        dampings(config),
        lambda damping: solve(replace(config, damping=damping)),
        lambda found: min(consumer.damping for consumer in found[0].values()),
        error,
    )


def solved(
    denoiser: nn.Module,
    together: list[Group],
    before: Matrices,
    matrices: Matrices,
    package: int,
    left: Mapping[str, float],
    config: PruningConfig,
) -> GroupsSolved:
    """Consumers without what leaves the groups that share them, and what that is; nothing of it is in the model yet."""
    consumers = {
        name: begin_consumer(name, before[name], matrices[name], config) for name in before
    }
    records = [
        choose_items(denoiser, group, consumers, config, package, left) for group in together
    ]
    for name, consumer in consumers.items():
        consumer.finish()
        if config.refine == "lstsq" and config.method != "obs":  # whose repair is exact already
            refine_(name, consumer, before[name], matrices[name], config.damping)
    return consumers, records


def keep_if_good_(consumer: Consumer, before: torch.Tensor, hessian: torch.Tensor) -> bool:
    """Whether the repair stays; if it does harm on the held-out Hessian, the columns that are left become what they were."""
    if not does_harm(before, consumer.weight, consumer.left, hessian):
        return True
    consumer.weight = before.to(consumer.weight) * consumer.left
    return False


def begin_consumer(
    name: str, weight: torch.Tensor, hessian: torch.Tensor, config: PruningConfig
) -> Consumer:
    if config.method != "obs":
        return Consumer.untouched(weight, hessian)
    try:
        return Consumer.begin(weight, hessian, config.damping)
    except NotPositiveDefinite as error:
        raise NotPositiveDefinite(f"{name}: {error}") from None


def choose_items(
    denoiser: nn.Module,
    group: Group,
    consumers: dict[str, Consumer],
    config: PruningConfig,
    package: int,
    left: Mapping[str, float],
) -> GroupRecord:
    """Choose what leaves one group and take it out of its consumers."""
    total = items(denoiser, group)
    kept = int(left.get(group.name, kept_count(group, total, config)))
    reads = columns(denoiser, group, total)
    mine = [consumers[name] for name in group.consumers]
    if config.method == "obs" and group.kind != "neurons":
        removed, scores = obs_heads(mine, list(reads), total - kept, config.compensation)
    elif config.method == "obs":
        removed, scores = obs_neurons(mine[0], reads.flatten(), total - kept, config.compensation)
    else:
        read = [consumer.weight[:, reads].transpose(0, 1) for consumer in mine]
        written = [
            denoiser.get_submodule(name).weight.detach()[rows(denoiser, group, name, total)]
            for name in group.producers
        ]
        removed, scores = BASELINES[config.method](
            read, written, total - kept, seed=config.seed ^ zlib.crc32(group.owner.encode())
        )
        for consumer in mine:
            consumer.drop(reads[removed].flatten())
    each = unit_size(denoiser, group)
    gone, every = (
        [i * each + j for i in removed for j in range(each)],
        [score for score in scores for _ in range(each)],
    )
    return GroupRecord(group.owner, group.kind, total * each, kept * each, gone, every, package)


def refine_(
    name: str, consumer: Consumer, before: torch.Tensor, hessian: torch.Tensor, damping: float
) -> None:
    """The best weight with the columns that are left."""
    kept = consumer.left.expand(len(before), -1)
    try:
        consumer.weight, consumer.damping = (
            lstsq(before.to(hessian), kept, hessian, damping),
            damping,
        )
    except NotPositiveDefinite as error:
        raise NotPositiveDefinite(f"{name}: {error}") from None


def consumer_record(
    name: str,
    before: torch.Tensor,
    consumer: Consumer,
    error: float,
    hessian: Hessian,
    package: int,
    seconds: float,
) -> LayerRecord:
    gone = 1 - consumer.left.float().mean().item()
    per_column = hessian.distinct / hessian.columns
    return LayerRecord(
        name,
        tuple(before.shape),
        package,
        gone,
        consumer.loss,
        error,
        consumer.damping,
        per_column,
        seconds,
    )
