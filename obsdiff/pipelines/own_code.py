"""No code but that of the installation: what a config may not name. Imports no torch.

diffusers and transformers load classes, kernels and modules that a config names, from the hub or
from the checkpoint's own files, depending on their version and on what is installed.
"""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from ..errors import UserError
from ..runtime.json_files import read_json
from .pipeline_arguments import has_pipeline_module

LIBRARIES = ("diffusers", "transformers", "obsdiff")  # which components' classes are from
# values that name a part of transformers itself; a dict has them by sub-config
IMPLEMENTATIONS = {
    "attn_implementation": ("eager", "sdpa", "flex_attention", "paged|eager", "paged|sdpa"),
    "experts_implementation": ("eager", "batched_mm", "grouped_mm"),
}
# keys that let code of others run, and files that a library reads instead of the checked ones
FOREIGN = ("auto_map", "trust_remote_code", "use_kernels", "kernel_config", "transformers_weights")
CUSTOM = "custom_"  # custom_pipeline, custom_generate, custom_pipelines ...
CLASSES = (
    "_class_name",
    "tokenizer_class",
    "processor_class",
    "image_processor_type",
    "feature_extractor_type",
    "video_processor_type",
)
ADAPTER = "adapter_config.json"
SHOWN = 60  # characters of a value in a message


def require_own_code_files(folders: Iterable[Path]) -> None:
    """Check the files *config.json of some folders.

    Args:
        folders: the folders of a pipeline's components, or of a metric's model.

    Raises:
        UserError: a config names code, or an adapter is beside the weights.
    """
    for folder in folders:
        if (folder / ADAPTER).exists():
            raise UserError(
                f"{folder / ADAPTER}: expected plain weights, found an adapter such as a LoRA; "
                "fuse it into the weights, or remove it"
            )
        for file in sorted(folder.glob("*config.json")):
            require_own_code(read_json(file), str(file))


def require_own_code(config: Any, place: str) -> None:
    """Check that a config, at any depth, names no code but that of the installed libraries.

    Args:
        config: a value as JSON has it.
        place: the file that it is from, for the message.

    Raises:
        UserError: a setting names code; the message has the setting.
    """
    for path, key, value in settings_of(config):
        allowed = IMPLEMENTATIONS.get(key.strip("_").removesuffix("_internal"))
        if allowed is not None:
            wrong = [name for name in values_of(value) if name not in (None, *allowed)]
            expected = f"one of {', '.join(allowed)}"
        elif key in CLASSES:
            wrong = [] if value is None or is_class_name(value) else [value]
            expected = "the name of a class"
        else:
            wrong = [value] if value and is_foreign(key) else []
            expected = "no such setting"
        if wrong:
            raise UserError(
                f"{place}: {path} names code that is not part of the installation: expected "
                f"{expected}, found {shown(wrong[0])}; remove the setting if you trust the rest"
            )


def settings_of(config: Any) -> Iterator[tuple[str, str, Any]]:
    """Yield the path, the key and the value of every setting, at any depth."""
    waiting: list[tuple[str, Any]] = [("", config)]
    while waiting:
        place, value = waiting.pop()
        if isinstance(value, dict):
            for key, inner in value.items():
                path = f"{place}.{key}" if place else key
                yield path, key, inner
                waiting.append((path, inner))
        elif isinstance(value, list):
            waiting += [(f"{place}[{i}]", inner) for i, inner in enumerate(value)]


def values_of(value: Any) -> list[Any]:
    """Return the values of a setting that is one for all sub-configs, or a dict of one for each."""
    return list(value.values()) if isinstance(value, dict) else [value]


def is_foreign(key: str) -> bool:
    """Return whether any value of a setting lets code of others run."""
    return key in FOREIGN or key.startswith(CUSTOM)


def is_class_name(value: Any) -> bool:
    """Return whether a value is the name of a class, without a module or a path."""
    return isinstance(value, str) and value.isidentifier()


def require_known_class(file: Path, name: str, value: list[Any]) -> None:
    """Check the library and class of a component in model_index.json.

    Args:
        file: the model_index.json.
        name: the component.
        value: its entry.

    Raises:
        UserError: it is no pair of names, or the library is another than diffusers (with its
            pipelines' modules), transformers and obsdiff.
    """
    if len(value) != 2 or not all(isinstance(part, str) for part in value):
        raise UserError(f"{file}: expected [library, class] for {name}, found {shown(value)}")
    library, cls = value
    if library not in LIBRARIES and not has_pipeline_module(library):
        raise UserError(
            f"{file}: {name} names code that is not part of the installation: expected a class of "
            f"{', '.join(LIBRARIES)}, found the library {shown(library)}"
        )
    if not is_class_name(cls) or cls.endswith("Pipeline"):
        raise UserError(f"{file}: expected a class for {name}, found {shown(cls)}")


def shown(value: Any) -> str:
    """Return a value as a message quotes it."""
    words = repr(value)
    return words if len(words) <= SHOWN else words[: SHOWN - 3] + "..."
