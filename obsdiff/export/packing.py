"""A result with zeros in a smaller form, values and bitmasks, and back in its plain form."""

import contextlib
import dataclasses
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import diffusers

from ..errors import UserError
from ..models.own_names import BITMASK_KEY, FOLDED_KEY, LOW_RANK_KEY
from ..pipelines.bitmask_folder import pack_pipeline_, unpack_pipeline_
from ..pipelines.bitmask_headers import CONFIG, packed_layers
from ..pipelines.loading_code import loading_code
from ..pipelines.model_card import CARD, model_card
from ..pipelines.record import (
    RECORD,
    GroupRecord,
    LayerRecord,
    PruningReport,
    read_record,
    sealed,
)
from ..pipelines.replaceable import INDEX
from ..pipelines.save import whole_folder
from ..pipelines.verify import verify_folder
from ..runtime.file_hashing import file_hash, file_hashes
from ..runtime.json_files import read_json, write_json
from ..runtime.whole_files import set_modes, write_whole


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


@contextlib.contextmanager
def changed_copy(folder: Path, output: Path, record: dict[str, Any]) -> Iterator[Path]:
    """Open a copy of a folder that gets its name, card and record at the end.

    Args:
        folder: the verified folder.
        output: the folder to write.
        record: its record.

    Yields:
        The copy, to be changed.
    """
    with whole_folder(output, overwrite=False, inputs=[folder]) as inside:
        for name in record["hashes"]["files"]:
            (inside / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(folder / name, inside / name)
        yield inside
        set_modes(inside)
        report = report_of(record)
        report.hashes["files"] = file_hashes(inside)
        write_whole(inside / CARD, card_of(inside, report))
        report.hashes["card"] = file_hash(inside / CARD)
        write_json(inside / RECORD, sealed(report.to_dict()))


def report_of(record: dict[str, Any]) -> PruningReport:
    """Return the report that a record was written from."""
    names = {field.name for field in dataclasses.fields(PruningReport)}
    kept = {name: value for name, value in record.items() if name in names}
    kept["layers"] = [
        LayerRecord(**row | {"shape": tuple(row["shape"])}) for row in record["layers"]
    ]
    kept["groups"] = [GroupRecord(**row) for row in record.get("groups", [])]
    return PruningReport(**kept)


def card_of(folder: Path, report: PruningReport) -> str:
    """Return the card of a result with zeros, packed or plain.

    Args:
        folder: the folder, complete but for its card and record.
        report: of the run.
    """
    name = str(read_json(folder / INDEX)["_class_name"])
    cls = getattr(diffusers, name, diffusers.DiffusionPipeline)
    config = read_json(folder / report.component / CONFIG)
    kinds = [kind for key, kind in CARD_KINDS.items() if config.get(key)]
    return model_card(name, report, loading_code(folder, cls), kinds)


CARD_KINDS = {
    BITMASK_KEY: "bitmask",
    LOW_RANK_KEY: "low rank",
    FOLDED_KEY: "modulation",
}


def size_of(component: Path) -> int:
    """Return the bytes of a component's weight files."""
    return sum(file.stat().st_size for file in component.glob("*.safetensors"))
