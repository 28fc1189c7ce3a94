"""A diffusers pipeline on disk, checked without torch, before anything heavy is loaded.

Only JSON and the headers of safetensors files are read. A component with pickled weights alone is
refused, because unpickling runs code.
"""

import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..errors import UserError
from ..models.own_names import BITMASK_KEY, unpacked_config
from ..runtime.json_files import read_json
from ..runtime.regular_files import require_regular_inside
from .bitmask_headers import as_dense
from .config_sizes import check_config_sizes
from .denoisers import DENOISERS
from .finite_configs import require_finite, require_finite_files
from .headers import Tensors, read_component, shortened
from .own_code import (
    is_class_name,
    require_known_class,
    require_own_code,
    require_own_code_files,
)
from .pipeline_arguments import taken_components
from .prompt_files import read_prompts as read_prompts
from .vocabularies import require_vocabularies
from .weight_files import stem_of, unknown_variant

FUSE_FOLDER = (
    "call pipe.fuse_lora(); pipe.unload_lora_weights(); pipe.save_pretrained(FOLDER), "
    "then prune FOLDER"
)


@dataclass(frozen=True)
class Folder:
    """A diffusers pipeline on disk.

    Attributes:
        path: the folder with model_index.json.
        pipeline: name of the pipeline's class.
        components: tensors of each component that has a config.json, by the component's name.
        left_out: components that model_index.json declares as null.
        classes: library and class of each component.
        ignored: components that model_index.json names and the pipeline's class does not take.
        single_file: a checkpoint that holds the weights, in its authors' layout; `path` then has
            the configs.
    """

    path: Path
    pipeline: str
    components: dict[str, Tensors]
    left_out: tuple[str, ...] = ()
    classes: dict[str, tuple[str, str]] = field(default_factory=dict)
    single_file: Path | None = None
    ignored: tuple[str, ...] = ()

    @property
    def source(self) -> Path:
        """The path of the model, as the user gave it."""
        return self.single_file or self.path

    def denoiser(self, component: str | None, plain: bool = True) -> str:
        """Return the name of the component to prune.

        Args:
            component: a component's name; None selects the first of DENOISERS that is present.
            plain: whether no component may be quantised; to draw, any may be.

        Raises:
            UserError: there is no such component, no denoiser, or the weights are quantised.
        """
        if component is not None and component not in self.components:
            raise UserError(
                f"component: {self.source} has {', '.join(self.components)}; found {component!r}"
            )
        if plain:
            self.require_unquantised()
        for name in (component,) if component else DENOISERS:
            if name in self.components:
                return name
        raise UserError(
            f"{self.source} ({self.pipeline}) has no denoiser: expected a component named "
            f"{' or '.join(DENOISERS)}, found {', '.join(self.components) or 'none'}"
        )

    def notes(self) -> list[str]:
        """Return the choices among several sets of files, one line each."""
        chosen: dict[tuple[str | None, tuple[str, ...]], list[str]] = {}
        for name, tensors in self.components.items():
            if tensors.variants:
                chosen.setdefault((tensors.variant, tensors.variants), []).append(name)
        lines = []
        for (variant, variants), names in chosen.items():
            others = " and ".join(v for v in variants if v != variant)
            what = f"{self.source}: uses the {variant or 'plain'} files of {', '.join(names)}"
            lines.append(
                what + (f"; there are {others} files, too" if others else "; there are no others")
            )
        if self.ignored:
            lines.append(
                f"{self.path}: {', '.join(self.ignored)} left alone: {self.pipeline} takes no such "
                "component"
            )
        lines += [
            f"{self.path / name}: {shortened(tensors.strays)} not read: none of its weights"
            for name, tensors in self.components.items()
            if tensors.strays
        ]
        return lines + (self.single_file_notes() if self.single_file else [])

    def single_file_notes(self) -> list[str]:
        """Return which components the single file lacks, one line each."""
        own = [name for name, tensors in self.components.items() if not tensors.original]
        without = [name for name in self.left_out if (self.path / name).is_dir()]
        lines = []
        if own:
            lines.append(f"{self.source}: holds no {', '.join(own)}: taken from {self.path}")
        if without:
            lines.append(
                f"{self.source}: holds no {', '.join(without)}, and {self.path} has no weights: "
                "left out"
            )
        return lines

    def require_text(self) -> None:
        """Check that the pipeline has a text encoder; UserError if all are declared as null."""
        absent = [name for name in self.left_out if name.startswith("text_encoder")]
        if absent and not any(name.startswith("text_encoder") for name in self.components):
            raise UserError(
                f"prompts: {self.source} ({self.pipeline}) has no {' and no '.join(absent)}, "
                "so it reads no text; expected a pipeline with its text encoder; "
                "from Python, prune_ accepts dicts with prompt_embeds"
            )

    def require_unquantised(self) -> None:
        """Check that no component is quantised, by its config or its stored formats.

        Raises:
            UserError: a component is quantised.
        """
        for name, tensors in self.components.items():
            declared = self.config(name).get("quantization_config")
            packed = tensors.packed
            if declared:
                method = declared.get("quant_method") if isinstance(declared, dict) else declared
                found = f"quantization_config of {method!r} in its config.json"
            elif packed:
                found = f"{tensors.formats[packed]} in {packed}"
            else:
                continue
            where = self.source if tensors.original and not declared else self.path / name
            raise UserError(
                f"{where}: expected unquantised weights, found {found}; "
                "prune the unquantised pipeline, then quantise the result"
            )

    def require_unpacked(self) -> None:
        """Check that every component has plain weights; UserError for zeros stored as bitmasks."""
        for name, tensors in self.components.items():
            if tensors.bitmasks or BITMASK_KEY in read_json(self.path / name / "config.json"):
                raise UserError(
                    f"{self.path / name}: expected plain weights, found zeros as bitmasks; "
                    f"run: obsdiff unpack {self.path} --output OUT"
                )

    def require_unrounded(self) -> None:
        """Check that no component has rounded weights; UserError with the remedy."""
        for name in self.components:
            if self.config(name).get("quantization_config"):
                raise UserError(
                    f"{self.path / name}: expected weights that are not rounded, found a "
                    "quantization_config in its config.json; use the same pruning without bits"
                )

    def config(self, component: str) -> dict[str, Any]:
        """Read config.json of a component; of a packed one as it is with plain weights."""
        return unpacked_config(read_json(self.config_file(component)))

    def config_file(self, component: str) -> Path:
        """Return the config.json of a component."""
        return self.path / component / "config.json"


