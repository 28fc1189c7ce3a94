"""A convolution as a linear layer: its weight as a matrix, its input as tokens.

    y[:, p] = W x_p,   x_p = the patch of the input that output position p reads           (im2col)

Results for a linear layer (Hessian, saliency, repair) therefore hold for W (O, C kh kw) with the
patches as tokens. Columns are in the order in which torch stores the weight: channel by channel,
and in a channel row by row of the kernel. "Consecutive inputs" of an n:m pattern are consecutive in
this order.

O outputs, C input channels, kh x kw kernel, B images, T tokens, I = C kh kw inputs (of a linear
layer: its features).
"""

import itertools
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..errors import RunFailed
from .structure import Shape

Layer = nn.Linear | nn.Conv2d
# Entries of the patches that are unfolded together, if one row of output positions has no more.
UNFOLD_ELEMENTS = 2**24


def layer_at(model: nn.Module, name: str) -> Layer:
    """Return the linear layer or convolution of that name.

    Args:
        model: the model.
        name: the dotted name of the layer.
    """
    layer = model.get_submodule(name)
    assert isinstance(layer, Layer), f"{name}: {type(layer).__name__}"
    return layer


def weight_of(layer: nn.Module) -> Tensor:
    """Return a layer's weight parameter, typed as a tensor."""
    weight = layer.weight
    assert isinstance(weight, Tensor)  # nn.Module types its attributes as Tensor | Module
    return weight


def matrix(layer: nn.Module) -> Tensor:
    """Return the weight of a linear layer or convolution as a matrix (O, I), without gradient."""
    return weight_of(layer).detach().flatten(1)


def write_(name: str, layer: nn.Module, weight: Tensor) -> None:
    """Write a matrix into a layer's weight.

    Args:
        name: the layer's name in errors.
        layer: a linear layer or convolution.
        weight: the matrix (O, I).

    Raises:
        RunFailed: the layer's number format cannot hold the values.
    """
    parameter = weight_of(layer)
    with torch.no_grad():
        parameter.copy_(weight.reshape(parameter.shape))
    if not parameter.isfinite().all():
        dtype = str(parameter.dtype).removeprefix("torch.")
        raise RunFailed(
            f"{name}: the pruned weight, up to {weight.abs().max():.3g}, has inf or NaN in "
            f"{dtype}; raise the damping, or use another --dtype"
        )


