"""The vocabulary of a denoiser's structure: shapes, taps, units, groups, blocks. No torch."""

from dataclasses import dataclass

Shape = tuple[int, int]  # (O, I) of a layer's weight as a matrix


@dataclass(frozen=True)
class Tap:
    """Layers that read the same tensor, hence share one Hessian.

    Attributes:
        layers: names of the layers.
        part: "attention", "ffn" or "conv".
        stream: the tokens in the tensor: "image", "text" or "joint".
    """

    layers: tuple[str, ...]
    part: str
    stream: str = "image"


# A basic unit (OBS-Diff): no input of one of its taps depends on a layer of another.
Unit = tuple[Tap, ...]


@dataclass(frozen=True)
class Group:
    """Layers that structured pruning shrinks together: producers lose rows, consumers lose columns.

    A producer may contain several consecutive sections, such as q, k and v, or gate and up. It then
    has that many times the rows. The columns of a consumer are those of the heads, then those
    of the neurons.

    Attributes:
        kind: "heads", "neurons" or "channels".
        owner: the module of the group: the attention that counts the heads, the FFN or the residual
            block.
        producers: layers that write the heads, neurons or channels.
        consumers: layers that read them.
        rows: for each producer the kinds of its consecutive sections, if it writes both kinds.
        beside: layers that write the heads, if another layer writes the neurons.
        refused: the reason why this group is never pruned, or "".
        norm: for channels the GroupNorm between producers and consumers.
    """

    kind: str
    owner: str
    producers: tuple[str, ...]
    consumers: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...] = ()
    beside: tuple[str, ...] = ()
    refused: str = ""
    norm: str = ""

    @property
    def name(self) -> str:
        """The group's unique name, such as "transformer_blocks.1.attn heads"."""
        return f"{self.owner} {self.kind}"


@dataclass(frozen=True)
class Block:
    """A block found in a model, with full layer names.

    Attributes:
        name: the block's module.
        entry: the kinds of its attentions, such as "self and cross attention".
        units: its units in forward order.
        groups: its groups, attentions before FFNs.
        keep_ends: the first and last of these blocks keep their shapes (as in the paper).
    """

    name: str
    entry: str
    units: tuple[Unit, ...]
    groups: tuple[Group, ...]
    keep_ends: bool

    @property
    def layers(self) -> tuple[str, ...]:
        """Names of all layers of the units, in forward order."""
        return tuple(layer for unit in self.units for tap in unit for layer in tap.layers)
