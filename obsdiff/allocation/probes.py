"""Probes: the product of a gradient with changes of weights, summed while the gradient passes.

A change D (O, I) of a layer's weight changes its output by D x. With g = dL/dy at the output of a
layer, row D_o changes the loss L by

    s_o = sum g_o (D x)_o        over all calls and tokens, to first order                     (O,)

No gradient of a weight is stored: a function in the layer's output adds to s when g passes it.
Prompts that share a call have sums of their own: the rows of a layer's input are, in order, those
of the images of the denoiser's batch, and these the prompts of one guidance half after the other.

O outputs, I inputs of a layer, P prompts of a call.
"""

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..calibration.call_audit import is_expert
from ..calibration.thinning import batch_rows
from ..models.linear_view import layer_at
from ..pipelines.run import hooked
from ..pipelines.stored_activations import OneByOne


@dataclass
class Probes:
    """The sums of some layers.

    Attributes:
        changes: the change D of each layer, in the shape of its weight.
        step: returns the denoising step.
        prompts: P.
        images: rows of the denoiser's batch in the present call.
        sums: the sums s (P, O) of each layer that a gradient has passed, in float32.
        called: the steps in which a layer was called.
        passed: those from which a gradient came back.
    """

    changes: Mapping[str, Tensor]
    step: Callable[[], int]
    prompts: int = 1
    images: int = 1
    sums: dict[str, Tensor] = field(default_factory=dict)
    called: set[int] = field(default_factory=set)
    passed: set[int] = field(default_factory=set)

    def add(
        self, name: str, layer: nn.Module, x: Tensor, gradient: Tensor, images: int = 1
    ) -> None:
        """Add the product of one call to the sums of a layer.

        Args:
            name: the layer's name.
            layer: the linear layer or convolution.
            x: its input.
            gradient: the gradient at its output.
            images: those in the rows of its input, a multiple of P.
        """
        x = x.to(gradient)
        products = gradient.float() * moved(layer, x, self.changes[name].to(x)).float()
        if isinstance(layer, nn.Conv2d):
            products = products.movedim(-3, -1)
        if self.prompts == 1:
            rows = products.flatten(0, -2).sum(0, keepdim=True)
        else:
            of_images = products.reshape(images, -1, products.shape[-1]).sum(1)
            rows = of_images.unflatten(0, (-1, self.prompts)).sum(0)
        self.sums[name] = self.sums[name] + rows if name in self.sums else rows

    def images_in(self, name: str, layer: nn.Module, x: Tensor) -> int:
        """Return the images in the rows of a layer's input, which may read one guidance half.

        Raises:
            OneByOne: P is more than one, and the rows are not, or may not be, those of so many
                prompts in order: some models put the tokens before the images, others read two
                guidance parts of three.
        """
        if self.prompts == 1:
            return 1
        images = self.prompts if len(x) == self.prompts else self.images
        unbatched = isinstance(layer, nn.Conv2d) and x.dim() == 3
        tokens_first = x.dim() == 3 and len(x) != images and x.shape[1] in (images, self.prompts)
        uneven = len(x) % images or images % self.prompts
        if unbatched or tokens_first or uneven or is_expert(name):
            raise OneByOne
        return images


def moved(layer: nn.Module, x: Tensor, change: Tensor) -> Tensor:
    """Return how much a change of a layer's weight changes its output for the input x."""
    if isinstance(layer, nn.Conv2d):
        return F.conv2d(x, change, None, layer.stride, layer.padding, layer.dilation, layer.groups)
    return F.linear(x, change)


class Passing(torch.autograd.Function):
    """The identity, which tells the probes of the gradient that passes it."""

    @staticmethod
    def forward(
        ctx: Any, output: Tensor, x: Tensor, start: Tensor, probes: Probes, name: str, layer: Any
    ) -> Tensor:
        """Return a copy of the output; it requires gradients, since `start` does."""
        ctx.save_for_backward(x)
        ctx.probe = probes, name, layer, probes.images_in(name, layer, x), probes.step()
        return output.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """Pass the gradient on."""
        probes, name, layer, images, step = ctx.probe
        probes.add(name, layer, *ctx.saved_tensors, gradients[0], images)
        probes.passed.add(step)
        return gradients[0], None, None, None, None, None


@contextlib.contextmanager
def probed(denoiser: nn.Module, probes: Probes) -> Iterator[None]:
    """Hook the layers of the probes; remove the hooks at the end.

    Args:
        denoiser: the model.
        probes: the sums that the hooks add to.
    """
    start = torch.zeros((), requires_grad=True)

    def hook_of(name: str) -> Any:
        def hook(layer: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
            if not torch.is_grad_enabled():
                return output
            probes.called.add(probes.step())
            passing: Tensor = Passing.apply(output, args[0].detach(), start, probes, name, layer)
            return passing

        return hook

    def begin(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        probes.images = batch_rows((*args, *kwargs.values()), probes.prompts)

    layers = {name: layer_at(denoiser, name) for name in probes.changes}
    with hooked(
        (
            denoiser.register_forward_pre_hook(begin, with_kwargs=True),
            *(layer.register_forward_hook(hook_of(name)) for name, layer in layers.items()),
        )
    ):
        yield
