"""What lies in a pipeline's folder, read without torch: so that bad input is refused before anything heavy is loaded.

Only JSON and the headers of safetensors files are read. A component that has nothing but pickled weights is refused:
unpickling runs code.
"""

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..config.values import did_you_mean
from ..errors import UserError
from ..runtime.json_files import read_json
from .builtin import BUILTINS, builtin_path
from .denoisers import DENOISERS
from .headers import Tensors, read_component

FUSE_FOLDER = "call pipe.fuse_lora(); pipe.unload_lora_weights(); pipe.save_pretrained(FOLDER), then prune FOLDER"


@dataclass(frozen=True)
class Folder:
    """A diffusers pipeline on disk: its class, its components' JSON and tensors."""

    path: Path
    pipeline: str
    components: dict[str, Tensors]
    left_out: tuple[str, ...] = ()  # components that model_index.json declares as null
    classes: dict[str, tuple[str, str]] = field(
        default_factory=dict
    )  # library and class of each component
    single_file: Path | None = (
        None  # holds the weights, in its authors' layout; `path` has the configs
    )

    @property
    def source(self) -> Path:
        """Where the model comes from, as the user named it."""
        return self.single_file or self.path

    def denoiser(self, component: str | None) -> str:
        """Name of the component to prune, or a UserError that says which there are."""
        if component is not None and component not in self.components:
            raise UserError(
                f"component: {self.source} has {', '.join(self.components)}; found {component!r}"
            )
        self.require_unquantised()
        for name in (component,) if component else DENOISERS:
            if name in self.components:
                return name
        raise UserError(
            f"{self.source} ({self.pipeline}) has no denoiser: expected a component named {' or '.join(DENOISERS)}, found {', '.join(self.components) or 'none'}"
        )

    def notes(self) -> list[str]:
        """What was chosen where there was a choice of files, in words."""
        chosen: dict[tuple[str | None, tuple[str, ...]], list[str]] = {}
        for name, tensors in self.components.items():
            if tensors.variants:
                chosen.setdefault((tensors.variant, tensors.variants), []).append(name)
        lines = []
        for (variant, variants), names in chosen.items():
            others = " and ".join(v for v in variants if v != variant)
            what = f"{self.source}: takes the {variant or 'plain'} files of {', '.join(names)}"
            lines.append(
                what + (f"; there are {others} files, too" if others else "; there are no others")
            )
        return lines + (self.single_file_notes() if self.single_file else [])

    def single_file_notes(self) -> list[str]:
        """Which components the single file does not hold, in words."""
        own = [name for name, tensors in self.components.items() if not tensors.original]
        without = [name for name in self.left_out if (self.path / name).is_dir()]
        taken = [f"{self.source}: holds no {', '.join(own)}: taken from {self.path}"] if own else []
        return taken + (
            [
                f"{self.source}: holds no {', '.join(without)}, and {self.path} has no weights: left out"
            ]
            if without
            else []
        )

    def require_text(self) -> None:
        """UserError for a pipeline whose text encoders are all declared as missing."""
        absent = [name for name in self.left_out if name.startswith("text_encoder")]
        if absent and not any(name.startswith("text_encoder") for name in self.components):
            raise UserError(
                f"prompts: {self.source} ({self.pipeline}) has no {' and no '.join(absent)}, so it reads no text; "
                "expected a pipeline with its text encoder; from Python, prune_ takes dicts with prompt_embeds"
            )

    def require_unquantised(self) -> None:
        """UserError for a component whose config or stored formats say that it is quantised."""
        for name, tensors in self.components.items():
            declared = self.config(name).get("quantization_config")
            packed = tensors.packed
            if declared or packed:
                method = declared.get("quant_method") if isinstance(declared, dict) else declared
                found = (
                    f"quantization_config of {method!r} in its config.json"
                    if declared
                    else f"{tensors.formats[packed]} in {packed}"
                )
                where = self.source if tensors.original and not declared else self.path / name
                raise UserError(
                    f"{where}: expected unquantised weights, found {found}; prune the unquantised pipeline, then quantise the result"
                )

    def config(self, component: str) -> dict[str, Any]:
        return read_json(self.path / component / "config.json")


def find_model(model: str) -> Path:
    """The folder of MODEL: a built-in name, a folder, or a hub id (downloaded, safetensors and JSON only)."""
    if model in BUILTINS:
        return builtin_path(model)
    path = Path(model)
    if path.is_dir():
        return path
    if path.exists():
        raise UserError(f"model: expected a pipeline folder, found the file {path}")
    if re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", model):
        return download(model)
    raise UserError(
        f"model: no folder and no built-in model is named {model!r}; "
        f"built-in: {', '.join(BUILTINS)}{did_you_mean(model, BUILTINS)}"
    )


def download(hub_id: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(
            snapshot_download(
                hub_id,
                allow_patterns=["*.json", "*.safetensors", "*.txt", "*.model"],
                etag_timeout=5,
            )
        )
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UserError(
            f"model: {hub_id!r} is no folder here, and the hub did not give it: {reason[:160]}"
        ) from None


def open_folder(path: Path, weights: bool = True) -> Folder:
    """Read and check a pipeline folder; UserError names what is wrong with it. Without `weights` a component may have none: its
    config.json is enough to count it."""
    index_file = path / "model_index.json"
    if not index_file.is_file():
        lora = path / "pytorch_lora_weights.safetensors"
        what = (
            f"it has {lora.name} alone, a LoRA; load it into its pipeline and {FUSE_FOLDER}"
            if lora.is_file()
            else "it has no model_index.json"
        )
        raise UserError(f"{path} is no diffusers pipeline: {what}")
    index = read_json(index_file)
    pipeline = index.get("_class_name")
    if not isinstance(pipeline, str):
        raise UserError(
            f"{index_file}: expected a pipeline class in _class_name, found {pipeline!r}"
        )
    components, classes, left_out = {}, {}, []
    for name, value in index.items():
        if name.startswith("_") or not isinstance(value, list):
            continue
        if value[:1] == [None]:
            left_out.append(name)
            continue
        folder = path / name
        if not re.fullmatch(r"\w{1,100}", name) or not folder.is_dir():
            raise UserError(
                f"{path}: model_index.json names the component {name!r}, but there is no such folder"
            )
        if not any(folder.iterdir()):
            raise UserError(
                f"{folder} is empty, but model_index.json names this component; fetch the pipeline again"
            )
        if (folder / "config.json").is_file():
            if len(value) != 2 or not all(isinstance(part, str) for part in value):
                raise UserError(
                    f"{index_file}: expected [library, class] for {name}, found {value!r}"
                )
            components[name], classes[name] = read_component(folder, weights), tuple(value)
    return Folder(path, pipeline, components, tuple(left_out), classes)


def read_prompts(file: Path) -> list[str]:
    """Prompts of a UTF-8 text file, one a line; empty lines don't count."""
    try:
        lines = file.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise UserError(
            f"prompts: {file} is not UTF-8: byte {error.start} is {error.object[error.start]:#04x}; save it as UTF-8"
        ) from None
    except OSError as error:
        raise UserError(f"prompts: {file} can't be read: {error.strerror}") from None
    prompts = [line.strip() for line in lines if line.strip()]
    if not prompts:
        raise UserError(f"prompts: {file} has no prompt: expected one a line")
    return prompts
