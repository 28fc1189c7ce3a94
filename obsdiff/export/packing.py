"""A result with zeros in a smaller form, values and bitmasks, and back in its plain form."""

from pathlib import Path

from ..errors import UserError
from ..pipelines.bitmask_folder import pack_pipeline_, unpack_pipeline_
from ..pipelines.bitmask_headers import packed_layers
from ..pipelines.record import read_record
from ..pipelines.verify import verify_folder
from .changed_copy import changed_copy


def pack_folder(folder: Path, output: Path) -> tuple[int, int]:
    """Write a result with its zeros as bitmasks into a new folder, whole or not at all.

    Args:
        folder: a folder that obsdiff wrote; it is verified first.
        output: the folder to write; must not exist.

    Returns:
        Bytes of the pruned component's weights before and after.

    Raises:
        UserError: it is packed already, or nothing would become smaller.
        RunFailed: it differs from its record.
    """
    record = read_record(folder)
    verify_folder(folder)
    source = folder / record["component"]
    if packed_layers(source):
        raise UserError(f"{folder}: expected plain weights, found bitmasks: it is packed already")
    if record.get("groups"):
        raise UserError(
            f"{folder}: expected zeros, of pattern unstructured or N:M; found a result of pattern "
            f"{record['config']['pattern']}, which has removed what others set to zero"
        )
    with changed_copy(folder, output, record) as inside:
        names = {row["name"] for row in record["layers"]}
        if not pack_pipeline_(inside, record["component"], names):
            raise UserError(f"{folder}: its layers have too few zeros: bitmasks would be larger")
    return size_of(source), size_of(output / record["component"])


def unpack_folder(folder: Path, output: Path) -> tuple[int, int]:
    """Write a packed result in its plain form into a new folder, whole or not at all.

    Args:
        folder: a folder that pack_folder wrote; it is verified first.
        output: the folder to write; must not exist.

    Returns:
        Bytes of the pruned component's weights before and after.

    Raises:
        UserError: it is not packed, or does not follow the format.
        RunFailed: it differs from its record.
    """
    record = read_record(folder)
    verify_folder(folder)
    source = folder / record["component"]
    if not packed_layers(source):
        raise UserError(f"{folder}: expected bitmasks, found plain weights: there is no need")
    with changed_copy(folder, output, record) as inside:
        unpack_pipeline_(inside, record["component"])
    return size_of(source), size_of(output / record["component"])


def size_of(component: Path) -> int:
    """Return the bytes of a component's weight files."""
    return sum(file.stat().st_size for file in component.glob("*.safetensors"))
