"""The words for what a denoiser is made of: shapes, taps, units, groups, blocks."""

from dataclasses import dataclass

Shape = tuple[int, int]  # (O, I) of a Linear's weight


@dataclass(frozen=True)
class Tap:
    """Linear layers that read one and the same tensor, hence share one Hessian. `stream` says whose tokens it holds."""

    layers: tuple[str, ...]
    part: str  # "attention" or "ffn"
    stream: str = "image"  # "image", "text" or "joint"


Unit = tuple[
    Tap, ...
]  # a basic unit (paper, section 3.3): its inputs do not depend on each other's layers


@dataclass(frozen=True)
class Group:
    """What leaves together in structured pruning: producers lose rows, consumers lose columns.

    `owner` is the module that the group belongs to: the attention, whose heads are counted there, or the FFN. A producer may hold
    several of them one after the other, such as q, k and v, or gate and up: it has that many times the rows. The columns of a
    consumer are those of the heads, then those of the neurons. `rows` says of what the rows of each producer are where they are of
    both kinds; `beside` are the layers that write the heads, where another layer writes the neurons.
    """

    kind: str  # "heads", "neurons" or "channels"
    owner: str
    producers: tuple[str, ...]
    consumers: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...] = ()
    beside: tuple[str, ...] = ()
    refused: str = ""  # why this group is never pruned
    norm: str = ""  # of channels: the GroupNorm between producers and consumers

    @property
    def name(self) -> str:
        """A name that no other group has: "transformer_blocks.1.attn heads"."""
        return f"{self.owner} {self.kind}"


@dataclass(frozen=True)
class Block:
    """A block found in a model: full layer names, in forward order."""

    name: str
    entry: str
    units: tuple[Unit, ...]
    groups: tuple[Group, ...]
    keep_ends: bool

    @property
    def layers(self) -> tuple[str, ...]:
        return tuple(layer for unit in self.units for tap in unit for layer in tap.layers)
