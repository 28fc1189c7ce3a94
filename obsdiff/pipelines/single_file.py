"""A single-file checkpoint: one safetensors file in its authors' layout, and a folder of configs.

The folder (model_index.json, configs, tokenizers, scheduler) names the components of the file, so
no hub is contacted. Weights come from the file; a component that the file lacks, such as the text
encoders beside a transformer, comes from the folder's own safetensors files. Only the header is
read, without torch.
"""

import dataclasses
import math
import os
from pathlib import Path

from ..errors import UserError
from ..runtime.regular_files import require_regular
from .builtin import BUILTINS
from .config_sizes import check_config_sizes
from .denoisers import DENOISERS
from .folder import FUSE_FOLDER, Folder, open_folder
from .headers import Tensors, read_header, shortened
from .hub import find_model
from .single_file_marks import check_marks
from .strict_header import BITS, TensorInfo
from .weight_files import PICKLED

# prefixes of the components' tensors in the authors' layouts
DENOISER = ("model.diffusion_model.",)
EMA = ("model_ema.",)  # running means of the weights in some files
PARTS = {
    "vae": ("first_stage_model.", "vae."),
    "text_encoder": (
        "cond_stage_model.",
        "conditioner.embedders.0.transformer.",
        "text_encoders.clip_l.",
    ),
    "text_encoder_2": (
        "conditioner.embedders.1.",
        "conditioner.embedders.0.model.",
        "text_encoders.clip_g.",
    ),
    "text_encoder_3": (),
}
T5 = ("text_encoders.t5xxl.",)  # of the component with a T5 class, whatever its name
OPTIONAL = ("safety_checker",)


def open_model(
    model: str, config: Path | None = None, weights: bool = True, variant: str | None = None
) -> Folder:
    """Open and check a model.

    Args:
        model: a single file, or whatever find_model accepts.
        config: the folder with the configs of a single file.
        weights: whether the components of a folder need weights.
        variant: the variant of a folder's weights, such as fp16; None for plain files where there
            are any.

    Raises:
        UserError: the model is missing, incomplete or damaged, or `config` or `variant` is not
            applicable.
        RunFailed: a download broke off.
    """
    path = Path(model)
    if model not in BUILTINS and os.path.lexists(path) and not path.is_dir():
        require_regular(path)
        if variant is not None:
            raise UserError(f"variant: a single file has none; found {variant!r}; leave it out")
        return open_single_file(path, config)
    if config is not None:
        raise UserError(
            f"config: expected a single-file checkpoint, found {model}; leave --config out"
        )
    return open_folder(find_model(model, weights, variant), weights, variant)


def open_single_file(file: Path, config: Path | None) -> Folder:
    """Assign the tensors of a file to the components that its config folder names.

    Args:
        file: the checkpoint.
        config: the folder with its configs; required.

    Raises:
        UserError: the file is no whole model, or the folder does not fit.
    """
    check_suffix(file)
    header = read_header(file)
    if lora := next((tensor for tensor in header if "lora" in tensor.lower()), None):
        raise UserError(
            f"model: expected a whole model, found the LoRA {file} ({lora}); "
            f"load it into its pipeline and {FUSE_FOLDER}"
        )
    folder = open_configs(file, config)
    check_marks(file, header, folder.path)
    denoiser = next((name for name in DENOISERS if name in folder.components), None)
    if denoiser is None:
        raise UserError(
            f"config: {config} ({folder.pipeline}) has no denoiser: "
            f"expected a component named {' or '.join(DENOISERS)}"
        )
    # the denoiser first, so that its error is the one that is raised
    names = sorted(folder.components, key=lambda name: name != denoiser)
    components = {name: stored_part(file, header, folder, name, name == denoiser) for name in names}
    for name, tensors in components.items():
        check_config_sizes(folder.path / name / "config.json", tensors)
    found = {name: tensors for name, tensors in components.items() if tensors.shapes}
    left_out = (*folder.left_out, *(name for name in components if name not in found))
    return dataclasses.replace(folder, components=found, left_out=left_out, single_file=file)


