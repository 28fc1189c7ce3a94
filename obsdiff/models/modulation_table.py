"""The table of modulation layers: linear layers that make shift, scale and gate of a block.

Such a layer reads an embedding of the time step, to which some models add pooled text, a guidance
scale or the picture's size: one vector a picture, not one a token. It has as many outputs as six
widths or more, so these layers are a sixth to two fifths of the parameters. Models that compute
modulation once for all blocks (PixArt, Sana, Wan, FLUX.2) have next to nothing to fold and are left
out, and so is the last norm before the output, one layer through which everything passes. Imports
no torch.

Where the time step alone enters, the inputs lie on one curve; a text or a class adds dimensions.
"""

from collections.abc import Iterable
from fnmatch import fnmatchcase

TWO_STREAMS = ("transformer_blocks.*.norm1.linear", "transformer_blocks.*.norm1_context.linear")
DOUBLE_AND_SINGLE = (*TWO_STREAMS, "single_transformer_blocks.*.norm.linear")
BOTH_IN_ONE = ("transformer_blocks.*.norm1.linear",)
TWO_NORMS = ("transformer_blocks.*.norm1.linear", "transformer_blocks.*.norm2.linear")
# class of the denoiser -> its modulation layers, as shell wildcards
MODULATION: dict[str, tuple[str, ...]] = {
    "AuraFlowTransformer2DModel": (
        "joint_transformer_blocks.*.norm1.linear",
        "joint_transformer_blocks.*.norm1_context.linear",
        "single_transformer_blocks.*.norm1.linear",
    ),
    "BriaFiboTransformer2DModel": DOUBLE_AND_SINGLE,
    "BriaTransformer2DModel": DOUBLE_AND_SINGLE,
    "CogVideoXTransformer3DModel": TWO_NORMS,
    "CogView3PlusTransformer2DModel": BOTH_IN_ONE,
    "CogView4Transformer2DModel": BOTH_IN_ONE,
    "ConsisIDTransformer3DModel": TWO_NORMS,
    "DiTTransformer2DModel": BOTH_IN_ONE,
    "FluxTransformer2DModel": DOUBLE_AND_SINGLE,
    "GlmImageTransformer2DModel": BOTH_IN_ONE,
    "HunyuanImageTransformer2DModel": DOUBLE_AND_SINGLE,
    "HunyuanVideo15Transformer3DModel": TWO_STREAMS,
    "HunyuanVideoTransformer3DModel": DOUBLE_AND_SINGLE,
    "LongCatImageTransformer2DModel": DOUBLE_AND_SINGLE,
    "Lumina2Transformer2DModel": ("noise_refiner.*.norm1.linear", "layers.*.norm1.linear"),
    "MochiTransformer3DModel": TWO_STREAMS,
    "OvisImageTransformer2DModel": DOUBLE_AND_SINGLE,
    "PRXTransformer2DModel": ("blocks.*.modulation.lin",),
    "QwenImageTransformer2DModel": (
        "transformer_blocks.*.img_mod.1",
        "transformer_blocks.*.txt_mod.1",
    ),
    "SD3Transformer2DModel": TWO_STREAMS,
}

# classes whose modulation reads the text or the class of the picture, too
BY_PROMPT = (
    "DiTTransformer2DModel",
    "FluxTransformer2DModel",
    "HunyuanVideoTransformer3DModel",
    "MochiTransformer3DModel",
    "SD3Transformer2DModel",
)
SHARE, SHARE_BY_PROMPT = 0.1, 0.7  # of a layer's weights, at most: see docs/modulation.md


def modulation_share(cls: str) -> float:
    """Return the largest share of its weights that a folded layer of a class needs, 0 to 1."""
    return SHARE_BY_PROMPT if cls.removeprefix("Pruned") in BY_PROMPT else SHARE


def modulation_layers(cls: str, layers: Iterable[str]) -> list[str]:
    """Return the modulation layers among the layers of a model; none for a class without an entry.

    Args:
        cls: the name of the denoiser's class.
        layers: the names of its layers.
    """
    wilds = MODULATION.get(cls.removeprefix("Pruned"), ())
    return [name for name in layers if any(fnmatchcase(name, wild) for wild in wilds)]


def modulation_like(layers: Iterable[str]) -> list[str]:
    """Return the layers whose names are those of modulation layers in some class of the table."""
    wilds = {wild for found in MODULATION.values() for wild in found}
    return [name for name in layers if any(fnmatchcase(name, wild) for wild in wilds)]
