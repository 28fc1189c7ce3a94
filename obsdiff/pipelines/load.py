"""Open a pipeline from a checked folder or single file, with every weight from its files.

diffusers and transformers fill missing weights with random numbers and only warn. Here that is an
error that names the first missing keys. Every component is opened from the checked files; classes
are looked up in diffusers, transformers and obsdiff alone.
"""

import contextlib
import importlib
import inspect
from collections.abc import Callable, Iterator
from typing import Any

import diffusers
import torch
from diffusers.loaders import single_file_model
from diffusers.loaders.single_file_utils import SingleFileComponentError
from safetensors import SafetensorError
from torch import nn

from ..errors import UserError
from .call import usable_device
from .folder import Folder
from .headers import shortened
from .run import replaced

LIBRARIES = ("diffusers", "transformers", "obsdiff")
REFUSALS = (  # errors of diffusers and transformers about a checkpoint
    OSError,
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    RuntimeError,
    ArithmeticError,
    AssertionError,
    ImportError,
    SingleFileComponentError,
    SafetensorError,
)
LOAD_ERROR_SHOWN = 300  # characters of their message


def open_pipeline(folder: Folder, types: dict[str, torch.dtype]) -> Any:
    """Open a pipeline on the CPU.

    Args:
        folder: the checked folder or single file.
        types: the dtype to load each component in.

    Raises:
        UserError: diffusers can't open it, or weights are missing; one line.
    """
    with named_refusals(folder):
        parts: dict[str, nn.Module | None] = {
            name: load_component(folder, name, types[name])
            for name in folder.components
            if loadable(folder, name)
        }
        # diffusers requires None for a component that is absent on purpose
        parts |= dict.fromkeys(folder.left_out)
        if folder.single_file:
            return from_file(folder, parts, types)
        return from_folder(folder, parts, types)


@contextlib.contextmanager
def named_refusals(folder: Folder) -> Iterator[None]:
    """Turn errors of diffusers and transformers about a checkpoint into one line, a UserError."""
    try:
        yield
    except UserError:
        raise
    except REFUSALS as error:
        reason = (
            f"the weights lack {error}"
            if isinstance(error, KeyError)
            else " ".join(str(error).split())
        )
        raise UserError(
            f"{folder.source}: diffusers can't load this {folder.pipeline}: "
            f"{reason[:LOAD_ERROR_SHOWN]}"
        ) from error


def from_folder(
    folder: Folder, parts: dict[str, nn.Module | None], types: dict[str, torch.dtype]
) -> Any:
    """Open a pipeline folder around opened components.

    Args:
        folder: the checked folder.
        parts: the opened components; diffusers opens all others, such as tokenizers.
        types: the dtype of each component.
    """
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


def from_file(
    folder: Folder, parts: dict[str, nn.Module | None], types: dict[str, torch.dtype]
) -> Any:
    """Open a single-file checkpoint by the configs of its folder.

    Args:
        folder: the checked file and its folder.
        parts: the components that the file does not hold.
        types: the dtype of each component.

    Raises:
        UserError: the pipeline's class opens no single files, or weights are missing.
    """
    cls: Any = getattr(diffusers, folder.pipeline, None)
    if not hasattr(cls, "from_single_file"):
        raise UserError(
            f"{folder.path}: diffusers opens no single files as {folder.pipeline}; "
            "pass the config folder of another pipeline class"
        )
    inside = {name: types[name] for name, tensors in folder.components.items() if tensors.original}
    # diffusers loads all components in one dtype
    common = next(iter(inside.values())) if len(set(inside.values())) == 1 else torch.float32
    arguments = inspect.signature(cls.__init__).parameters
    known = {name: part for name, part in parts.items() if name in arguments}
    how = {"config": str(folder.path), "dtype": common, "local_files_only": True}
    dispatch = checked_dispatch(folder, single_file_model.dispatch_model)
    with replaced(single_file_model, "dispatch_model", dispatch):
        pipe = cls.from_single_file(str(folder.single_file), **how, **known)
    for name, dtype in inside.items():
        require_filled(f"{folder.source}: {name}", getattr(pipe, name))
        if dtype != common:
            getattr(pipe, name).to(dtype)
    return pipe


