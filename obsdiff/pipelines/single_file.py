"""A single-file checkpoint: one safetensors file in the layout of the model's authors, and a pipeline folder with the configs.

The folder (model_index.json, configs, tokenizers, scheduler) says what the file holds, so no hub is asked. The file's weights
count; what it lacks, such as the text encoders of a file with a transformer alone, comes from the folder's own safetensors.
Read by its header, without torch.
"""

import dataclasses
import math
from pathlib import Path

from ..errors import UserError
from .builtin import BUILTINS
from .denoisers import DENOISERS
from .folder import FUSE_FOLDER, Folder, find_model, open_folder
from .headers import BYTES, PICKLED, Tensors, read_header, shortened

DENOISER = ("model.diffusion_model.",)
EMA = ("model_ema.",)  # a running mean that some files carry beside the weights
# where the authors' files keep the other components
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
T5 = ("text_encoders.t5xxl.",)  # under whichever name the pipeline has it
OPTIONAL = ("safety_checker",)


def open_model(model: str, config: Path | None = None, weights: bool = True) -> Folder:
    """MODEL, checked: a single file with its config folder, or what find_model finds."""
    path = Path(model)
    if model not in BUILTINS and path.is_file():
        return open_single_file(path, config)
    if config is not None:
        raise UserError(
            f"config: goes with a single-file checkpoint, but {model} is none; leave --config out"
        )
    return open_folder(find_model(model), weights)


def open_single_file(file: Path, config: Path | None) -> Folder:
    """The file's tensors, sorted into the components that the config folder names."""
    check_kind(file)
    header = read_header(file)
    if lora := next((tensor for tensor in header if "lora" in tensor.lower()), None):
        raise UserError(
            f"model: expected a whole model, found the LoRA {file} ({lora}); load it into its pipeline and {FUSE_FOLDER}"
        )
    if config is None:
        raise UserError(
            f"config: the single-file checkpoint {file} needs a pipeline folder with its configs (model_index.json, config.json of each component, "
            "tokenizers, scheduler); give --config FOLDER"
        )
    if not config.is_dir():
        raise UserError(
            f"config: expected a pipeline folder with the configs of {file}, found {str(config)!r}, which is no folder"
        )
    folder = open_folder(config, weights=False)
    denoiser = next((name for name in DENOISERS if name in folder.components), None)
    if denoiser is None:
        raise UserError(
            f"config: {config} ({folder.pipeline}) has no denoiser: expected a component named {' or '.join(DENOISERS)}"
        )
    names = sorted(
        folder.components, key=lambda name: name != denoiser
    )  # its complaint comes first
    components = {name: stored_part(file, header, folder, name, name == denoiser) for name in names}
    found = {name: tensors for name, tensors in components.items() if tensors.shapes}
    left_out = (*folder.left_out, *(name for name in components if name not in found))
    return dataclasses.replace(folder, components=found, left_out=left_out, single_file=file)


def check_kind(file: Path) -> None:
    """UserError for a file that is no safetensors file, by its name."""
    kind = file.suffix.lower()
    if kind == ".gguf":
        raise UserError(
            f"model: expected a pipeline folder or a .safetensors file, found the GGUF file {file}, whose weights are quantised; "
            "prune the unquantised pipeline, then quantise the result"
        )
    if kind in PICKLED:
        raise UserError(
            f"model: expected a pipeline folder or a .safetensors file, found {file}, whose pickled weights can run code when opened; "
            "convert it to safetensors first"
        )
    if file.suffix != ".safetensors":
        raise UserError(
            f"model: expected a pipeline folder or a .safetensors file, found the file {file}"
        )


def stored_part(
    file: Path, header: dict[str, dict], folder: Folder, name: str, is_denoiser: bool
) -> Tensors:
    """Tensors of one component: those of the file, else, but not for the denoiser, the config folder's own. UserError if there are
    none."""
    prefixes = (
        DENOISER
        if is_denoiser
        else T5
        if folder.classes[name][1].startswith("T5")
        else PARTS.get(name, ())
    )
    inside = {
        tensor: info for tensor, info in header.items() if prefixes and tensor.startswith(prefixes)
    }
    if is_denoiser and not inside:
        others = (*EMA, *T5, *(prefix for part in PARTS.values() for prefix in part))
        inside = {tensor: info for tensor, info in header.items() if not tensor.startswith(others)}
        if not any(
            tensor.endswith(".weight") and len(info["shape"]) > 1 for tensor, info in inside.items()
        ):
            found = f"found {shortened(sorted(header))}" if header else "it is empty"
            raise UserError(
                f"{file} holds no {name}: expected a model's weights, such as {DENOISER[0]}...; {found}"
            )
    if inside:
        shapes = {tensor: tuple(info["shape"]) for tensor, info in inside.items()}
        formats = {tensor: info["dtype"] for tensor, info in inside.items()}
        size = sum(
            BYTES.get(formats[tensor], 0) * math.prod(shape) for tensor, shape in shapes.items()
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
        f"{file} has no weights for {name} ({looked}), and {folder.path / name} has no .safetensors file either; expected them in one of the two"
    )
