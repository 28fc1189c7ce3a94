"""Which layers are pruned, and in which packages.

A module package is one or more consecutive basic units (paper, section 3.3). The Hessians of one package live in
memory together, so a package is what a memory budget can hold, counted from the real shapes.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import pairwise

import psutil

from ..config import PruningConfig
from ..errors import UserError
from ..models.discovery import segments
from ..models.structure import Block, Shape, Tap, Unit
from .selection import select

GIB = 2**30


@dataclass(frozen=True)
class Package:
    """Taps whose Hessians are gathered in one calibration."""

    taps: tuple[Tap, ...]
    hessian_bytes: int

    @property
    def layers(self) -> tuple[str, ...]:
        return tuple(layer for tap in self.taps for layer in tap.layers)


def bytes_of(columns: int) -> int:
    """Bytes of one Hessian and its sum of inputs in float32: 4 (I I + I)."""
    return 4 * (columns * columns + columns)


def hessian_bytes(tap: Tap, shapes: Mapping[str, Shape]) -> int:
    return bytes_of(shapes[tap.layers[0]][1])


def work_bytes(taps: Iterable[Tap], shapes: Mapping[str, Shape], config: PruningConfig) -> int:
    """Bytes that solving takes at most beside the Hessians it reads: a copy of H if several prunings share it, its factor in float32
    or, where its condition asks for it, float64, and what that takes to invert, and four copies of the stacked weights in float32. Structured pruning keeps the rows of what left, and
    solves both streams of an attention at once. alps has H scaled, and its inverse for one rho, in float32, and ten copies of the weights; a
    re-solve H damped and eight, swaps sixteen. Held-out prompts add a copy of their Hessian, and two of the weights: the best so far, and
    those without repair; asymmetric calibration
    the weights that are aimed at."""
    structured = config.pattern == "structured"
    apart = config.held_out > 0
    copies = (
        max(
            10 if config.method == "alps" else 4,
            {"none": 4, "lstsq": 8, "swaps": 16}[config.refine],
        )
        + 2 * apart
        + 2 * config.asymmetric
    )
    squares = 14 + 4 * apart + 4 * config.removed * structured

    def of(tap: Tap) -> int:
        columns, rows = shapes[tap.layers[0]][1], sum(shapes[layer][0] for layer in tap.layers)
        return round(squares * columns * columns) + 4 * copies * rows * columns

    return max(of(tap) for tap in taps) * (1 + structured)


def passes(config: PruningConfig, packages: int) -> float:
    """How many times the calibration prompts go through the denoiser: once for every package; or once, and for replay every package
    but the last one twice more in all, as a package is run again when it is pruned, together with the next; three times with the dense model
    beside it."""
    again = (packages - 1) / packages
    return {"live": packages, "single": 1, "replay": 1 + (3 if config.asymmetric else 2) * again}[
        config.calibrating
    ]


def memory_for_waiting(
    config: PruningConfig, packages: list[Package], shapes: Mapping[str, Shape]
) -> float:
    """Bytes of memory for what waits: the Hessians of calibration single, the recording of replay. Of the memory budget what solving
    and, for replay, the largest package leave; without a budget half of the memory that is free now."""
    if config.memory_budget_gib is None:
        return psutil.virtual_memory().available / 2
    largest = (
        max(package.hessian_bytes for package in packages) if config.calibrating != "single" else 0
    )
    work = work_bytes((tap for package in packages for tap in package.taps), shapes, config)
    return max(0.0, config.memory_budget_gib * GIB - largest - work)


def plan_packages(
    blocks: list[Block], shapes: Mapping[str, Shape], config: PruningConfig
) -> list[Package]:
    """What `select` leaves of a model's blocks, in consecutive packages in forward order: config.packages of them with nearly equal numbers of units (by default 4, or one a
    unit if there are fewer), or as few as config.memory_budget_gib allows. A unit larger than the budget is split into its taps."""
    units = select(blocks, config, shapes)
    if config.calibrating == "single":
        require_work(units, shapes, config)
        return [make(sum(units, ()), shapes, matrices_per_tap(config))]
    if config.memory_budget_gib is not None:
        return by_budget(units, shapes, config)
    if config.packages is not None and config.packages > len(units):
        raise UserError(
            f"packages: expected at most one for each of the {len(units)} basic units, found {config.packages}"
        )
    count = min(config.packages or config.default_packages, len(units))
    edges = [round(i * len(units) / count) for i in range(count + 1)]
    if config.calibrating == "replay":
        edges = snapped(edges, units, segments(blocks))
    return [make(sum(units[a:b], ()), shapes, matrices_per_tap(config)) for a, b in pairwise(edges)]


def require_work(units: list[Unit], shapes: Mapping[str, Shape], config: PruningConfig) -> None:
    """UserError if the budget is too small for the work of solving; Hessians can wait on disk."""
    work = work_bytes((tap for unit in units for tap in unit), shapes, config) / GIB
    if config.memory_budget_gib is not None and config.memory_budget_gib < work:
        raise UserError(
            f"memory_budget_gib: solving the largest layer alone needs {work:.3g} GiB, found a budget of {config.memory_budget_gib:g}"
        )


def snapped(edges: list[int], units: list[Unit], inside: Mapping[str, str]) -> list[int]:
    """Edges moved to the nearest edge of a segment (`inside`: that of every layer), which saves replay the part of a segment that two packages share; as they were if
    there are more packages than segments."""
    its = [inside[unit[0].layers[0]] for unit in units]
    places = [0, *(i for i in range(1, len(units)) if its[i] != its[i - 1]), len(units)]
    moved = [min(places, key=lambda place: abs(place - edge)) for edge in edges]
    return moved if all(a < b for a, b in pairwise(moved)) else edges


def by_budget(
    units: list[Unit], shapes: Mapping[str, Shape], config: PruningConfig
) -> list[Package]:
    """As few packages as the budget allows beside the work of solving. Structured units stay whole: their streams are pruned together."""
    work = work_bytes((tap for unit in units for tap in unit), shapes, config)
    budget = config.memory_budget_gib * GIB - work
    parts: list[Unit] = []
    for unit in units:
        fits = matrices_per_tap(config) * sum(hessian_bytes(tap, shapes) for tap in unit) <= budget
        parts += [unit] if fits or config.pattern == "structured" else [(tap,) for tap in unit]
    packages: list[Package] = []
    open_taps: tuple[Tap, ...] = ()
    for part in parts:
        size = make(part, shapes, matrices_per_tap(config)).hessian_bytes
        if size > budget:
            needed = f"{size / GIB:.3g} GiB, and solving {work / GIB:.3g}"
            raise UserError(
                f"memory_budget_gib: the Hessian of {part[0].layers[0]} alone needs {needed}, found a budget of {config.memory_budget_gib:g}"
            )
        if (
            open_taps
            and make(open_taps + part, shapes, matrices_per_tap(config)).hessian_bytes > budget
        ):
            packages.append(make(open_taps, shapes, matrices_per_tap(config)))
            open_taps = ()
        open_taps += part
    return [*packages, make(open_taps, shapes, matrices_per_tap(config))]


def matrices_per_tap(config: PruningConfig) -> int:
    """How many matrices are gathered for a tap: its Hessian, and that of held-out prompts, or the cross sums with the dense model's inputs."""
    return 1 + (config.held_out > 0) + config.asymmetric


def make(taps: tuple[Tap, ...], shapes: Mapping[str, Shape], sets: int) -> Package:
    """A package with so many Hessians, or matrices of their size, for each tap."""
    return Package(taps, sets * sum(hessian_bytes(tap, shapes) for tap in taps))