def tokens(layer: nn.Module, x: Tensor, at_once: int = UNFOLD_ELEMENTS) -> Iterator[Tensor]:
    """Yield the tokens of a layer's input, in parts.

    A linear layer has one part. A convolution has parts of consecutive rows of output positions of
    one image; they are the same in every batch.

    Args:
        layer: a linear layer or convolution.
        x: its input: (B, ..., I) or (T, I) of a linear layer, (B, C, H, W) or (C, H, W) of a
            convolution.
        at_once: entries of unfolded patches in memory, at most; one row of output positions is
            never split.

    Yields:
        Tokens (B, T, I) or (T, I) of a linear layer, (1, T, I) of a convolution.
    """
    if not isinstance(layer, nn.Conv2d):
        yield x.flatten(1, -2) if x.dim() > 2 else x
        return
    x = x if x.dim() == 4 else x.unsqueeze(0)
    height, width = output_size(layer, x)
    down, across = padding(layer)
    x = F.pad(x, (across, across, down, down))
    rows = max(1, at_once // (width * layer.weight[0].numel()))
    for picture, first in itertools.product(x.split(1), range(0, height, rows)):
        last = min(first + rows, height)
        top, bottom = first * layer.stride[0], (last - 1) * layer.stride[0] + reach(layer)[0]
        band = picture[:, :, top:bottom]
        yield F.unfold(band, layer.kernel_size, layer.dilation, 0, layer.stride).transpose(1, 2)


def token_count(layer: nn.Module, x: Tensor) -> int:
    """Return the number of tokens of a layer's input.

    Args:
        layer: a linear layer or convolution.
        x: its input, as in `tokens`.
    """
    if isinstance(layer, nn.Conv2d):
        height, width = output_size(layer, x)
        return height * width * (len(x) if x.dim() == 4 else 1)
    return x.numel() // max(1, x.shape[-1])


def tokens_at(
    layer: nn.Module, x: Tensor, index: Tensor, at_once: int = UNFOLD_ELEMENTS
) -> Iterator[Tensor]:
    """Yield some tokens of a layer's input, in parts; of a convolution only these are unfolded.

    Args:
        layer: a linear layer or convolution.
        x: its input, as in `tokens`.
        index: flat indices (n,) of the tokens, in the order in which `tokens` yields them.
        at_once: entries of unfolded patches in memory, at most; a patch is never split.

    Yields:
        Tokens (T, I).
    """
    if not isinstance(layer, nn.Conv2d):
        yield x.reshape(-1, x.shape[-1])[index]
        return
    x = x if x.dim() == 4 else x.unsqueeze(0)
    for part in index.split(max(1, at_once // layer.weight[0].numel())):
        yield patches_at(layer, x, part)


def patches_at(layer: nn.Conv2d, x: Tensor, index: Tensor) -> Tensor:
    """Return the patches (n, C kh kw) that some output positions of a convolution read.

    Args:
        layer: the convolution.
        x: its input (B, C, H, W).
        index: flat indices (n,) of output positions, image by image.
    """
    height, width = output_size(layer, x)
    picture, place = index // (height * width), index % (height * width)
    down, inside_down = read_along(layer, 0, place // width, x.shape[2])
    across, inside_across = read_along(layer, 1, place % width, x.shape[3])
    read = x[picture.view(-1, 1, 1), :, down.unsqueeze(2), across.unsqueeze(1)]  # (n, kh, kw, C)
    padded = ~(inside_down.unsqueeze(2) & inside_across.unsqueeze(1))
    return read.masked_fill(padded.unsqueeze(3), 0).permute(0, 3, 1, 2).flatten(1)


def read_along(layer: nn.Conv2d, dimension: int, place: Tensor, side: int) -> tuple[Tensor, Tensor]:
    """Return the rows or columns (n, k) of the input that output positions (n,) read.

    Returns:
        Their indices, those in the padding moved inside, and which of them are inside.
    """
    steps = torch.arange(layer.kernel_size[dimension], device=place.device)
    first = place * layer.stride[dimension] - padding(layer)[dimension]
    found = first.unsqueeze(1) + steps * layer.dilation[dimension]
    return found.clamp(0, side - 1), (found >= 0) & (found < side)


def padding(layer: nn.Conv2d) -> tuple[int, int]:
    """Return the zeros above and beside the input."""
    down, across = (int(pad) for pad in layer.padding)  # unfolding_refusal excludes "same"
    return down, across


def output_size(layer: nn.Conv2d, x: Tensor) -> tuple[int, int]:
    """Return height and width of a convolution's output for the input (..., C, H, W)."""
    height, width = (
        (side + 2 * pad - span) // stride + 1
        for side, pad, span, stride in zip(
            x.shape[-2:], padding(layer), reach(layer), layer.stride, strict=True
        )
    )
    return height, width


def reach(layer: nn.Conv2d) -> tuple[int, int]:
    """Return height and width of the input that one output position spans."""
    down, across = (
        dilation * (side - 1) + 1
        for dilation, side in zip(layer.dilation, layer.kernel_size, strict=True)
    )
    return down, across


def unfolding_refusal(layer: nn.Module) -> str | None:
    """Return the reason why a layer has no form as a linear layer, or None.

    Args:
        layer: any module.

    Returns:
        What was expected and what was found; None for a linear layer and for a convolution of all
        input channels with zero padding.
    """
    if isinstance(layer, nn.Linear):
        return None
    if not isinstance(layer, nn.Conv2d):
        return f"expected Linear or Conv2d, found {type(layer).__name__}"
    if layer.groups != 1:
        return f"expected a convolution of all its input channels, found {layer.groups} groups"
    if layer.padding_mode != "zeros" or isinstance(layer.padding, str):
        return (
            "expected a convolution padded with a fixed number of zeros, "
            f"found padding={layer.padding!r}, padding_mode={layer.padding_mode!r}"
        )
    return None


def layer_shapes(denoiser: nn.Module, target: str = "linear") -> dict[str, Shape]:
    """List a module's layers and the shapes of their weights as matrices.

    Args:
        denoiser: any module.
        target: "linear" for linear layers, "conv" for 2D convolutions, too.

    Returns:
        Layer name -> (O, I), in registration order; I is C kh kw for a convolution.
    """
    kinds = (nn.Linear, nn.Conv2d) if target == "conv" else (nn.Linear,)
    return {
        name: (matrix(module).shape[0], matrix(module).shape[1])
        for name, module in denoiser.named_modules()
        if isinstance(module, kinds)
    }
