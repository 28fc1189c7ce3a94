"""The dense model beside the one that is being pruned: what its layers read, call by call of a recorded trajectory.

It follows the replay package by package, and always runs before the package is pruned, so nearly all of its blocks are the model's
own, still as they were. Only a segment that several packages share is pruned in part before it is left behind; of those, copies are kept,
on disk where memory has no room.
"""

import contextlib
from collections.abc import Iterator
from dataclasses import replace
from functools import partial

from torch import Tensor, nn

from ...errors import CalibrationError
from ...models.structure import Tap
from ...pipelines.run import Run, hooked
from ...runtime.mapped_weights import DenseCopy
from ..hooks import is_expert
from ..packages import Package
from .recording import Trajectory, rerun


class DenseModel:
    """Stands before a package: all segments before the package's first have been run, with the dense model.

    `reach`: first and last segment of each package. CalibrationError for a layer whose tokens are not those of the pruned model.
    """

    def __init__(
        self,
        run: Run,
        denoiser: nn.Module,
        trajectory: Trajectory,
        packages: list[Package],
        reach: list[tuple[int, int]],
    ):
        expert = next(
            (layer for package in packages for layer in package.layers if is_expert(layer)), None
        )
        if expert:
            raise CalibrationError(
                f"asymmetric: {expert} may be sent other tokens by the pruned model; leave it out with --exclude '*.experts.*'"
            )
        self.run, self.denoiser, self.packages, self.reach = run, denoiser, packages, reach
        self.trajectory = replace(trajectory, outputs=[{} for _ in trajectory.recording.calls])
        self.copies: dict[str, DenseCopy] = {}

    def close(self) -> None:
        """Give back all that is on the shelf, and the copies."""
        self.trajectory.clear()
        self.keep([])

    def begin(self, package: int) -> None:
        """Go from the denoiser's inputs to a package; nothing has been pruned yet."""
        if package >= len(self.packages):
            return
        first = self.reach[package][0]
        for number in range(len(self.trajectory.recording.calls)):
            rerun(self.run, self.denoiser, self.trajectory, number, 0, first, first - 1)
        self.go_on(package)

    def go_on(self, package: int) -> None:
        """Copy the segments of a package that packages before it prune, before they do, and forget those that are left behind."""
        first = (
            self.reach[package][0]
            if package < len(self.packages)
            else len(self.trajectory.order.names)
        )
        shared = [
            self.trajectory.order.names[i]
            for i in range(first, max(last for _, last in self.reach[:package]) + 1)
        ]
        self.keep(shared)

    def keep(self, names: list[str]) -> None:
        """Have copies of these segments and of no others."""
        scratch = self.trajectory.recording.cache.scratch
        for name in self.copies.keys() - set(names):
            self.copies.pop(name).give_back(scratch)
        for name in names:
            if name not in self.copies:
                self.copies[name] = DenseCopy.of(self.denoiser.get_submodule(name), scratch)

    def read(self, number: int, package: int) -> dict[Tap, list[Tensor]]:
        """What the dense model's taps of a package read in a recorded call, in the order in which they read it."""
        (first, last), following = self.reach[package], self.reach[package + 1 : package + 2]
        border = following[0][0] if following else first
        seen: dict[Tap, list[Tensor]] = {tap: [] for tap in self.packages[package].taps}
        with self.dense():
            hooks = (
                self.denoiser.get_submodule(tap.layers[0]).register_forward_pre_hook(
                    partial(record_input, inputs)
                )
                for tap, inputs in seen.items()
            )
            with hooked(hooks):
                rerun(
                    self.run,
                    self.denoiser,
                    self.trajectory,
                    number,
                    first,
                    border,
                    max(last, border - 1),
                )
        return seen

    @contextlib.contextmanager
    def dense(self) -> Iterator[None]:
        """The model's segments are the dense ones for a while."""
        pruned = {name: self.denoiser.get_submodule(name) for name in self.copies}
        try:
            self.denoiser_has({name: twin.module for name, twin in self.copies.items()})
            yield
        finally:
            self.denoiser_has(pruned)

    def denoiser_has(self, segments: dict[str, nn.Module]) -> None:
        for name, module in segments.items():
            owner, _, own_name = name.rpartition(".")
            setattr(self.denoiser.get_submodule(owner), own_name, module)


def record_input(inputs: list[Tensor], module: nn.Module, args: tuple[Tensor, ...]) -> None:
    inputs.append(
        args[0].detach().clone()
    )  # a block may change its input in place once it has been read
