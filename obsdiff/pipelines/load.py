"""Open a pipeline from a checked folder or single file, every component in its number format, with nothing left to chance.

diffusers and transformers fill weights that a checkpoint lacks with random ones, and only warn. Here that is an error with the
first names. Every component is opened from the files that were checked; a class is looked up in diffusers, transformers and
obsdiff alone.
"""

import importlib
import inspect
from collections.abc import Callable
from typing import Any

import diffusers
import torch
from diffusers.loaders import single_file_model
from diffusers.loaders.single_file_utils import SingleFileComponentError
from torch import nn

from ..errors import UserError
from .call import usable_device
from .folder import Folder
from .headers import shortened
from .run import replaced

LIBRARIES = ("diffusers", "transformers", "obsdiff")
REFUSALS = (
    OSError, ValueError, LookupError, TypeError, AttributeError, RuntimeError, ArithmeticError, AssertionError, ImportError, SingleFileComponentError,
)  # fmt: skip


def open_pipeline(folder: Folder, types: dict[str, torch.dtype]) -> Any:
    """The pipeline on the CPU, its components in these formats. UserError, in one line, for whatever keeps it from opening."""
    try:
        parts = {
            name: load_component(folder, name, types[name])
            for name in folder.components
            if loadable(folder, name)
        }
        parts |= dict.fromkeys(
            folder.left_out
        )  # diffusers wants to be told that a required component is meant to be missing
        pipe = (
            from_file(folder, parts, types)
            if folder.single_file
            else from_folder(folder, parts, types)
        )
    except UserError:
        raise
    except REFUSALS as error:
        reason = (
            f"the weights lack {error}"
            if isinstance(error, KeyError)
            else " ".join(str(error).split())
        )
        raise UserError(
            f"{folder.source}: diffusers can't load this {folder.pipeline}: {reason[:300]}"
        ) from error
    return pipe


def from_folder(folder: Folder, parts: dict[str, Any], types: dict[str, torch.dtype]) -> Any:
    """The pipeline around `parts`; diffusers itself opens what is no part, such as tokenizers."""
    others = [
        tensors.variant
        for name, tensors in folder.components.items()
        if name not in parts and tensors.variant
    ]
    how = {
        "dtype": types | {"default": torch.float32},
        "variant": next(iter(others), None),
        "use_safetensors": True,
        "local_files_only": True,
    }
    return diffusers.DiffusionPipeline.from_pretrained(folder.path, **how, **parts)


def from_file(folder: Folder, parts: dict[str, Any], types: dict[str, torch.dtype]) -> Any:
    """A single-file checkpoint, by the configs of its folder. `parts` are the components that the file does not hold."""
    cls = getattr(diffusers, folder.pipeline, None)
    if not hasattr(cls, "from_single_file"):
        raise UserError(
            f"{folder.path}: diffusers opens no single files as {folder.pipeline}; give the config folder of another pipeline class"
        )
    inside = {name: types[name] for name, tensors in folder.components.items() if tensors.original}
    common = (
        next(iter(inside.values())) if len(set(inside.values())) == 1 else torch.float32
    )  # diffusers takes one format for all
    known = {
        name: part
        for name, part in parts.items()
        if name in inspect.signature(cls.__init__).parameters
    }
    how = {"config": str(folder.path), "dtype": common, "local_files_only": True}
    with replaced(
        single_file_model, "dispatch_model", looked_at(folder, single_file_model.dispatch_model)
    ):
        pipe = cls.from_single_file(str(folder.single_file), **how, **known)
    for name, dtype in inside.items():
        require_filled(f"{folder.source}: {name}", getattr(pipe, name))
        if dtype != common:
            getattr(pipe, name).to(dtype)
    return pipe


def looked_at(folder: Folder, dispatch: Callable) -> Callable:
    """diffusers dispatches a model that a single file filled by halves, and torch's complaint then names no key: look first."""

    def dispatched(model: nn.Module, *args: Any, **kwargs: Any) -> Any:
        require_filled(str(folder.source), model)
        return dispatch(model, *args, **kwargs)

    return dispatched


def loadable(folder: Folder, name: str) -> bool:
    """Whether this component has its own files, and a class that is known here; diffusers opens the others."""
    return not folder.components[name].original and component_class(folder, name) is not None


def component_class(folder: Folder, name: str) -> Any:
    """The model class that model_index.json names, from diffusers (its pipelines included), transformers or obsdiff; else None."""
    library, cls = folder.classes[name]
    module = getattr(diffusers.pipelines, library, None) or (
        importlib.import_module(library) if library in LIBRARIES else None
    )
    found = getattr(module, cls, None)
    return (
        found
        if isinstance(found, type)
        and issubclass(found, nn.Module)
        and hasattr(found, "from_pretrained")
        else None
    )


def load_component(folder: Folder, name: str, dtype: torch.dtype) -> nn.Module:
    """One component, from the variant of its files that was chosen. UserError for keys its files lack."""
    cls, variant = component_class(folder, name), folder.components[name].variant
    model, info = cls.from_pretrained(
        folder.path / name,
        dtype=dtype,
        variant=variant,
        use_safetensors=True,
        local_files_only=True,
        output_loading_info=True,
    )
    require_keys(f"{folder.path / name}", cls.__name__, sorted(info["missing_keys"]))
    return model


def require_filled(where: str, model: nn.Module) -> None:
    """UserError for a parameter that nothing filled: from_single_file leaves it without memory and says nothing."""
    require_keys(
        where, type(model).__name__, [key for key, p in model.named_parameters() if p.is_meta]
    )


def require_keys(where: str, cls: str, missing: list[str]) -> None:
    if missing:
        raise UserError(
            f"{where}: its weights lack {shortened(missing)}, which {cls} needs; fetch them again, or check that the config fits the weights"
        )


def load_pipeline(
    folder: Folder, dtype: str | None = None, device: str | None = None
) -> tuple[Any, dict[str, str]]:
    """The pipeline of a folder on its device, and the format of each component's weights to save it in again.

    Loads in `dtype`, or as stored; on a CPU, which only emulates half precision (far slower and less exact), stored
    half precision is computed in float32 and goes back to its format when it is saved.
    """
    where = usable_device("device", device or ("cuda" if torch.cuda.is_available() else "cpu"))
    formats = {
        name: dtype or tensors.dtype or "float32" for name, tensors in folder.components.items()
    }
    loaded = {
        name: "float32" if where.type == "cpu" and dtype is None else f
        for name, f in formats.items()
    }
    pipe = open_pipeline(folder, {name: getattr(torch, f) for name, f in loaded.items()})
    return pipe.to(where), formats
