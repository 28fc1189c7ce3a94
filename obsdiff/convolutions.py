"""The table of the convolutions that are pruned: those of UNets' residual blocks and samplers, recognised by their names.

Data only, like blocks.py. A convolution is described by the shape of its weight as a matrix, (O, C kh kw); it is pruned as the
linear layer that reads the unfolded input (unfolding.py).

conv_in and conv_out stay dense: they are small, and the first and last thing that a picture passes. proj_in and proj_out around
attention stay dense too, linear or 1 x 1 convolution as a UNet has them: so SD 1.5 and SDXL are treated alike.
"""

from .blocks import Entry, Group, Tap

CONVOLUTIONS = (
    Entry(  # the shortcut reads the block's input as it is, conv1 what norm and activation make of it
        "residual block",
        ("conv1", "conv2"),
        ((Tap(("conv1",), "conv"), Tap(("conv_shortcut",), "conv")), (Tap(("conv2",), "conv"),)),
        (Group("channels", "", ("conv1", "time_emb_proj"), ("conv2",), norm="norm2"),),
        owners=("resnets.*", "*samplers.*", "resnet_*"),
    ),
    Entry("sampler", ("conv",), ((Tap(("conv",), "conv"),),), (), owners=("*samplers.*",)),
)

STAY_DENSE = ("conv_in", "conv_out")  # of the convolutions that stand in no block of the table
