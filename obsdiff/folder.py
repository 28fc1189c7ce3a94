"""What lies in a pipeline's folder, read without torch: so that bad input is refused before anything heavy is loaded.

Only JSON and the headers of safetensors files are read. A component that has nothing but pickled weights is refused:
unpickling runs code.
"""

import json
import re
import struct
import tempfile
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .builtin import BUILTINS, builtin_path
from .errors import UserError

DENOISERS = ("transformer", "unet")
PICKLED = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
DTYPES = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}
BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1, "F8_E4M3": 1, "F8_E5M2": 1}


@dataclass(frozen=True)
class Tensors:
    """Names, shapes and stored formats of one component's tensors, from its safetensors headers."""

    shapes: dict[str, tuple[int, ...]]
    formats: dict[str, str] = field(default_factory=dict)
    size: int = 0  # bytes on disk
    files: tuple[Path, ...] = ()

    @property
    def dtype(self) -> str | None:
        """The format most parameters are stored in, as torch names it."""
        counts: Counter = Counter()
        for name, shape in self.shapes.items():
            if self.formats[name] in DTYPES:
                counts[DTYPES[self.formats[name]]] += elements(shape)
        return counts.most_common(1)[0][0] if counts else None

    @property
    def linears(self) -> dict[str, tuple[int, int]]:
        """Layer name -> (O, I) of every matrix called weight."""
        return {name.removesuffix(".weight"): s for name, s in self.shapes.items() if name.endswith(".weight") and len(s) == 2}

    def layers(self, target: str) -> dict[str, tuple[int, int]]:
        """The linears and, for target conv, every convolution (O, C, kh, kw) as its matrix (O, C kh kw)."""
        sides = (2, 4) if target == "conv" else (2,)
        return {n.removesuffix(".weight"): (s[0], elements(s[1:])) for n, s in self.shapes.items() if n.endswith(".weight") and len(s) in sides}


@dataclass(frozen=True)
class Folder:
    """A diffusers pipeline on disk: its class, its components' JSON and tensors."""

    path: Path
    pipeline: str
    variant: str | None
    components: dict[str, Tensors]
    left_out: tuple[str, ...] = ()  # components that model_index.json declares as null

    def denoiser(self, component: str | None) -> str:
        """Name of the component to prune, or a UserError that says which there are."""
        if component is not None and component not in self.components:
            raise UserError(f"component: {self.path} has {', '.join(self.components)}; found {component!r}")
        self.require_unquantised()
        for name in (component,) if component else DENOISERS:
            if name in self.components:
                return name
        raise UserError(
            f"{self.path} ({self.pipeline}) has no denoiser: expected a component named {' or '.join(DENOISERS)}, found {', '.join(self.components) or 'none'}"
        )

    def require_unquantised(self) -> None:
        """UserError for a component whose config or stored formats say that it is quantised."""
        for name, tensors in self.components.items():
            declared = self.config(name).get("quantization_config")
            packed = next((layer for layer in tensors.linears if tensors.formats[f"{layer}.weight"] not in DTYPES), None)
            if declared or packed:
                method = declared.get("quant_method") if isinstance(declared, dict) else declared
                found = f"quantization_config of {method!r} in its config.json" if declared else f"{tensors.formats[f'{packed}.weight']} in {packed}.weight"
                raise UserError(f"{self.path / name}: expected unquantised weights, found {found}; prune the unquantised pipeline, then quantise the result")

    def config(self, component: str) -> dict[str, Any]:
        return read_json(self.path / component / "config.json")


def elements(shape: tuple[int, ...]) -> int:
    count = 1
    for side in shape:
        count *= side
    return count


def find_model(model: str) -> Path:
    """The folder of MODEL: a built-in name, a folder, or a hub id (downloaded, safetensors and JSON only)."""
    if model in BUILTINS:
        return builtin_path(model)
    path = Path(model)
    if path.is_dir():
        return path
    if path.exists():
        raise UserError(f"model: expected a pipeline folder, found {single_file(path)}")
    if re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", model):
        return download(model)
    raise UserError(f"model: no folder and no built-in model is named {model!r}; built-in: {', '.join(BUILTINS)}")


def single_file(path: Path) -> str:
    """What a file given as MODEL is, and what to do about it."""
    if path.suffix.lower() == ".gguf":
        return f"the GGUF file {path}, whose weights are quantised; prune the unquantised pipeline folder, then quantise the result"
    if path.suffix.lower() in (".safetensors", *PICKLED):
        return f"the single-file checkpoint {path}; turn it into a folder with the pipeline class's from_single_file(...).save_pretrained(FOLDER)"
    return f"the file {path}"


def download(hub_id: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(hub_id, allow_patterns=["*.json", "*.safetensors", "*.txt", "*.model"], etag_timeout=5))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UserError(f"model: {hub_id!r} is no folder here, and the hub did not give it: {reason[:160]}") from None


