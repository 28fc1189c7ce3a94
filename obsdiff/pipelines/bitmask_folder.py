"""A saved pipeline whose zeros become bitmasks, and back: weight files, config and class."""

from pathlib import Path
from typing import Any

from ..models.bitmask_format import setting_of
from ..models.own_names import BITMASK_KEY, CLASS_PREFIX, unpacked_config
from ..runtime.json_files import read_json, write_json
from .bitmask_files import pack_component_, unpack_component_
from .bitmask_headers import CONFIG
from .replaceable import INDEX


def pack_pipeline_(folder: Path, component: str, names: set[str]) -> bool:
    """Store the zeros of a saved pipeline as bitmasks, where that makes its files smaller.

    Args:
        folder: the pipeline, plain.
        component: the pruned component.
        names: layers whose weights have zeros.

    Returns:
        Whether any layer is packed; if not, nothing was changed.
    """
    layers = pack_component_(folder / component, names)
    if not layers:
        return False
    config = read_json(folder / component / CONFIG) | {BITMASK_KEY: setting_of(layers)}
    name = config["_class_name"].removeprefix(CLASS_PREFIX)
    change_class(folder, component, config, CLASS_PREFIX + name)
    return True


def unpack_pipeline_(folder: Path, component: str) -> None:
    """Give a packed pipeline the plain weights, config and class that it was made from.

    Args:
        folder: the pipeline.
        component: the packed component.

    Raises:
        UserError: its files do not follow the format.
    """
    unpack_component_(folder / component)
    config = unpacked_config(read_json(folder / component / CONFIG))
    change_class(folder, component, config, config["_class_name"])


def change_class(folder: Path, component: str, config: dict[str, Any], name: str) -> None:
    """Write the config of a component, and its class into model_index.json.

    Args:
        folder: the pipeline.
        component: its component.
        config: the content of its config.json.
        name: the class, of diffusers or a pruned one of obsdiff.
    """
    write_json(folder / component / CONFIG, config | {"_class_name": name})
    library = "obsdiff" if name.startswith(CLASS_PREFIX) else "diffusers"
    index = read_json(folder / INDEX)
    write_json(folder / INDEX, index | {component: [library, name]})
