"""Which files of a component are its weights: those that its library loads, by their names.

transformers loads model.safetensors, or the shards that model.safetensors.index.json names;
diffusers the index of diffusion_pytorch_model.safetensors first, then that file. A variant has its
name before the ending: model.fp16.safetensors. Any other file, such as a backup, is none of the
weights. Imports no torch.
"""

import os
import re
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path

from ..errors import UserError
from ..runtime.json_files import read_json
from ..runtime.regular_files import require_regular

TRANSFORMERS = "model"  # beginning of the names of a component of transformers
DIFFUSERS = "diffusion_pytorch_model"
STEMS = {"transformers": TRANSFORMERS, "diffusers": DIFFUSERS, "obsdiff": DIFFUSERS}
ENDING = ".safetensors"
FETCH = "fetch the pipeline again"
PICKLED = (".bin", ".pt", ".pth", ".ckpt", ".pkl")


@dataclass
class Listing:
    """The files of a folder that may be weights, by their variant; None: the plain ones.

    Attributes:
        whole: the name of a single file.
        index: the name of an index of shards.
        shards: names of shards.
        strays: names of other safetensors files.
    """

    whole: dict[str | None, str] = field(default_factory=dict)
    index: dict[str | None, str] = field(default_factory=dict)
    shards: dict[str | None, list[str]] = field(default_factory=dict)
    strays: list[str] = field(default_factory=list)

    @property
    def variants(self) -> set[str | None]:
        """The variants that have any file; None stands for plain files."""
        return {*self.whole, *self.index, *self.shards}


@dataclass(frozen=True)
class WeightFiles:
    """The weights of a component.

    Attributes:
        files: a single file, or all shards.
        variant: their variant, such as fp16; None for plain ones.
        variants: all variants in the folder.
        strays: names of safetensors files that are none of the weights.
        index: the index of the shards; None for a single file.
        promised: the file of each tensor that the index names.
    """

    files: tuple[Path, ...] = ()
    variant: str | None = None
    variants: tuple[str, ...] = ()
    strays: tuple[str, ...] = ()
    index: Path | None = None
    promised: dict[str, str] = field(default_factory=dict)


def stem_of(library: str, folder: Path) -> str:
    """Return the beginning of the names of a component's weights.

    Args:
        library: the library of its class in model_index.json; a pipeline's name for its own parts.
        folder: its folder; the configs of diffusers alone have _class_name.
    """
    if library in STEMS:
        return STEMS[library]
    return DIFFUSERS if "_class_name" in read_json(folder / "config.json") else TRANSFORMERS


def listing(folder: Path, stem: str) -> Listing:
    """Sort the names in a folder by what they are; hidden files are left out."""
    found = Listing()
    variant = r"(?:\.(?P<variant>\w+))?"
    for name in sorted(os.listdir(folder)):
        if whole := re.fullmatch(rf"{stem}{variant}\.safetensors", name):
            found.whole[whole["variant"]] = name
        elif index := re.fullmatch(rf"{stem}\.safetensors\.index{variant}\.json", name):
            found.index[index["variant"]] = name
        elif shard := re.fullmatch(
            rf"{stem}{variant}-\d+-of-\d+(?:\.(?P<after>\w+))?\.safetensors", name
        ):
            found.shards.setdefault(shard["variant"] or shard["after"], []).append(name)
        elif name.endswith(ENDING) and not name.startswith("."):
            found.strays.append(name)
    return found