def check_suffix(file: Path) -> None:
    """Check by its name that a file is a safetensors file; UserError if it is not."""
    kind = file.suffix.lower()
    expected = "model: expected a pipeline folder or a .safetensors file, found"
    if kind == ".gguf":
        raise UserError(
            f"{expected} the GGUF file {file}, whose weights are quantised; "
            "prune the unquantised pipeline, then quantise the result"
        )
    if kind in PICKLED:
        raise UserError(
            f"{expected} {file}, whose pickled weights can run code when opened; "
            "convert it to safetensors first"
        )
    if file.suffix != ".safetensors":
        raise UserError(f"{expected} the file {file}")


def open_configs(file: Path, config: Path | None) -> Folder:
    """Open the folder with the configs of a single file; UserError if there is none."""
    if config is None:
        raise UserError(
            f"config: the single-file checkpoint {file} needs a pipeline folder with its configs "
            "(model_index.json, config.json of each component, tokenizers, scheduler); "
            "pass --config FOLDER"
        )
    if not config.is_dir():
        raise UserError(
            f"config: expected a pipeline folder with the configs of {file}, "
            f"found {str(config)!r}, which is no folder"
        )
    return open_folder(config, weights=False)


def stored_part(
    file: Path, header: dict[str, TensorInfo], folder: Folder, name: str, is_denoiser: bool
) -> Tensors:
    """Return the tensors of one component: from the file, or else from the config folder.

    Args:
        file: the checkpoint.
        header: its header.
        folder: the folder with its configs.
        name: the component.
        is_denoiser: whether it is the denoiser, which must be in the file.

    Raises:
        UserError: neither has weights of the component.
    """
    prefixes = prefixes_of(folder, name, is_denoiser)
    inside = {
        tensor: info for tensor, info in header.items() if prefixes and tensor.startswith(prefixes)
    }
    if is_denoiser and not inside:
        inside = unprefixed(file, header, name)
    if inside:
        shapes = {tensor: tuple(info["shape"]) for tensor, info in inside.items()}
        formats = {tensor: info["dtype"] for tensor, info in inside.items()}
        size = sum(
            BITS[formats[tensor]] * math.prod(shape) // 8 for tensor, shape in shapes.items()
        )
        return Tensors(shapes, formats, size, (file,), original=True)
    own = folder.components[name]
    if own.shapes or name in OPTIONAL:
        return own
    looked = (
        f"no key begins with {' or '.join(prefixes)}"
        if prefixes
        else "single files hold no such component"
    )
    raise UserError(
        f"{file} has no weights for {name} ({looked}), and {folder.path / name} has no "
        ".safetensors file either; expected them in one of the two"
    )


def prefixes_of(folder: Folder, name: str, is_denoiser: bool) -> tuple[str, ...]:
    """Return the prefixes of a component's tensors; none for one that single files never hold."""
    if is_denoiser:
        return DENOISER
    return T5 if folder.classes[name][1].startswith("T5") else PARTS.get(name, ())


def unprefixed(file: Path, header: dict[str, TensorInfo], name: str) -> dict[str, TensorInfo]:
    """Return the tensors of a denoiser without prefix; UserError if no weight matrix is left."""
    others = (*EMA, *T5, *(prefix for part in PARTS.values() for prefix in part))
    inside = {tensor: info for tensor, info in header.items() if not tensor.startswith(others)}
    if not any(
        tensor.endswith(".weight") and len(info["shape"]) > 1 for tensor, info in inside.items()
    ):
        found = f"found {shortened(sorted(header))}" if header else "it is empty"
        raise UserError(
            f"{file} holds no {name}: expected a model's weights, such as {DENOISER[0]}...; {found}"
        )
    return inside
