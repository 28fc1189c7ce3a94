"""Which files of a hub's repository make up a pipeline or a model. Names alone: no fetching here.

Of each component that model_index.json names: its configs and vocabularies, and one set of
safetensors files, plain before any variant. Pickled, ONNX and Flax weights, pictures, and
checkpoints beside the components stay where they are.
"""

import re
from collections.abc import Collection, Mapping
from typing import Any

from ..errors import UserError
from .weight_files import (
    DIFFUSERS,
    PICKLED,
    TRANSFORMERS,
    shard_of_name,
    unknown_variant,
    variant_of_name,
)

INDEX = "model_index.json"
SMALL = (".json", ".txt", ".model", ".jinja")  # configs, vocabularies, chat templates
CONFIGS = (
    "config.json",
    "preprocessor_config.json",
    "processor_config.json",
    "generation_config.json",
)
TOKENIZER = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "vocab.txt",
)
SHARDS = f"{TRANSFORMERS}.safetensors.index.json"
WEIGHTS = re.compile(r"(diffusion_pytorch_model|model)[.-].*safetensors")


def components_in(index: Mapping[str, Any]) -> list[str]:
    """Return the components that a model_index.json names with a class."""
    return [
        name
        for name, value in index.items()
        if re.fullmatch(r"[^\W_]\w{0,99}", name) and isinstance(value, list) and value[:1] != [None]
    ]


def small_files(
    names: Collection[str], components: list[str], endings: tuple[str, ...] = SMALL
) -> list[str]:
    """Return the components' files with one of the endings, and model_index.json.

    Args:
        names: the paths of all files of the repository.
        components: the components to read.
        endings: of the files.
    """
    inside = [
        name
        for component in components
        for name in within(names, component)
        if name.endswith(endings)
    ]
    return [INDEX, *inside]


def weight_files(names: Collection[str], components: list[str], variant: str | None) -> list[str]:
    """Return the files with the weights of the components.

    Args:
        names: the paths of all files of the repository.
        components: the components; one without a config.json has no weights.
        variant: the variant of every component that has it; None for plain files.

    Raises:
        UserError: a component has no whole set of safetensors files, or none has the variant.
    """
    wanted = [name for name in components if f"{name}/config.json" in names]
    found = {component: safetensors_of(names, component) for component in wanted}
    there = sorted({v for files in found.values() for f in files if (v := variant_of_name(f))})
    if variant and variant not in there:
        raise unknown_variant(variant, there)
    return [file for component in wanted for file in one_set(component, found[component], variant)]


def safetensors_of(names: Collection[str], component: str) -> list[str]:
    """Return a component's safetensors files of any variant; UserError if there are none."""
    inside = within(names, component)
    found = [name for name in inside if WEIGHTS.fullmatch(name.partition("/")[2])]
    if found:
        return found
    pickles = [name for name in inside if name.endswith(PICKLED)]
    if pickles:
        raise UserError(
            f"model: {component} has only pickled weights ({pickles[0]}), which can run code when "
            "opened; nothing was downloaded; expected safetensors files"
        )
    raise UserError(f"model: {component} has no weights on the hub: expected safetensors files")


def one_set(component: str, files: list[str], variant: str | None) -> list[str]:
    """Return a component's files of one variant: a single file, or all shards.

    diffusers reads shards where there are both, transformers the single file.

    Args:
        component: the component, for the message.
        files: its safetensors files; at least one.
        variant: the variant to prefer; then plain files, then the first variant.

    Raises:
        UserError: a shard is missing.
    """
    kinds: dict[str | None, list[str]] = {}
    for file in files:
        kinds.setdefault(variant_of_name(file), []).append(file)
    kind = next((k for k in (variant, None) if k in kinds), min(k or "" for k in kinds))
    chosen = kinds[kind]
    shards = [shard for file in chosen if (shard := shard_of_name(file))]
    whole = [file for file in chosen if not shard_of_name(file)]
    if whole and not (shards and whole[0].startswith(f"{component}/{DIFFUSERS}")):
        return whole
    chosen = [file for file in chosen if shard_of_name(file)]
    if len({number for number, _ in shards}) < shards[0][1]:
        raise UserError(
            f"model: {component} is not whole on the hub: expected {shards[0][1]} shards, "
            f"found {len(shards)}"
        )
    return chosen


def model_files(names: Collection[str], what: str) -> list[str]:
    """Return the files of a repository that is one model of transformers: small ones first.

    Args:
        names: the paths of all files of the repository.
        what: the argument that the model was given for, for messages.

    Raises:
        UserError: it has no config.json, or no whole set of safetensors files.
    """
    if "config.json" not in names:
        raise UserError(f"{what}: the repository on the hub has no config.json: it is no model")
    small = [name for name in (*CONFIGS, *TOKENIZER) if name in names]
    plain = [
        name
        for name in sorted(names)
        if re.fullmatch(rf"{TRANSFORMERS}[.-].*safetensors", name) and not variant_of_name(name)
    ]
    if not plain:
        pickles = [name for name in sorted(names) if "/" not in name and name.endswith(PICKLED)]
        found = f"pickled weights alone ({pickles[0]})" if pickles else "no weights"
        raise UserError(
            f"{what}: expected safetensors files on the hub, found {found}; nothing was downloaded"
        )
    weights = one_set(what, plain, None)
    index = [SHARDS] if shard_of_name(weights[0]) else []
    return [*small, *index, *weights]


def within(names: Collection[str], component: str) -> list[str]:
    """Return the files right inside a component's folder, in order."""
    return sorted(
        name for name in names if name.startswith(f"{component}/") and name.count("/") == 1
    )