def weight_files(folder: Path, stem: str, wanted: str | None = None) -> WeightFiles | None:
    """Return the weights of a component, plain before any variant; None if there are none.

    Args:
        folder: the component's folder.
        stem: the beginning of their names.
        wanted: the variant to use if it is there.

    Raises:
        UserError: a shard or the index is missing, or the index can't be read.
    """
    found = listing(folder, stem)
    if not found.variants:
        return None
    variants = tuple(sorted(variant for variant in found.variants if variant))
    plain = None if None in found.variants else variants[0]
    variant = wanted if wanted in found.variants else plain
    strays = tuple(found.strays)
    whole, index = found.whole.get(variant), found.index.get(variant)
    if whole is not None and (index is None or stem == TRANSFORMERS):
        return WeightFiles((folder / whole,), variant, variants, strays)
    if index is None:
        shards = found.shards[variant]
        raise UserError(
            f"{folder} has {len(shards)} shards ({shards[0]}), but no index that names them: "
            f"expected a {stem}.safetensors.index.json; {FETCH}"
        )
    promised = read_index(folder / index)
    files = tuple(folder / name for name in sorted(set(promised.values())))
    require_shards(files, folder / index)
    return WeightFiles(files, variant, variants, strays, folder / index, promised)


def read_index(file: Path) -> dict[str, str]:
    """Return the file of each tensor that an index names.

    Raises:
        UserError: it names none, or a file that is not beside it.
    """
    named = read_json(file).get("weight_map")
    if not isinstance(named, dict) or not all(isinstance(name, str) for name in named.values()):
        raise UserError(f"{file}: expected the tensors' files in weight_map, found {named!r:.80}")
    if not named:
        raise UserError(f"{file}: expected the tensors' files in weight_map, found none; {FETCH}")
    for name in set(named.values()):
        if not re.fullmatch(r"[^/\\\0]+\.safetensors", name):
            raise UserError(
                f"{file}: expected the names of .safetensors files beside it in weight_map, "
                f"found {name!r:.80}; {FETCH}"
            )
    return named


def require_shards(files: tuple[Path, ...], index: Path) -> None:
    """Check that all shards of an index are there; UserError with the first missing one."""
    missing = [file.name for file in files if not os.path.lexists(file)]
    if missing:
        raise UserError(
            f"{index.parent}: shard {missing[0]} is missing: expected {len(files)} shards, which "
            f"{index.name} names, found {len(files) - len(missing)}; {FETCH}"
        )
    for file in files:
        require_regular(file)


def variant_of_name(name: str) -> str | None:
    """Return the variant in a file's name or path; None for a plain one.

    It is fp16 for model.fp16.safetensors, model.fp16-00001-of-00002.safetensors and
    model-00001-of-00002.fp16.safetensors.
    """
    found = re.fullmatch(r"[^.]+\.(\w+?)(-\d+-of-\d+)?\.safetensors", name)
    return found[1] if found else None


def shard_of_name(name: str) -> tuple[int, int] | None:
    """Return the shard's number and the number of all in a file's name or path.

    It is (2, 3) for model-00002-of-00003.safetensors, and None for a file that is no shard.
    """
    found = re.search(r"-(\d{1,9})-of-(\d{1,12})\.(\w+\.)?safetensors$", name)
    return (int(found[1]), int(found[2])) if found else None


def unknown_variant(variant: str, there: Collection[str]) -> UserError:
    """Return the error for a variant that no component has.

    Args:
        variant: the variant that was asked for.
        there: the variants of the model.
    """
    has = f"{', '.join(sorted(there))} beside plain files" if there else "plain files only"
    return UserError(f"variant: expected one of the model's, which has {has}; found {variant!r}")


def missing_weights(folder: Path, stem: str) -> UserError:
    """Return the error for a folder without weights of its library."""
    names = sorted(os.listdir(folder))
    pickles = [name for name in names if Path(name).suffix in PICKLED]
    others = [name for name in names if name.endswith(ENDING)]
    if pickles and not others:
        return UserError(
            f"{folder} has only pickled weights ({pickles[0]}), which can run code when opened; "
            "convert them first with save_pretrained(..., safe_serialization=True)"
        )
    if any(name.endswith(".gguf") for name in names) and not others:
        return UserError(
            f"{folder} has only GGUF weights, which are quantised; "
            "prune the unquantised pipeline, then quantise the result"
        )
    found = f", found {others[0]}, which its library does not load" if others else ""
    return UserError(
        f"{folder} has no weights: expected {stem}.safetensors or {stem}.safetensors.index.json"
        f"{found}; {FETCH}"
    )
