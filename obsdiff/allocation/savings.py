"""Parameters, bytes and multiply-accumulates of a denoiser, and the saving of one item of a group.

All three are linear in the items: the other widths of a group's layers are fixed, and attention
costs the same for every head.

    parameters  of the rows and columns that are removed, biases and norms included
    bytes       of the same, in the dtype of each layer
    macs        of one call of the dense denoiser: those of a layer divided evenly by its rows or
                columns, those of attention products by its heads

A denoiser on the meta device, with shapes and no data, is counted as well.
"""

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any

from torch import nn

from ..errors import UserError
from ..models.geometry import columns, items, rows, unit_size
from ..models.linear_view import matrix, weight_of
from ..models.macs import count_macs, macs_by_module
from ..models.meta_device import macs_or_why_not, on_meta
from ..models.structure import Group

UNITS = {"parameters": "parameters", "macs": "multiply-accumulates", "bytes": "bytes"}


def amount_of(unit: str, denoiser: nn.Module, inputs: Mapping[str, Any]) -> int:
    """Return the parameters, bytes or multiply-accumulates of a denoiser.

    Args:
        unit: parameters, bytes or macs.
        denoiser: the model.
        inputs: the arguments of one call, for macs.

    Raises:
        UserError: its operations cannot be counted without data.
    """
    if unit != "macs":
        return size_of(unit, [denoiser])
    if not is_on_meta(denoiser):
        return count_macs(partial(denoiser, **inputs)).total
    found = macs_or_why_not(denoiser, dict(inputs))
    if found["total"] is None:
        raise UserError(
            "target_macs: expected a denoiser whose operations can be counted; "
            f"{found['why_not']}; use target_parameters"
        )
    return found["total"]


def of_an_item(
    unit: str, denoiser: nn.Module, groups: list[Group], inputs: Mapping[str, Any]
) -> dict[str, float]:
    """Return the saving of one item of each group, by the group's name; 0 for a group of one item.

    Args:
        unit: parameters, bytes or macs.
        denoiser: the dense model.
        groups: the groups.
        inputs: the arguments of one call, for macs.
    """
    saving: Callable[[Group], float] = partial(size_of_an_item, unit, denoiser)
    if unit == "macs":
        saving = partial(macs_of_an_item, macs_of_modules(denoiser, inputs), denoiser)
    return {group.name: saving(group) if items(denoiser, group) > 1 else 0.0 for group in groups}


def macs_of_modules(denoiser: nn.Module, inputs: Mapping[str, Any]) -> dict[str, tuple[int, int]]:
    """Return what macs_by_module counts in one call of a denoiser, which may be on the meta device.

    Args:
        denoiser: the model.
        inputs: the arguments of one call.
    """
    arguments = on_meta(inputs) if is_on_meta(denoiser) else inputs
    return macs_by_module(denoiser, partial(denoiser, **arguments))


def size_of_an_item(unit: str, denoiser: nn.Module, group: Group) -> float:
    """Return the parameters or bytes of one item of a group."""
    total, found = items(denoiser, group), 0.0
    for name in group.producers:
        layer, count = denoiser.get_submodule(name), rows(denoiser, group, name, total).shape[1]
        found += (
            count
            * (matrix(layer).shape[1] + (layer.bias is not None))
            * parameters_or_bytes(unit, layer)
        )
    for name in group.consumers:
        layer, count = denoiser.get_submodule(name), columns(denoiser, group, total).shape[1]
        found += count * len(matrix(layer)) * parameters_or_bytes(unit, layer)
    if group.norm:
        norm = denoiser.get_submodule(group.norm)
        found += unit_size(denoiser, group) * sum(
            parameters_or_bytes(unit, norm) for part in (norm.weight, norm.bias) if part is not None
        )
    return found


def macs_of_an_item(
    macs: Mapping[str, tuple[int, int]], denoiser: nn.Module, group: Group
) -> float:
    """Return the multiply-accumulates of one item of a group.

    Args:
        macs: those of each module in one call, of the layer and of attention products; a layer that
            the call skips has none.
        denoiser: the dense model.
        group: the group.
    """
    total, found = items(denoiser, group), 0.0
    for name in group.producers:
        found += (
            rows(denoiser, group, name, total).shape[1]
            * macs.get(name, (0, 0))[0]
            / len(matrix(denoiser.get_submodule(name)))
        )
    for name in group.consumers:
        found += (
            columns(denoiser, group, total).shape[1]
            * macs.get(name, (0, 0))[0]
            / matrix(denoiser.get_submodule(name)).shape[1]
        )
    return found + (macs.get(group.owner, (0, 0))[1] / total if group.kind == "heads" else 0.0)


def parameters_or_bytes(unit: str, module: nn.Module) -> int:
    """Return the size of one parameter of a module: 1, or its bytes."""
    return 1 if unit == "parameters" else weight_of(module).element_size()


def size_of(unit: str, modules: Iterable[nn.Module]) -> int:
    """Return the parameters of modules, or the bytes of their state."""
    if unit == "parameters":
        return sum(p.numel() for module in modules for p in module.parameters())
    return sum(
        t.numel() * t.element_size() for module in modules for t in module.state_dict().values()
    )


def is_on_meta(denoiser: nn.Module) -> bool:
    """Return whether a denoiser has shapes and no data."""
    return next(denoiser.parameters()).is_meta
