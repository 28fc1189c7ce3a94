"""The sparsity at which a structured model meets a latency: tried out on this machine, before anything is pruned.

A copy of the denoiser is shrunk as a run at that sparsity would shrink it, and one step of one picture is timed, dense and
shrunk in turn. Which heads and neurons leave makes no difference to the time. So no layer's time is modelled: what is measured
is the whole step. Allocated over groups of all kinds, a latency is met by allocation/budget.py.
"""

import copy
from dataclasses import asdict, dataclass, replace
from functools import partial
from statistics import median
from typing import Any

from torch import nn

from ..calibration.plan import PruningPlan
from ..calibration.selection import kept_count, select_groups
from ..config import PruningConfig
from ..config.choices import MOST_ALLOCATED
from ..errors import UserError
from ..models.discovery import require_blocks
from ..models.geometry import items, unit_size
from ..models.linear_view import layer_shapes
from ..models.removable import require_prunable
from ..models.surgery import shrink_
from ..pipelines.record import leaving
from ..pipelines.run import denoiser_call
from ..runtime.timing import interleaved

MOST = MOST_ALLOCATED["structured"]  # sparsity
LATENCY_BISECTIONS = 6
STEP = 0.02  # of sparsity, where a measurement with more rounds finds that a little is missing
ROUNDS, MORE_ROUNDS = 5, 11


@dataclass(frozen=True)
class LatencyMatch:
    """The latency that was asked for, as a share of the dense step's, the sparsity that meets it, the share and the seconds of a step
    measured there, and every (sparsity, share) that was tried on the way."""

    target: float
    sparsity: float
    measured: float
    seconds: float
    dense_seconds: float
    tried: list[tuple[float, float]]


def sparsity_for_latency(pipe: Any, plan: PruningPlan) -> dict[str, Any]:
    """`Met` as a dict, for the pipeline as it is now. UserError if no sparsity up to MOST meets the target."""
    target = plan.config.target_latency
    call = denoiser_call(
        pipe, plan.denoiser, plan.calibration_set.prompts[0], plan.calibration_set.settings
    )
    tried: list[tuple[float, float]] = []

    def share(sparsity: float, rounds: int = ROUNDS) -> tuple[float, float, float]:
        found = time_at(
            plan.denoiser,
            replace(plan.config, sparsity=sparsity, target_latency=None),
            call,
            rounds,
        )
        tried.append((sparsity, found[0]))
        return found

    if share(MOST)[0] > target:
        raise latency_out_of_reach(target, tried[-1][1])
    few, many = 0.0, MOST
    for _ in range(LATENCY_BISECTIONS):
        middle = round((few + many) / 2, 3)
        few, many = (middle, many) if share(middle)[0] > target else (few, middle)
    measured = share(many, MORE_ROUNDS)
    while measured[0] > target and many < MOST:
        many = min(MOST, round(many + STEP, 3))
        measured = share(many, MORE_ROUNDS)
    if measured[0] > target:
        raise latency_out_of_reach(target, measured[0])
    return asdict(LatencyMatch(target, many, *measured, tried))


def latency_out_of_reach(target: float, least: float) -> UserError:
    return UserError(
        f"target_latency: expected a share that pruning can reach, found {target:g}; with sparsity {MOST} a step takes {least:.3f} of dense's"
    )


def time_at(
    dense: nn.Module, config: PruningConfig, call: dict[str, Any], rounds: int
) -> tuple[float, float, float]:
    """A step's time at a config as a share of the dense one's, median of the rounds' ratios; the median seconds of both."""
    return time_ratio(dense, shrunk(dense, config)[0], call, rounds)


def time_ratio(
    dense: nn.Module, model: nn.Module, call: dict[str, Any], rounds: int
) -> tuple[float, float, float]:
    """A step's time of a model as a share of the dense one's, median of the rounds' ratios; the median seconds of both."""
    seconds = interleaved(
        {"dense": partial(dense, **call), "pruned": partial(model, **call)}, rounds
    )
    share = median(p / d for p, d in zip(seconds["pruned"], seconds["dense"], strict=True))
    return share, median(seconds["pruned"]), median(seconds["dense"])


def shrunk(dense: nn.Module, config: PruningConfig) -> tuple[nn.Module, dict[str, dict[str, int]]]:
    """A copy of a model on the meta device with as many heads and neurons taken out as a run with this config takes out, and how
    many those are."""
    model = copy.deepcopy(dense)
    groups = select_groups(
        require_blocks(layer_shapes(model, config.target), type(model).__name__, config.target),
        config,
    )
    require_prunable(model, groups)
    rows = []
    for group in groups:
        total, each = items(model, group), unit_size(model, group)
        kept = kept_count(group, total, config)
        rows.append({"kind": group.kind, "total": total * each, "kept": kept * each})
        shrink_(model, group, list(range(kept)))
    return model, leaving(rows)