def open_folder(path: Path, weights: bool = True) -> Folder:
    """Read and check a pipeline folder; UserError names what is wrong with it. Without `weights` a component may have none: its
    config.json is enough to count it."""
    index_file = path / "model_index.json"
    if not index_file.is_file():
        raise UserError(f"{path} is no diffusers pipeline: it has no model_index.json")
    index = read_json(index_file)
    pipeline = index.get("_class_name")
    if not isinstance(pipeline, str):
        raise UserError(f"{index_file}: expected a pipeline class in _class_name, found {pipeline!r}")
    components, variants, left_out = {}, set(), []
    for name, value in index.items():
        if name.startswith("_") or not isinstance(value, list):
            continue
        if value[:1] == [None]:
            left_out.append(name)
            continue
        folder = path / name
        if not re.fullmatch(r"\w+", name) or not folder.is_dir():
            raise UserError(f"{path}: model_index.json names the component {name!r}, but there is no such folder")
        if not any(folder.iterdir()):
            raise UserError(f"{folder} is empty, but model_index.json names this component; fetch the pipeline again")
        if (folder / "config.json").is_file():
            components[name], variant = read_component(folder, weights)
            variants.add(variant)
    return Folder(path, pipeline, next((v for v in sorted(variants, key=str) if v), None), components, tuple(left_out))


def read_component(folder: Path, weights: bool = True) -> tuple[Tensors, str | None]:
    """Tensors of one component and the variant ("fp16") its files carry, None for the plain ones."""
    files = sorted(folder.glob("*.safetensors"))
    if not files and not weights:
        return Tensors({}), None
    if not files:
        pickles = [f.name for f in folder.iterdir() if f.suffix in PICKLED]
        if pickles:
            raise UserError(
                f"{folder} has only pickled weights ({pickles[0]}), which can run code when opened; convert them first with save_pretrained(..., safe_serialization=True)"
            )
        raise UserError(f"{folder} has no weights: expected .safetensors files")
    plain = [f for f in files if not variant_of(f)]
    variant = None if plain else variant_of(files[0])
    shapes: dict[str, tuple[int, ...]] = {}
    formats: dict[str, str] = {}
    chosen = plain or [f for f in files if variant_of(f) == variant]
    for file in chosen:
        for name, info in read_header(file).items():
            shapes[name], formats[name] = tuple(info["shape"]), info["dtype"]
    return Tensors(shapes, formats, sum(f.stat().st_size for f in chosen), tuple(chosen)), variant


def variant_of(file: Path) -> str | None:
    """ "fp16" of model.fp16.safetensors and model.fp16-00001-of-00002.safetensors."""
    found = re.fullmatch(r"[^.]+\.(\w+?)(-\d+-of-\d+)?\.safetensors", file.name)
    return found[1] if found else None


def read_header(file: Path) -> dict[str, dict]:
    """Header of a safetensors file, checked against the file's length: {tensor: {"dtype", "shape", "data_offsets"}}."""
    size = file.stat().st_size
    with file.open("rb") as handle:
        start = handle.read(8)
        length = struct.unpack("<Q", start)[0] if len(start) == 8 else 0
        if not 2 <= length <= min(size - 8, 100_000_000):
            raise UserError(f"{file} is no whole safetensors file: its header does not fit into its {size} bytes; fetch it again")
        raw = handle.read(length)
    try:
        header = json.loads(raw)
        tensors = {name: info for name, info in header.items() if name != "__metadata__"}
        end = max((check_tensor(info) for info in tensors.values()), default=0)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        raise UserError(f"{file} is no safetensors file: its header can't be read; fetch it again") from None
    if 8 + length + end != size:
        raise UserError(f"{file} is cut off or damaged: its header promises {8 + length + end} bytes, found {size}; fetch it again")
    return tensors


def check_tensor(info: dict) -> int:
    """Where the tensor's bytes end; ValueError if its entry makes no sense."""
    begin, end = info["data_offsets"]
    shape = info["shape"]
    if not all(type(x) is int and x >= 0 for x in (begin, end, *shape)) or begin > end:
        raise ValueError("offsets")
    if info["dtype"] in BYTES and BYTES[info["dtype"]] * elements(shape) != end - begin:
        raise ValueError("size")
    return end


def read_json(file: Path) -> dict[str, Any]:
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{file} is missing") from None
    except (ValueError, RecursionError, OSError) as error:
        raise UserError(f"{file} can't be read as JSON: {error}") from None
    if not isinstance(value, dict):
        raise UserError(f"{file}: expected a JSON object, found {type(value).__name__}")
    return value


def read_prompts(file: Path) -> list[str]:
    """Prompts of a UTF-8 text file, one a line; empty lines don't count."""
    try:
        lines = file.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise UserError(f"prompts: {file} is not UTF-8: byte {error.start} is {error.object[error.start]:#04x}; save it as UTF-8") from None
    except OSError as error:
        raise UserError(f"prompts: {file} can't be read: {error.strerror}") from None
    prompts = [line.strip() for line in lines if line.strip()]
    if not prompts:
        raise UserError(f"prompts: {file} has no prompt: expected one a line")
    return prompts


def check_output(output: Path, overwrite: bool) -> None:
    """UserError unless `output` can be made (and, if it exists, may be replaced)."""
    if output.name in ("", ".."):
        raise UserError(f"output: expected the name of a folder, found {str(output)!r}")
    if output.is_file():
        raise UserError(f"output: {output} is a file; choose another name")
    if (output.exists() or output.is_symlink()) and not overwrite:
        raise UserError(f"output: {output} exists already; choose another, or give --overwrite to replace it")
    parent = output.absolute().parent
    while not parent.exists():
        parent = parent.parent
    if not parent.is_dir():
        raise UserError(f"output: {output} can't be written: {parent} is a file")
    try:
        Path(tempfile.mkdtemp(prefix=".obsdiff-", dir=parent)).rmdir()
    except OSError as error:
        raise UserError(f"output: {output} can't be written: {error.strerror} in {parent}") from None
