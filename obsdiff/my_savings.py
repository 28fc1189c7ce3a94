"""What leaves the model with one head, FFN neuron or norm group of channels: parameters, and multiply-accumulates of a denoiser call.

Multiply-accumulates are counted by layer in one call of the dense denoiser for one picture. Those of a layer are shared out evenly over its
rows and columns, those of an attention's products over its heads: they are what the shrunk model has less.
"""

from collections.abc import Mapping

from torch import nn

from .architectures import Group
from .drawing import denoiser_call
from .gathering import Site
from .macs import macs_by_module
from .surgery import columns, items, rows, unit
from .unfolding import matrix


def call_macs(site: Site) -> dict[str, tuple[int, int]]:
    """Name -> multiply-accumulates of every module of the denoiser in its first call: those of layers, those of attention."""
    call = denoiser_call(site.run.pipe, site.denoiser, site.plan.prompts[0], site.plan.settings)
    return macs_by_module(site.denoiser, lambda: site.denoiser(**call))


def saved(denoiser: nn.Module, group: Group, macs: Mapping[str, tuple[int, int]]) -> tuple[float, float]:
    """Parameters and multiply-accumulates that one item of a group takes with it."""
    total = items(denoiser, group)
    parameters = operations = 0.0
    for name in group.producers:
        layer, count = denoiser.get_submodule(name), rows(denoiser, group, name, total).shape[1]
        parameters += count * (matrix(layer).shape[1] + (layer.bias is not None))
        operations += count * macs.get(name, (0, 0))[0] / len(layer.weight)
    count = columns(denoiser, group, total).shape[1]
    for name in group.consumers:
        weight = matrix(denoiser.get_submodule(name))
        parameters += count * len(weight)
        operations += count * macs.get(name, (0, 0))[0] / weight.shape[1]
    if group.kind == "heads":
        operations += macs.get(group.owner, (0, 0))[1] / total
    if group.norm:
        parameters += 2 * unit(denoiser, group)
    return parameters, operations
