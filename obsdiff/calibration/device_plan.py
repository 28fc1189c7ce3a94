"""What lies on the device in each phase of a pruning, in bytes, and the offload that fits.

    none    text, drawing and solving with all components there
    model   text: the largest encoder; drawing: the denoiser; solving: no model
    group   the same, but of the denoiser the largest block, and what belongs to no block

Allocation sensitivity draws with gradients. The changes that it tries rest where the weights do.
Hessians lie on the device while it draws, allocates and solves. Those that do not fit rest
elsewhere.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from torch import nn

from ..config.choices import OFFLOADS
from ..models.activation_memory import bytes_of_weights

RESERVE = 0.06  # share of the device's memory for kernels, their workspaces and fragments


@dataclass(frozen=True)
class Weights:
    """Bytes of a denoiser's weights.

    Attributes:
        whole: all of them.
        blocks: those of its blocks.
        largest: those of its largest block.
    """

    whole: int
    blocks: int
    largest: int

    @classmethod
    def of(cls, denoiser: nn.Module) -> "Weights":
        """Return the bytes of a model, which may be on the meta device."""
        sizes = [bytes_of_weights(block) for block in moved_blocks(denoiser)]
        return cls(bytes_of_weights(denoiser), sum(sizes), max(sizes, default=0))


def moved_blocks(denoiser: nn.Module) -> list[nn.Module]:
    """Return what diffusers' group offloading moves: the members of its lists of modules."""
    lists = [m for m in denoiser.children() if isinstance(m, nn.ModuleList | nn.Sequential)]
    return [block for blocks in lists for block in blocks]


@dataclass(frozen=True)
class DevicePlan:
    """The parts of a run that may lie on its device, in bytes.

    Attributes:
        denoiser: the weights of the component to prune.
        encoders: weights of each other component that runs before it, by name.
        others: weights of each component that does not run, such as the VAE, by name.
        activations: of the denoiser's call, hooks included; None if they are not known.
        hessians: of the largest package, there: in wide bands, or narrow ones with a budget.
        beside: the same on the host, in narrow bands.
        solving: of the largest layer, beside its Hessian.
        gradients: activations of a call with its backward pass; None without one, or not known.
        changes: of the layers to prune, as many as their weights, if there is a backward pass.
        apart: by how much a block and activations take less together, at any time of a call, than
            the largest block and the most activations.
    """

    denoiser: Weights
    encoders: Mapping[str, int]
    others: Mapping[str, int]
    activations: int | None
    hessians: int
    beside: int
    solving: int
    gradients: int | None = None
    changes: int = 0
    apart: int = 0

    def drawing_alone(self) -> "DevicePlan":
        """Return the plan of drawing without pruning: no Hessians, no solving, no gradients."""
        return replace(self, hessians=0, beside=0, solving=0, gradients=None, changes=0)

    def phases(self, offload: str, hessians: bool = True) -> dict[str, int]:
        """Return the bytes on the device in each phase.

        Args:
            offload: one of OFFLOADS.
            hessians: whether the Hessians lie there.
        """
        summed, drawn = self.hessians * hessians, self.activations or 0
        if offload == "none":
            weights = self.denoiser.whole + sum((*self.encoders.values(), *self.others.values()))
            return {
                "text": weights,
                "drawing": weights + drawn + summed,
                **self.allocating(weights + self.changes + summed),
                "solving": weights + self.solving + summed,
            }
        blocks = self.denoiser.largest - self.denoiser.blocks if offload == "group" else 0
        one = self.denoiser.whole + blocks
        return {
            "text": max(self.encoders.values(), default=0),
            "drawing": one + drawn + summed - (self.apart if offload == "group" else 0),
            **self.allocating(one + summed),
            "solving": self.solving + summed,
        }

    def allocating(self, beside: int) -> dict[str, int]:
        """Return the phase of gradients, if there is one, with what lies beside them."""
        return {} if self.gradients is None else {"allocating": beside + self.gradients}

    def peak(self, offload: str, hessians: bool = True) -> int:
        """Return the most bytes of any phase."""
        return max(self.phases(offload, hessians).values())

    def choice(self, memory: int) -> str:
        """Return the first offload that fits into some bytes, with its Hessians if one does.

        The least demanding one if none fits.
        """
        room = memory * (1 - RESERVE)
        for hessians in (True, False):
            for offload in OFFLOADS:
                if self.peak(offload, hessians) <= room:
                    return offload
        return OFFLOADS[-1]

    def fits(self, offload: str, memory: int, hessians: bool = True) -> bool:
        """Return whether an offload fits into some bytes."""
        return self.peak(offload, hessians) <= memory * (1 - RESERVE)
