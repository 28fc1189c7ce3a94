"""The text of a modelling file: a pruned class that needs diffusers alone.

The file builds the dense model and gives the modules that a pruning has changed their tensors'
shapes and their counts. These are the differences between the dense and the pruned model, both
without weights; no weight is read.
"""

from typing import Any

from diffusers.configuration_utils import LegacyConfigMixin
from torch import nn

from ..errors import UserError
from ..models.client_marker import is_marked
from ..models.dense_shapes import dense_class, dense_on_meta
from ..models.own_names import HEADS, MODULE
from ..runtime.version import VERSION

Changes = dict[str, dict[str, int | tuple[int, ...]]]  # module -> count or shape of a tensor, each
MARKER = f"""\
        marker = nn.Module()  # this tensor keeps programs with head counts of their own away
        marker.register_buffer("{HEADS}", torch.zeros(1))
        self.{MODULE} = marker
"""
TEMPLATE = '''\
"""{base} without some of its heads, neurons or channels.

Written by obsdiff {version} for the weights beside it. diffusers runs this file if it is asked to:

    {pipeline}.from_pretrained(FOLDER, trust_remote_code=True)

It builds the dense model, then gives the modules below the shapes and counts of the pruned one:
tuples are shapes of tensors, numbers are attributes. obsdiff itself does not run this file.
"""

import inspect

import torch
from diffusers import {base}
from torch import nn

CHANGES = {{
{changes}
}}
SETTINGS = ("pruned_layout", "head_marker")  # of config.json, beside those of the dense model


class {name}({base}):
    """The pruned model; the arguments are those of {base} and SETTINGS."""

    __module__ = "obsdiff"  # so that a folder saved again, without this file, opens with obsdiff

    def __init__(self, *args, **kwargs):
        own = {{key: kwargs.pop(key, None) for key in SETTINGS}}
        super().__init__(*args, **kwargs)
        for name, changes in CHANGES.items():
            module = self.get_submodule(name)
            for key, value in changes.items():
                if isinstance(value, tuple):
                    value = nn.Parameter(getattr(module, key).new_zeros(value))
                setattr(module, key, value)
{marker}        self.register_to_config(**own)


# diffusers reads from it which settings of config.json to pass
{name}.__init__.__signature__ = inspect.Signature(
    [
        *inspect.signature({base}.__init__).parameters.values(),
        *(inspect.Parameter(key, inspect.Parameter.KEYWORD_ONLY, default=None) for key in SETTINGS),
    ]
)
'''


def modelling_file(model: nn.Module, pipeline: str) -> str:
    """Return the text of the file.

    Args:
        model: the pruned model, of a pruned class; weights are not needed.
        pipeline: name of the pipeline's class, for the explanation.

    Raises:
        UserError: diffusers opens the dense class as another one.
    """
    base = dense_class(model)
    if issubclass(base, LegacyConfigMixin):
        raise UserError(
            f"with-code: diffusers opens {base.__name__} as a class of another name; "
            "open the folder after import obsdiff"
        )
    lines = [f"    {name!r}: {fields!r}," for name, fields in changes_of(model).items()]
    return TEMPLATE.format(
        base=base.__name__,
        name=type(model).__name__,
        version=VERSION,
        pipeline=pipeline,
        changes="\n".join(lines).replace("'", '"'),
        marker=MARKER if is_marked(model) else "",
    )


def changes_of(model: nn.Module) -> Changes:
    """Return what differs between a pruned model and its dense one, by module: shapes, counts.

    Args:
        model: the pruned model, of a pruned class; weights are not needed.
    """
    dense = dict(dense_on_meta(model).named_modules())
    found: Changes = {}
    for name, module in model.named_modules():
        if name in dense and (differing := differences(dense[name], module)):
            found[name] = differing
    return found


def differences(dense: nn.Module, pruned: nn.Module) -> dict[str, int | tuple[int, ...]]:
    """Return the shapes of own tensors and the counts of a module that differ from the dense one's.

    Args:
        dense: the module of the dense model.
        pruned: the same module of the pruned model.
    """
    before = dict(dense.named_parameters(recurse=False))
    shapes: dict[str, int | tuple[int, ...]] = {
        name: tuple(value.shape)
        for name, value in pruned.named_parameters(recurse=False)
        if value.shape != before[name].shape
    }
    return shapes | {
        name: value
        for name, value in vars(pruned).items()
        if is_count(value) and vars(dense).get(name) != value
    }


def is_count(value: Any) -> bool:
    """Return whether an attribute is a whole number."""
    return type(value) is int
