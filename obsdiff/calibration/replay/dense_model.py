"""The dense model beside the pruned one: the inputs of its layers, call by call of a trajectory.

It follows the replay package by package, and always runs before the package is pruned, so nearly
all of its blocks are the model's own, not yet changed. Only a segment that several packages share
is pruned in part before it has run for the last time: dense copies of those segments are stored,
in files if they exceed the memory.
"""

import contextlib
from collections.abc import Iterator
from dataclasses import replace
from functools import partial

from torch import Tensor, nn

from ...errors import CalibrationError
from ...models.structure import Tap
from ...pipelines.run import hooked
from ...runtime.mapped_weights import DenseCopy
from ..call_audit import is_expert
from ..context import CalibrationContext
from ..packages import Package
from .recording import Span, Trajectory, rerun


class DenseModel:
    """The dense model, at the border of a package: all segments before it have run.

    Attributes:
        context: the calibration context.
        trajectory: the recorded calls, with the dense model's own cached outputs.
        packages: all packages of the pruning.
        spans: the indices of the first and last segment of each package.
        copies: dense copies of the segments that packages share, by name.
    """

    def __init__(
        self,
        context: CalibrationContext,
        trajectory: Trajectory,
        packages: list[Package],
        spans: list[tuple[int, int]],
    ) -> None:
        """Raise CalibrationError for experts: the pruned model may route other tokens to them."""
        expert = next(
            (layer for package in packages for layer in package.layers if is_expert(layer)), None
        )
        if expert:
            raise CalibrationError(
                f"asymmetric: the pruned model may route other tokens to {expert}; "
                "leave it out with --exclude '*.experts.*'"
            )
        self.context, self.packages, self.spans = context, packages, spans
        self.trajectory = replace(trajectory, outputs=[{} for _ in trajectory.recording.calls])
        self.copies: dict[str, DenseCopy] = {}

    def close(self) -> None:
        """Release the cached outputs and the copies."""
        self.trajectory.clear()
        self.keep([])

    def begin(self, package: int) -> None:
        """Run from the denoiser's inputs to a package; no layer has been pruned yet."""
        if package >= len(self.packages):
            return
        first = self.spans[package][0]
        for number in range(len(self.trajectory.recording.calls)):
            rerun(self.context, self.trajectory, number, Span(0, first, first - 1))
        self.advance(package)

    def advance(self, package: int) -> None:
        """Copy the segments that this package shares with packages before it, and drop others.

        Called before those packages prune them.
        """
        first = (
            self.spans[package][0]
            if package < len(self.packages)
            else len(self.trajectory.order.names)
        )
        shared = [
            self.trajectory.order.names[i]
            for i in range(first, max(last for _, last in self.spans[:package]) + 1)
        ]
        self.keep(shared)

    def keep(self, names: list[str]) -> None:
        """Make copies of these segments, and release all others."""
        scratch = self.trajectory.recording.cache.scratch
        for name in self.copies.keys() - set(names):
            self.copies.pop(name).give_back(scratch)
        for name in names:
            if name not in self.copies:
                self.copies[name] = DenseCopy.of(self.context.denoiser.get_submodule(name), scratch)

    def read(self, number: int, package: int) -> dict[Tap, list[Tensor]]:
        """Return the inputs of the dense model's taps of a package in a recorded call, in order."""
        (first, last), following = self.spans[package], self.spans[package + 1 : package + 2]
        border = following[0][0] if following else first
        seen: dict[Tap, list[Tensor]] = {tap: [] for tap in self.packages[package].taps}
        with self.dense():
            hooks = (
                self.context.denoiser.get_submodule(tap.layers[0]).register_forward_pre_hook(
                    partial(record_input, inputs)
                )
                for tap, inputs in seen.items()
            )
            with hooked(hooks):
                span = Span(first, border, max(last, border - 1))
                rerun(self.context, self.trajectory, number, span)
        return seen

    @contextlib.contextmanager
    def dense(self) -> Iterator[None]:
        """Set the dense copies in the denoiser; restore its segments at the end."""
        pruned = {name: self.context.denoiser.get_submodule(name) for name in self.copies}
        try:
            self.set_segments({name: copy.module for name, copy in self.copies.items()})
            yield
        finally:
            self.set_segments(pruned)

    def set_segments(self, segments: dict[str, nn.Module]) -> None:
        """Set modules in the denoiser under their names."""
        for name, module in segments.items():
            owner, _, own_name = name.rpartition(".")
            setattr(self.context.denoiser.get_submodule(owner), own_name, module)


def record_input(inputs: list[Tensor], module: nn.Module, args: tuple[Tensor, ...]) -> None:
    """Store a copy of an input, as a hook: a block may change it in place afterwards."""
    inputs.append(args[0].detach().clone())
