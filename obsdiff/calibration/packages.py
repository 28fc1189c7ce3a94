"""Module packages, and the memory that they need.

A module package is one or more consecutive basic units (OBS-Diff). The Hessians of one
package are in memory together, so a memory budget limits its size, counted from the real shapes.

O outputs, I inputs of a layer.
"""

from bisect import bisect_left
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import psutil

from ..config import PruningConfig
from ..errors import UserError
from ..models.discovery import segments
from ..models.structure import Block, Shape, Tap, Unit
from ..runtime.launcher import local_processes
from .packed_layout import BAND, packed_size, wide_band
from .selection import select

GIB = 2**30


@dataclass(frozen=True)
class Package:
    """Taps whose Hessians are summed in one calibration.

    Attributes:
        taps: the taps, in forward order.
        hessian_bytes: the bytes of all that is summed for them.
        bytes_there: the same on an accelerator with room for it, in wide bands.
    """

    taps: tuple[Tap, ...]
    hessian_bytes: int
    bytes_there: int

    @property
    def layers(self) -> tuple[str, ...]:
        """The layers of all taps."""
        return tuple(layer for tap in self.taps for layer in tap.layers)


def bytes_of(columns: int, band: int = BAND) -> int:
    """Return the bytes of one packed Hessian and its sum of inputs in float32: about 2 I I.

    Args:
        columns: I.
        band: rows of its bands.
    """
    return 4 * (packed_size(columns, band) + columns)


def hessian_bytes(tap: Tap, shapes: Mapping[str, Shape]) -> int:
    """Return the bytes of the Hessian of a tap."""
    return bytes_of(shapes[tap.layers[0]][1])


# Solving one tap: bytes per entry (I, I) beside the packed Hessian it reads. H itself (4); its
# factor, in float32 or, by its condition, float64, and its inverse (10).
SQUARE_BYTES = 14
HELD_OUT_SQUARE_BYTES = 4  # a copy of the held-out Hessian
REMOVED_SQUARE_BYTES = 4  # structured: the rows of what has been removed
ROUNDED_SQUARE_BYTES = 8  # bits: H in the order in which columns are rounded
# Copies of the stacked weights (O, I) in float32 that each method and refinement makes.
WEIGHT_COPIES = {"alps": 10}  # others make 4
REFINE_COPIES = {"none": 4, "lstsq": 8, "swaps": 16}
ROUNDED_COPIES = 8
HELD_OUT_COPIES = 2  # the best solution so far, and the one without repair
ASYMMETRIC_COPIES = 2  # the targets W*


def work_bytes(taps: Iterable[Tap], shapes: Mapping[str, Shape], config: PruningConfig) -> int:
    """Return the bytes that solving needs at most beside the Hessians it reads.

    Structured pruning solves both streams of an attention at once.

    Args:
        taps: the taps that are solved one after the other.
        shapes: (O, I) of every layer.
        config: the settings.
    """
    structured, held_out = config.pattern == "structured", config.held_out > 0
    copies = max(WEIGHT_COPIES.get(config.method, 4), REFINE_COPIES[config.refine])
    rounded = config.bits is not None
    copies = max(copies, ROUNDED_COPIES * rounded)
    copies += HELD_OUT_COPIES * held_out + ASYMMETRIC_COPIES * config.asymmetric
    squares: float = SQUARE_BYTES + HELD_OUT_SQUARE_BYTES * held_out
    squares += ROUNDED_SQUARE_BYTES * rounded
    squares += REMOVED_SQUARE_BYTES * config.removed * structured

    def of(tap: Tap) -> int:
        columns, rows = shapes[tap.layers[0]][1], sum(shapes[layer][0] for layer in tap.layers)
        return round(squares * columns * columns) + 4 * copies * rows * columns

    return max(map(of, taps), default=0) * (1 + structured)


def passes(config: PruningConfig, packages: int) -> float:
    """Return the number of passes of the calibration prompts through the denoiser.

    Live: once for every package. Single: once. Replay: once, and all packages but the last twice
    more, since a pruned package runs again together with the next; three times more with the dense
    model beside it.

    Args:
        config: the settings.
        packages: number of packages.
    """
    again = (packages - 1) / packages
    return {"live": packages, "single": 1, "replay": 1 + (3 if config.asymmetric else 2) * again}[
        config.calibrating
    ]


def scratch_room(
    config: PruningConfig, packages: list[Package], shapes: Mapping[str, Shape]
) -> float:
    """Return the memory budget of the scratch storage in bytes: for Hessians or a recording.

    With a memory budget: the budget less the memory of solving and, for replay, of the largest
    package. Without one: half of the free memory, shared with the other processes of this machine.

    Args:
        config: the settings.
        packages: all packages.
        shapes: (O, I) of every layer.
    """
    if config.memory_budget_gib is None:
        return psutil.virtual_memory().available / 2 / local_processes()
    largest = largest_package(config, packages)
    work = work_bytes((tap for package in packages for tap in package.taps), shapes, config)
    return max(0.0, config.memory_budget_gib * GIB - largest - work)