def checked_dispatch(folder: Folder, dispatch: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap accelerate's dispatch_model to check for missing weights before it.

    diffusers dispatches a model with missing weights, and the error of torch then names no key.
    """

    def dispatched(model: nn.Module, *args: Any, **kwargs: Any) -> Any:
        require_filled(str(folder.source), model)
        return dispatch(model, *args, **kwargs)

    return dispatched


def loadable(folder: Folder, name: str) -> bool:
    """Return whether a component has its own files and a known class; diffusers opens others."""
    return not folder.components[name].original and component_class(folder, name) is not None


def component_class(folder: Folder, name: str) -> Any:
    """Return the model class that model_index.json names; None for an unknown one.

    Args:
        folder: the checked folder; its libraries may be pipelines of diffusers, too.
        name: the component.
    """
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
    """Open one component from the chosen variant of its files; UserError for missing keys."""
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
    """Check that every parameter has memory; from_single_file does not report those without."""
    require_keys(
        where, type(model).__name__, [key for key, p in model.named_parameters() if p.is_meta]
    )


def require_keys(where: str, cls: str, missing: list[str]) -> None:
    """Check that no keys are missing; UserError with the first ones."""
    if missing:
        raise UserError(
            f"{where}: its weights lack {shortened(missing)}, which {cls} needs; "
            "fetch them again, or check that the config fits the weights"
        )


def load_pipeline(
    folder: Folder, dtype: str | None = None, device: str | None = None, place: bool = True
) -> tuple[Any, dict[str, str]]:
    """Open a pipeline on its device, or for its device on the CPU.

    A CPU only emulates half precision, far slower and less exactly. There, weights stored in half
    precision are loaded in float32 unless `dtype` is given; `cast_` restores their format.

    Args:
        folder: the checked folder or single file.
        dtype: torch name of the dtype to load in; None loads in the stored one.
        device: torch name of the device; None selects cuda if present, else the CPU.
        place: whether to move it there.

    Returns:
        The pipeline, and the format of each component's weights to save it in.

    Raises:
        UserError: the pipeline can't be opened, or the device can't be used.
    """
    where = usable_device("device", device or default_device())
    formats = {
        name: dtype or tensors.dtype or "float32" for name, tensors in folder.components.items()
    }
    loaded = {name: loaded_format(where.type, f, dtype) for name, f in formats.items()}
    pipe = open_pipeline(folder, loaded)
    return pipe.to(where) if place else pipe, formats


def load_denoiser(folder: Folder, component: str) -> nn.Module:
    """Open the denoiser of a pipeline alone, on the device and in the format of `load_pipeline`.

    Args:
        folder: the checked folder or single file.
        component: name of the denoiser.

    Raises:
        UserError: it can't be opened.
    """
    if not loadable(folder, component):  # a single file is opened as a whole
        return getattr(load_pipeline(folder)[0], component)
    where = usable_device("device", default_device())
    dtype = loaded_format(where.type, folder.components[component].dtype)
    with named_refusals(folder):
        return load_component(folder, component, dtype).eval().to(where)


def default_device() -> str:
    """Return the kind of device on which a pipeline is opened unless another is asked for."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def loaded_format(device_type: str, stored: str | None, dtype: str | None = None) -> torch.dtype:
    """Return the number format that a component is loaded in.

    Args:
        device_type: the kind of device.
        stored: torch name of the format of its weights; None without any.
        dtype: torch name of the format that was asked for.
    """
    emulated = device_type == "cpu" and dtype is None
    return getattr(torch, "float32" if emulated else dtype or stored or "float32")
