"""Weights that are a layer's own: a parameter, stored nowhere else.

A mask of torch.nn.utils.prune, a weight norm or a parametrisation computes a layer's weight anew in
every forward, so a pruned value would not last. Two layers with one parameter, or with parameters
that share memory, would be pruned twice, each time for other inputs.
"""

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ..errors import UserError

REMEDIES = {  # what torch stores in place of a parameter `p` -> how to make it a parameter again
    "{p}_mask": ("a mask of torch.nn.utils.prune", "torch.nn.utils.prune.remove(layer, {p!r})"),
    "{p}_g": ("a weight norm", "torch.nn.utils.remove_weight_norm(layer, {p!r})"),
    "{p}_u": ("a spectral norm", "torch.nn.utils.remove_spectral_norm(layer, {p!r})"),
}
PARAMETRISED = (
    "a parametrisation",
    "torch.nn.utils.parametrize.remove_parametrizations(layer, {p!r})",
)


class Stored(NamedTuple):
    """The memory of a tensor.

    Attributes:
        device: its device.
        begin: the address of its first byte.
        end: the address after its last byte.
        name: its name, with that of its component.
        layer: the name of the module that has it, with that of its component.
    """

    device: str
    begin: int
    end: int
    name: str
    layer: str


def require_own_weights(pipe: Any, component: str, layers: Iterable[str]) -> None:
    """Refuse layers whose weights are computed from others, or shared.

    Args:
        pipe: a diffusers pipeline.
        component: the name of the denoiser.
        layers: the layers whose weights or biases a pruning changes.

    Raises:
        UserError: names the layers, and the call to make.
    """
    layers = list(layers)
    denoiser: nn.Module = getattr(pipe, component)
    for layer in layers:
        require_parameters(layer, denoiser.get_submodule(layer))
    require_unshared(pipe, {f"{component}.{layer}" for layer in layers})


def require_parameters(name: str, layer: nn.Module) -> None:
    """Refuse a layer whose weight or bias is no parameter; UserError with the call to make."""
    for p in ("weight", "bias"):
        if p in layer._parameters:  # registered as None, too
            parameter = layer._parameters[p]
            if parameter is not None and repeats(parameter):
                raise UserError(
                    f"{name}: expected a {p} with memory for each value, found that some share it; "
                    f"call layer.{p} = nn.Parameter(layer.{p}.detach().clone()) first"
                )
            continue
        what, call = computed(layer, p)
        raise UserError(
            f"{name}: expected a {p} that is a parameter of the layer, found {what}, which "
            f"computes it from other tensors; call {call.format(p=p)} first"
        )


def computed(layer: nn.Module, p: str) -> tuple[str, str]:
    """Return what computes a weight or bias, and the call that ends this."""
    if p in getattr(layer, "parametrizations", ()):
        return PARAMETRISED
    for pattern, remedy in REMEDIES.items():
        if hasattr(layer, pattern.format(p=p)):
            return remedy
    return f"{type(getattr(layer, p, None)).__name__}", "setattr(layer, {p!r}, nn.Parameter(...))"


def require_unshared(pipe: Any, changed: set[str]) -> None:
    """Refuse changed layers that share memory with anything else in the pipeline.

    Args:
        pipe: a diffusers pipeline.
        changed: the layers, with the name of their component.
    """
    widest: Stored | None = None
    for tensor in sorted(stored(pipe)):
        before = widest if widest and widest.device == tensor.device else None
        overlap = before and tensor.begin < before.end
        if before and overlap and {tensor.layer, before.layer} & changed:
            raise UserError(
                f"{before.name} and {tensor.name}: expected weights of their own, found that both "
                "share one memory; untie them with "
                "layer.weight = nn.Parameter(layer.weight.detach().clone())"
            )
        if before is None or tensor.end > before.end:
            widest = tensor


def stored(pipe: Any) -> Iterator[Stored]:
    """Yield the memory of every parameter and buffer of a pipeline, under each of its names."""
    for component, part in pipe.components.items():
        if not isinstance(part, nn.Module):
            continue
        for path, module in part.named_modules(remove_duplicate=False):
            layer = f"{component}.{path}" if path else component
            for name, tensor in (*module._parameters.items(), *module._buffers.items()):
                if tensor is not None and is_plain(tensor):
                    yield Stored(str(tensor.device), *extent(tensor), f"{layer}.{name}", layer)


def is_plain(tensor: Tensor) -> bool:
    """Return whether a tensor has memory of its own kind: not quantised, sparse or on meta."""
    return (
        type(tensor.data) is Tensor
        and tensor.layout == torch.strided
        and not tensor.is_meta
        and tensor.numel() > 0
    )


def repeats(tensor: Tensor) -> bool:
    """Return whether some values of a tensor share their memory, as after `expand`."""
    if not is_plain(tensor):
        return False
    begin, end = extent(tensor)
    return end - begin < tensor.numel() * tensor.element_size()


def extent(tensor: Tensor) -> tuple[int, int]:
    """Return the addresses of a tensor's first byte and after its last."""
    span = sum(
        (size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True)
    )
    begin = tensor.data_ptr()
    return begin, begin + (span + 1) * tensor.element_size()