def open_folder(path: Path, weights: bool = True, variant: str | None = None) -> Folder:
    """Read and check a pipeline folder.

    Args:
        path: the folder.
        weights: whether every component needs weights; if not, its config.json is enough.
        variant: the variant of the weights to use where a component has it; None for plain files
            where there are any.

    Raises:
        UserError: the folder is no pipeline, incomplete or damaged; the message names the part.
    """
    file = path / "model_index.json"
    if not os.path.lexists(file):
        lora = path / "pytorch_lora_weights.safetensors"
        what = (
            f"it has {lora.name} alone, a LoRA; load it into its pipeline and {FUSE_FOLDER}"
            if lora.is_file()
            else "it has no model_index.json"
        )
        raise UserError(f"{path} is no diffusers pipeline: {what}")
    index = read_json(file)
    pipeline = index.get("_class_name")
    if not isinstance(pipeline, str) or not is_class_name(pipeline):
        raise UserError(f"{file}: expected a pipeline class in _class_name, found {pipeline!r:.80}")
    require_own_code(index, str(file))
    require_finite(index, str(file))
    named, ignored = named_components(index, file)
    folders = {n: component_folder(path, n) for n, value in named.items() if value[0] is not None}
    for name in folders:
        require_known_class(file, name, named[name])
    require_own_code_files(folders.values())
    require_vocabularies((folder, named[name][1]) for name, folder in folders.items())
    require_finite_files(folders.values())
    components: dict[str, Tensors] = {}
    classes: dict[str, tuple[str, str]] = {}
    for name, folder in folders.items():
        if (folder / "config.json").is_file():
            stem = stem_of(named[name][0], folder)
            stored = read_component(folder, stem, weights, variant)
            check_config_sizes(folder / "config.json", stored)
            components[name] = as_dense(folder, stored)
            classes[name] = (named[name][0], named[name][1])
    require_variant(components, variant)
    left_out = tuple(name for name in named if name not in folders)
    return Folder(path, pipeline, components, left_out, classes, ignored=ignored)


def named_components(
    index: dict[str, Any], file: Path
) -> tuple[dict[str, list[Any]], tuple[str, ...]]:
    """Return the components that a model_index.json names, and those that its class does not take.

    diffusers ignores what the class does not take.

    Args:
        index: the contents of the file.
        file: the file, for the message.

    Returns:
        The entries of the components that the class takes, or of all if the class is not known;
        and the names of the others that have a class.

    Raises:
        UserError: a name is no name of a component.
    """
    named = {n: v for n, v in index.items() if not n.startswith("_") and isinstance(v, list) and v}
    for name in named:
        if not re.fullmatch(r"\w{1,100}", name):
            raise UserError(f"{file}: expected the names of components, found {name!r:.80}")
    taken = taken_components(index["_class_name"])
    if taken is None:
        return named, ()
    ignored = (name for name, value in named.items() if name not in taken and value[0] is not None)
    return {name: value for name, value in named.items() if name in taken}, tuple(ignored)


def require_variant(components: dict[str, Tensors], variant: str | None) -> None:
    """Check that a variant is there, unless no component has weights.

    Args:
        components: tensors of each component.
        variant: the variant that was asked for, or None.

    Raises:
        UserError: no component has the variant.
    """
    stored = [tensors for tensors in components.values() if tensors.files]
    if variant and stored and not any(variant == tensors.variant for tensors in stored):
        raise unknown_variant(variant, {v for tensors in stored for v in tensors.variants})


def component_folder(path: Path, name: str) -> Path:
    """Return the folder of a component that model_index.json names; UserError if it is empty."""
    folder = path / name
    if not folder.is_dir():
        raise UserError(
            f"{path}: model_index.json names the component {name!r}, but there is no such folder"
        )
    require_regular_inside(folder)
    if not any(folder.iterdir()):
        raise UserError(
            f"{folder} is empty, but model_index.json names this component; "
            "fetch the pipeline again"
        )
    return folder
