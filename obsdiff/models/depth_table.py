"""The table of models whose blocks can leave: lists of blocks, and the settings that count them.

A list is here if its blocks keep the width of what they read, if no block reads its own number, and
if the model's config states how many there are. The config of a model with fewer blocks is then one
of the same class, which plain from_pretrained opens. Models whose blocks depend on their number are
left out: Chroma (modulation by number), HunyuanDiT (skip connections between blocks), HiDream (text
by number). The lists of a UNet, one in each of its attentions, depend on its config: their stacks
are read off the names of its blocks, see models/unet_depth.py for their settings. Imports no torch.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Stack:
    """A list of blocks in a model.

    Attributes:
        blocks: the attribute of the model that lists them; a dotted name for one inside a module.
        count: the setting of the config that counts them; "" in a UNet, where two settings count
            the blocks of all lists.
        lists: settings that list numbers of these blocks.
        stays: the position of a block that never leaves: 0, -1 or None.
        why: what that block has that the others lack.
        entry: the name of the layer whose output the first block reads; "" if there is more before.
        may_end: whether all its blocks may leave.
    """

    blocks: str
    count: str = "num_layers"
    lists: tuple[str, ...] = ()
    stays: int | None = None
    why: str = ""
    entry: str = ""
    may_end: bool = False


UNET = "UNet2DConditionModel"
UNET_LIST = re.compile(
    r"((?:down_blocks\.\d+|mid_block|up_blocks\.\d+)\.attentions\.\d+)\.transformer_blocks"
)
ONE = (Stack("transformer_blocks"),)
TWO = (Stack("transformer_blocks"), Stack("single_transformer_blocks", "num_single_layers"))
NO_TEXT_OUTPUT = "it has no text output"
STACKS: dict[str, tuple[Stack, ...]] = {  # class of the denoiser -> its lists, in forward order
    "AuraFlowTransformer2DModel": (
        Stack("joint_transformer_blocks", "num_mmdit_layers"),
        Stack("single_transformer_blocks", "num_single_dit_layers"),
    ),
    "BriaTransformer2DModel": TWO,
    "CogVideoXTransformer3DModel": ONE,
    "CogView3PlusTransformer2DModel": ONE,
    "CogView4Transformer2DModel": ONE,
    "DiTTransformer2DModel": (
        Stack("transformer_blocks", stays=0, why="the output is modulated by its embedding"),
    ),
    "Flux2Transformer2DModel": TWO,
    "FluxTransformer2DModel": TWO,
    "HunyuanImageTransformer2DModel": TWO,
    "HunyuanVideo15Transformer3DModel": ONE,
    "HunyuanVideoTransformer3DModel": TWO,
    "LTXVideoTransformer3DModel": ONE,
    "LongCatImageTransformer2DModel": TWO,
    "Lumina2Transformer2DModel": (Stack("layers"),),
    "MochiTransformer3DModel": (Stack("transformer_blocks", stays=-1, why=NO_TEXT_OUTPUT),),
    "OvisImageTransformer2DModel": TWO,
    "PixArtTransformer2DModel": ONE,
    "QwenImageTransformer2DModel": ONE,
    "SD3Transformer2DModel": (
        Stack("transformer_blocks", lists=("dual_attention_layers",), stays=-1, why=NO_TEXT_OUTPUT),
    ),
    "SanaTransformer2DModel": ONE,
    "WanTransformer3DModel": (Stack("blocks"),),
    "ZImageTransformer2DModel": (Stack("layers", "n_layers"),),
}
DEPTH_CLASSES = (*STACKS, UNET)  # classes whose blocks can leave


def stacks_in(cls: str, blocks: Iterable[str]) -> tuple[Stack, ...]:
    """Return the lists of a model whose blocks can leave; none if they can't.

    Args:
        cls: the name of the denoiser's class.
        blocks: the names of its blocks, in forward order.
    """
    return unet_stacks(blocks) if cls == UNET else STACKS.get(cls, ())


def unet_stacks(blocks: Iterable[str]) -> tuple[Stack, ...]:
    """Return a list of blocks for each attention of a UNet, in forward order.

    All of its blocks may leave: the projections around them are left.

    Args:
        blocks: the names of the UNet's blocks.
    """
    found = {}
    for name in blocks:
        owner = name.rpartition(".")[0]
        if match := UNET_LIST.fullmatch(owner):
            found[owner] = Stack(owner, "", entry=f"{match[1]}.proj_in", may_end=True)
    return tuple(found.values())
