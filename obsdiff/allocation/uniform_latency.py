"""The sparsity at which a structured model meets a latency, measured on this machine.

A copy of the denoiser is shrunk as a run at that sparsity would shrink it, and one step of one
picture is timed, dense and shrunk in turn. The time depends on the number of heads and neurons, not
on which of them are removed. No layer's time is modelled: the whole step is measured. If an
allocation chooses the items of each group, budget.py meets the latency.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import partial
from statistics import median
from typing import Any

from torch import nn

from ..calibration.groups import prunable_groups
from ..calibration.plan import PruningPlan
from ..config import PruningConfig
from ..config.choices import MOST_ALLOCATED
from ..errors import UserError
from ..models.surgery import sharing_weights, shrink_
from ..pipelines.removed import leaving
from ..pipelines.run import denoiser_call
from ..runtime.timing import interleaved
from .bisection import bisect

MOST = MOST_ALLOCATED["structured"]  # sparsity
LATENCY_BISECTIONS = 6
STEP = 0.02  # added to the sparsity if a measurement with more rounds misses the target
ROUNDS, MORE_ROUNDS = 5, 11
Timing = tuple[float, float, float]  # share of the dense step's time; seconds, dense seconds


@dataclass(frozen=True)
class LatencyMatch:
    """How a latency was met.

    Attributes:
        target: the latency, as a share of the dense step's time.
        sparsity: the sparsity that meets it.
        measured: the share measured there.
        seconds: the time of a step there.
        dense_seconds: the time of a dense step.
        tried: every (sparsity, share) measured.
    """

    target: float
    sparsity: float
    measured: float
    seconds: float
    dense_seconds: float
    tried: list[tuple[float, float]]


def sparsity_for_latency(pipe: Any, plan: PruningPlan) -> dict[str, Any]:
    """Find the sparsity for the target latency, and return `LatencyMatch` as a dict.

    Raises:
        UserError: no sparsity up to MOST meets the target.
    """
    target = plan.config.target_latency
    assert target is not None
    call = denoiser_call(
        pipe, plan.denoiser, plan.calibration_set.prompts[0], plan.calibration_set.settings
    )
    tried: list[tuple[float, float]] = []

    def share(sparsity: float, rounds: int = ROUNDS) -> Timing:
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
    _, many = bisect(lambda s: share(s)[0] > target, 0.0, MOST, LATENCY_BISECTIONS, digits=3)
    many, measured = confirm(
        lambda s: share(s, MORE_ROUNDS), many, MOST, lambda s: round(s + STEP, 3), target
    )
    if measured[0] > target:
        raise latency_out_of_reach(target, measured[0])
    return asdict(LatencyMatch(target, many, *measured, tried))


def confirm(
    measure: Callable[[float], Timing],
    value: float,
    most: float,
    more: Callable[[float], float],
    target: float,
) -> tuple[float, Timing]:
    """Measure a value with more rounds, and raise it until the step meets the target.

    Args:
        measure: the timing at a value: the share of the dense step's time, and both times.
        value: a sparsity, or seconds to save, that met the target with fewer rounds.
        most: the largest value.
        more: the next value.
        target: the share to meet.

    Returns:
        The value and its timing; the target is missed only at `most`.
    """
    timing = measure(value)
    while timing[0] > target and value < most:
        value = min(most, more(value))
        timing = measure(value)
    return value, timing


def latency_out_of_reach(target: float, least: float) -> UserError:
    """Return the error for a target below the least share that was measured."""
    return UserError(
        f"target_latency: expected a share that pruning can reach, found {target:g}; "
        f"with sparsity {MOST} a step takes {least:.3f} of dense's"
    )


def time_at(dense: nn.Module, config: PruningConfig, call: dict[str, Any], rounds: int) -> Timing:
    """Return the time of a step at a config: see `time_ratio`."""
    return time_ratio(dense, shrunk(dense, config)[0], call, rounds)


def time_ratio(dense: nn.Module, model: nn.Module, call: dict[str, Any], rounds: int) -> Timing:
    """Return the time of a step as a share of the dense one's, and the seconds of both.

    Args:
        dense: the dense denoiser.
        model: the shrunk one.
        call: the arguments of one step.
        rounds: how often each is timed, in turn; medians are returned.
    """
    seconds = interleaved(
        {"dense": partial(dense, **call), "pruned": partial(model, **call)}, rounds
    )
    share = median(p / d for p, d in zip(seconds["pruned"], seconds["dense"], strict=True))
    return share, median(seconds["pruned"]), median(seconds["dense"])


def shrunk(dense: nn.Module, config: PruningConfig) -> tuple[nn.Module, dict[str, dict[str, int]]]:
    """Copy a model and shrink it to the sizes of a run with this config; its first items remain.

    Args:
        dense: the model; unchanged.
        config: the settings of a structured pruning.

    Returns:
        The copy, and the number of heads, neurons and channels removed.
    """
    model = sharing_weights(dense)
    rows = []
    for prunable in prunable_groups(model, config):
        each, kind = prunable.each, prunable.group.kind
        rows.append({"kind": kind, "total": prunable.total * each, "kept": prunable.kept * each})
        shrink_(model, prunable.group, list(range(prunable.kept)))
    return model, leaving(rows)
