"""A convolution as a linear layer: its weight as a matrix, its input as tokens.

    y[:, p] = W x_p,   x_p = the patch of the input that output position p reads           (im2col)

so what holds for a linear layer, Hessian, saliency and repair, holds for W (O, C kh kw) with the patches as tokens. Columns are
in the order in which torch stores the weight: channel by channel, and in a channel row by row of the kernel. "Consecutive
inputs" of an n:m pattern are consecutive in this order.

O outputs, C input channels, kh x kw kernel, B images, T tokens, I = C kh kw inputs (of a linear layer: its features).
"""

import itertools
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..errors import RunFailed

UNFOLD_ELEMENTS = (
    2**24
)  # entries of the patches that are unfolded together, if one row of output positions has no more


def matrix(layer: nn.Module) -> Tensor:
    """The weight of a linear layer or convolution as a matrix (O, I), without its gradient."""
    return layer.weight.detach().flatten(1)


def write_(name: str, layer: nn.Module, weight: Tensor) -> None:
    """Give a layer the weight that this matrix (O, I) stands for. RunFailed, with the layer's name, if its number format does not hold it."""
    with torch.no_grad():
        layer.weight.copy_(weight.reshape(layer.weight.shape))
    if not layer.weight.isfinite().all():
        format = str(layer.weight.dtype).removeprefix("torch.")
        raise RunFailed(
            f"{name}: the pruned weight, up to {weight.abs().max():.3g}, has inf or NaN in {format}; raise the damping, or take another --dtype"
        )


def tokens(layer: nn.Module, x: Tensor, at_once: int = UNFOLD_ELEMENTS) -> Iterator[Tensor]:
    """The tokens of a layer's input, in parts. Of a linear layer all at once: (B, T, I), or (T, I) if the input has no batch of images.
    Of a convolution some rows of output positions of one picture at a time, (1, T, I), so that no more than about `at_once` entries
    are in memory, and that the parts are the same in every batch."""
    if not isinstance(layer, nn.Conv2d):
        yield x.flatten(1, -2) if x.dim() > 2 else x
        return
    across, down = layer.padding[1], layer.padding[0]
    x = F.pad(x if x.dim() == 4 else x.unsqueeze(0), (across, across, down, down))
    height, width = (
        (side - span) // stride + 1
        for side, span, stride in zip(x.shape[2:], reach(layer), layer.stride, strict=True)
    )
    rows = max(1, at_once // (width * layer.weight[0].numel()))
    for picture, first in itertools.product(x.split(1), range(0, height, rows)):
        last = min(first + rows, height)
        band = picture[
            :, :, first * layer.stride[0] : (last - 1) * layer.stride[0] + reach(layer)[0]
        ]
        yield F.unfold(band, layer.kernel_size, layer.dilation, 0, layer.stride).transpose(1, 2)


def reach(layer: nn.Conv2d) -> tuple[int, int]:
    """Height and width of the input that one output position spans."""
    down, across = (
        dilation * (side - 1) + 1
        for dilation, side in zip(layer.dilation, layer.kernel_size, strict=True)
    )
    return down, across


def unfolding_refusal(layer: nn.Module) -> str | None:
    """Why a layer can't be taken for a linear one, or None."""
    if isinstance(layer, nn.Linear):
        return None
    if not isinstance(layer, nn.Conv2d):
        return f"expected Linear or Conv2d, found {type(layer).__name__}"
    if layer.groups != 1:
        return f"expected a convolution of all its input channels, found {layer.groups} groups"
    if layer.padding_mode != "zeros" or isinstance(layer.padding, str):
        return f"expected a convolution padded with a fixed number of zeros, found padding={layer.padding!r}, padding_mode={layer.padding_mode!r}"
    return None


def layer_shapes(denoiser: nn.Module, target: str = "linear") -> dict[str, tuple[int, int]]:
    """Name and weight shape (O, I) of every Linear of a module, in registration order; for target conv of every Conv2d, too, by the
    shape of its weight as a matrix, (O, C kh kw)."""
    kinds = (nn.Linear, nn.Conv2d) if target == "conv" else nn.Linear
    return {
        name: tuple(matrix(module).shape)
        for name, module in denoiser.named_modules()
        if isinstance(module, kinds)
    }
