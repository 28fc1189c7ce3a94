"""What a pretend accelerator counts: launches, operations, waits, copies, memory, and products on
the CPU."""

import functools
import sys
import weakref
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch.utils.flop_counter import flop_registry, shape_wrapper

import obsdiff
from obsdiff.models.macs import FUSED

aten = torch.ops.aten
FORMULAS = {**flop_registry, **{name: shape_wrapper(found) for name, found in FUSED.items()}}
OWN = str(Path(obsdiff.__file__).parent)
LIBRARIES = ("/diffusers/", "/transformers/", "/accelerate/")
LIBRARY = "a library"  # the place of what no line of obsdiff does itself


@dataclass
class Counts:
    """Counts since the beginning of the pretence, or since `clear`.

    Attributes:
        launches: operators that run a kernel on the device, by the line of obsdiff.
        operations: floating-point operations of its products, convolutions and attentions, by line:
            two for each multiplication.
        waits: times that the host waits for the device, by the operator and the line of obsdiff.
        to_device: bytes copied from the host to the device.
        to_host: bytes copied back.
        host_products: multiplications of matrix products and factorisations on the CPU, by line.
        held: bytes of tensors on the device now.
        peak: the largest `held`.
    """

    launches: Counter = field(default_factory=Counter)
    operations: Counter = field(default_factory=Counter)
    waits: Counter = field(default_factory=Counter)
    to_device: int = 0
    to_host: int = 0
    host_products: Counter = field(default_factory=Counter)
    held: int = 0
    peak: int = 0
    storages: dict[int, int] = field(default_factory=dict, repr=False)  # tensors of each storage

    def clear(self) -> None:
        """Begin again; what is held stays counted."""
        self.launches.clear()
        self.operations.clear()
        self.waits.clear()
        self.host_products.clear()
        self.to_device = self.to_host = 0
        self.peak = self.held

    @property
    def own_launches(self) -> int:
        """Launches by lines of obsdiff."""
        return self.launches.total() - self.launches[LIBRARY]

    @property
    def own_operations(self) -> int:
        """Operations on the device by lines of obsdiff."""
        return self.operations.total() - self.operations[LIBRARY]

    @property
    def own_products(self) -> int:
        """Multiplications on the CPU by lines of obsdiff."""
        return self.host_products.total() - self.host_products[LIBRARY]

    def waits_in(self, *files: str) -> int:
        """Return the number of waits by lines of some files of obsdiff."""
        return sum(n for (_, line), n in self.waits.items() if line.split(":")[0] in files)

    def hold(self, tensor: object, storage: int, size: int) -> weakref.finalize:
        """Count the bytes of a storage until the last of its tensors is deleted, or is let go."""
        if storage not in self.storages:
            self.held += size
            self.peak = max(self.peak, self.held)
        self.storages[storage] = self.storages.get(storage, 0) + 1
        return weakref.finalize(tensor, self.release, storage, size)

    def release(self, storage: int, size: int) -> None:
        """Count one tensor less of a storage."""
        self.storages[storage] -= 1
        if not self.storages[storage]:
            del self.storages[storage]
            self.held -= size


def line() -> str:
    """Return the innermost file and line of obsdiff, or LIBRARY inside a library it calls."""
    frame = sys._getframe(1)
    while frame:
        place = place_of(frame.f_code.co_filename)
        if place:
            return place if place == LIBRARY else f"{place}:{frame.f_lineno}"
        frame = frame.f_back
    return LIBRARY


@functools.cache
def place_of(file: str) -> str:
    """Return the path of a file in obsdiff, LIBRARY for one of a library, or nothing."""
    if file.startswith(OWN):
        return file.removeprefix(OWN)[1:]
    return LIBRARY if any(library in file for library in LIBRARIES) else ""


def operations(packet: Any, args: tuple[Any, ...], result: Any) -> int:
    """Return the floating-point operations of an operator; 0 for all but products."""
    if packet not in FORMULAS:
        return 0
    if packet in (aten.mm, aten.addmm):
        args = args[: 2 + (packet is aten.addmm)]  # a format of the sums may follow
    return FORMULAS[packet](*args, out_val=result)
