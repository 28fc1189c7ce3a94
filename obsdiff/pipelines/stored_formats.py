"""Number formats of a saved pipeline: those of the files that it was opened from, tensor by tensor.

A component that no pruning changes is saved by copying its files (copied_parts.py those without
weights), so it is equal in every bit,
whatever format the computation used. In the pruned component a tensor that the pruning left alone
is written as its file has it, and a changed one in that file's format.
"""

import contextlib
import json
import shutil
from collections.abc import Collection, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from diffusers.models.modeling_utils import ModelMixin
from safetensors import safe_open
from torch import Tensor, nn

from ..errors import RunFailed
from .copied_parts import copied_as_stored
from .folder import Folder
from .headers import SAFETENSORS_DTYPES, Tensors, read_header
from .run import replaced
from .save import cast_

BASE_NAMES = {True: "diffusion_pytorch_model", False: "model"}  # by: is it a model of diffusers


@contextlib.contextmanager
def saved_as_stored(
    pipe: Any, folder: Folder, dtype: str | None, changed: Collection[str], formats: dict[str, str]
) -> Iterator[None]:
    """Prepare a pruned pipeline to be saved by save_pretrained inside.

    Args:
        pipe: the pipeline; formats of its weights change.
        folder: the model that it was opened from.
        dtype: torch name of the format that was asked for all weights; None for those stored.
        changed: the names of the components whose weights or shapes were changed.
        formats: torch name of the format of most weights of each component.

    Raises:
        RunFailed: a stored format does not hold a pruned weight; the message names it.
    """
    with contextlib.ExitStack() as undo:
        undo.enter_context(copied_as_stored(pipe, folder))
        if dtype is not None:
            cast_(pipe, formats)
            yield
            return
        for name, tensors in folder.components.items():
            module = getattr(pipe, name, None)
            if not isinstance(module, nn.Module):
                continue
            if name not in changed and tensors.files and not tensors.original:
                copy = partial(copy_component, module, tensors, formats[name])
                undo.enter_context(replaced(module, "save_pretrained", copy))
            else:
                restore_formats_(name, module, tensors, formats[name])
        yield


def copy_component(
    module: nn.Module, tensors: Tensors, dtype: str, target: str | Path, **_: Any
) -> None:
    """Save a component in place of its save_pretrained: its config, and copies of its files.

    Args:
        module: the component.
        tensors: its files.
        dtype: torch name of the format of most of its weights, for its config.
        target: the folder to write.
    """
    folder = Path(target)
    folder.mkdir(parents=True, exist_ok=True)
    if isinstance(module, ModelMixin):
        module.save_config(folder)
    else:
        config: Any = module.config
        if getattr(config, "dtype", None) is not None:
            config.dtype = getattr(torch, dtype)
        config.save_pretrained(folder)
    copy_files(tensors.files, folder, BASE_NAMES[isinstance(module, ModelMixin)])


def copy_files(files: tuple[Path, ...], folder: Path, base: str) -> None:
    """Copy the weight files of one component under plain names, with an index for several.

    Args:
        files: the files; of a variant, too.
        folder: an existing folder.
        base: the first part of the new names.
    """
    if len(files) == 1:
        shutil.copyfile(files[0], folder / f"{base}.safetensors")
        return
    owners: dict[str, str] = {}
    size = 0
    for number, file in enumerate(files, 1):
        name = f"{base}-{number:05}-of-{len(files):05}.safetensors"
        shutil.copyfile(file, folder / name)
        for tensor, info in read_header(file).items():
            owners[tensor] = name
            begin, end = info["data_offsets"]
            size += end - begin
    index = {"metadata": {"total_size": size}, "weight_map": dict(sorted(owners.items()))}
    text = json.dumps(index, indent=2) + "\n"
    (folder / f"{base}.safetensors.index.json").write_text(text, encoding="utf-8")


def restore_formats_(component: str, module: nn.Module, tensors: Tensors, dtype: str) -> None:
    """Give every tensor of a component the format of its file, and the file's values if unchanged.

    Args:
        component: its name, for the message.
        module: the component.
        tensors: its files.
        dtype: torch name of the format of most of its weights.

    Raises:
        RunFailed: a stored format does not hold a weight.
    """
    left = dict(module.state_dict(keep_vars=True))
    for file in () if tensors.original else tensors.files:
        with safe_open(file, "pt") as opened:
            for name in left.keys() & set(opened.keys()):
                own, stored = left.pop(name), opened.get_tensor(name)
                same = own.shape == stored.shape and torch.equal(own.cpu(), stored.to(own.dtype))
                set_(component, name, own, stored if same else own.to(stored.dtype))
    present = {SAFETENSORS_DTYPES[f] for f in tensors.formats.values() if f in SAFETENSORS_DTYPES}
    for name, own in left.items():  # the files have other names for them
        if own.is_floating_point():
            set_(component, name, own, own.to(exact_format(own, dtype, present)))


def exact_format(tensor: Tensor, usual: str, present: Iterable[str]) -> torch.dtype:
    """Return the usual format, or that of the others present which loses no value of a tensor."""
    for name in (usual, *sorted(set(present) - {usual})):
        dtype: torch.dtype = getattr(torch, name)
        if torch.equal(tensor.to(dtype).to(tensor.dtype), tensor):
            return dtype
    return getattr(torch, usual)


def set_(component: str, name: str, own: Tensor, value: Tensor) -> None:
    """Set the data of a parameter or buffer; RunFailed for values that its format does not hold."""
    if own.isfinite().all() and not value.isfinite().all():
        dtype = str(value.dtype).removeprefix("torch.")
        raise RunFailed(
            f"{component}.{name}: it has inf or NaN in {dtype}, its stored format; "
            "prune and save it with --dtype bfloat16"
        )
    own.data = value.to(own.device)
