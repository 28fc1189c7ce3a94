"""Which rows and columns belong to an item of a group; the groups of heads and neurons are covered
where they are removed (test_surgery)."""

from torch import nn

from obsdiff.models.discovery import find_blocks
from obsdiff.models.geometry import columns, rows
from obsdiff.models.linear_view import layer_shapes
from obsdiff.models.structure import Group

from ..conftest import ddpm


def channels_of(unet: nn.Module) -> list[Group]:
    """The groups of channels of a UNet."""
    blocks = find_blocks(layer_shapes(unet, "conv"))
    return [group for block in blocks for group in block.groups if group.kind == "channels"]


def test_what_belongs_to_a_norm_group():
    """Two norm groups of two channels: 2 x 9 columns of conv2 each; two rows of conv1; of the time
    embedding, which scales and shifts, two in each half."""
    unet = ddpm(resnet_time_scale_shift="scale_shift").unet
    group = next(g for g in channels_of(unet) if g.owner == "down_blocks.0.resnets.0")
    assert group.producers == (
        "down_blocks.0.resnets.0.conv1",
        "down_blocks.0.resnets.0.time_emb_proj",
    )
    assert columns(unet, group, 8)[1].tolist() == list(range(18, 36))
    assert rows(unet, group, group.producers[0], 8)[1].tolist() == [2, 3]
    assert rows(unet, group, group.producers[1], 8)[1].tolist() == [2, 3, 18, 19]