def largest_package(
    config: PruningConfig, packages: list[Package], on_accelerator: bool = False
) -> int:
    """Return the bytes of the Hessians of the largest package.

    With single calibration 0: its Hessians are in the scratch storage.

    Args:
        config: the settings.
        packages: all packages.
        on_accelerator: whether they lie on one that has room for wide bands.
    """
    if config.calibrating == "single":
        return 0
    return max(p.bytes_there if on_accelerator else p.hessian_bytes for p in packages)


def plan_packages(
    blocks: list[Block], shapes: Mapping[str, Shape], config: PruningConfig
) -> list[Package]:
    """Return the selected units of a model in consecutive packages, in forward order.

    config.packages of them with nearly equal numbers of units (default: 4, or one a unit if there
    are fewer), or as few as config.memory_budget_gib allows. A unit larger than the budget is split
    into its taps.

    Args:
        blocks: the blocks of the model.
        shapes: (O, I) of every layer.
        config: the settings.

    Raises:
        UserError: the selection is empty, or the packages or the budget cannot be met.
    """
    units = select(blocks, config, shapes)
    if config.calibrating == "single":
        require_work(units, shapes, config)
        return [package_of(taps_of(units), shapes, config)]
    if config.memory_budget_gib is not None:
        return by_budget(units, shapes, config)
    if config.packages is not None and config.packages > len(units):
        raise UserError(
            f"packages: expected at most one for each of the {len(units)} basic units, "
            f"found {config.packages}"
        )
    count = min(config.packages or config.default_packages, len(units))
    edges = [round(i * len(units) / count) for i in range(count + 1)]
    if config.calibrating == "replay":
        edges = snapped(edges, units, segments(blocks))
    return [package_of(taps_of(units[a:b]), shapes, config) for a, b in pairwise(edges)]


def require_work(units: list[Unit], shapes: Mapping[str, Shape], config: PruningConfig) -> None:
    """Raise UserError if the budget is too small to solve; Hessians can be stored in files."""
    work = work_bytes((tap for unit in units for tap in unit), shapes, config) / GIB
    if config.memory_budget_gib is not None and config.memory_budget_gib < work:
        raise UserError(
            f"memory_budget_gib: solving the largest layer alone needs {work:.3g} GiB, "
            f"found a budget of {config.memory_budget_gib:g}"
        )


def snapped(edges: list[int], units: list[Unit], inside: Mapping[str, str]) -> list[int]:
    """Move package edges to the nearest segment edges: replay runs a shared segment twice.

    Args:
        edges: indices of units at which packages begin and end.
        units: the units, in forward order.
        inside: the segment of every layer.

    Returns:
        The moved edges; the same ones if there are more packages than segments.
    """
    of_unit = [inside[unit[0].layers[0]] for unit in units]
    starts = [i for i in range(1, len(units)) if of_unit[i] != of_unit[i - 1]]
    allowed = [0, *starts, len(units)]
    moved = [nearest(allowed, edge) for edge in edges]
    return moved if all(a < b for a, b in pairwise(moved)) else edges


def nearest(places: list[int], edge: int) -> int:
    """Return the place nearest to an edge, the lower of two; the places ascend."""
    above = bisect_left(places, edge)
    return min(places[max(0, above - 1) : above + 1], key=lambda place: abs(place - edge))


def by_budget(
    units: list[Unit], shapes: Mapping[str, Shape], config: PruningConfig
) -> list[Package]:
    """Return as few packages as the budget allows beside solving.

    Structured units are not split: their streams are pruned together.
    """
    assert config.memory_budget_gib is not None
    work = work_bytes((tap for unit in units for tap in unit), shapes, config)
    budget = config.memory_budget_gib * GIB - work
    parts: list[Unit] = []
    for unit in units:
        fits = package_of(unit, shapes, config).hessian_bytes <= budget
        parts += [unit] if fits or config.pattern == "structured" else [(tap,) for tap in unit]
    packages: list[Package] = []
    open_taps: list[Tap] = []
    open_bytes = 0
    for part in parts:
        size = package_of(part, shapes, config).hessian_bytes
        if size > budget:
            needed = f"{size / GIB:.3g} GiB, and solving {work / GIB:.3g}"
            raise UserError(
                f"memory_budget_gib: the Hessian of {part[0].layers[0]} alone needs {needed}, "
                f"found a budget of {config.memory_budget_gib:g}"
            )
        if open_taps and open_bytes + size > budget:
            packages.append(package_of(open_taps, shapes, config))
            open_taps, open_bytes = [], 0
        open_taps += part
        open_bytes += size
    return [*packages, package_of(open_taps, shapes, config)]


def taps_of(units: Iterable[Unit]) -> tuple[Tap, ...]:
    """Return the taps of units, in their order."""
    return tuple(tap for unit in units for tap in unit)


def package_of(taps: Sequence[Tap], shapes: Mapping[str, Shape], config: PruningConfig) -> Package:
    """Return a package: for each tap a Hessian, one of held-out prompts, cross sums."""
    columns = [shapes[tap.layers[0]][1] for tap in taps]
    crossed = config.asymmetric * sum(4 * each * each for each in columns)

    def summed(band_of: Callable[[int], int]) -> int:
        each = (bytes_of(count, band_of(count)) for count in columns)
        return (1 + (config.held_out > 0)) * sum(each) + crossed

    return Package(tuple(taps), summed(lambda _: BAND), summed(wide_band))
