"""A copy of a result that is changed, then gets a card and a record of its own."""

import contextlib
import dataclasses
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import diffusers

from ..models.own_names import BITMASK_KEY, FOLDED_KEY, HEAD_MARKER_KEY, LAYOUT_KEY, LOW_RANK_KEY
from ..pipelines.bitmask_headers import CONFIG
from ..pipelines.loading_code import code_file, loading_code
from ..pipelines.model_card import CARD, model_card
from ..pipelines.record import (
    RECORD,
    GroupRecord,
    LayerRecord,
    PruningReport,
    sealed,
)
from ..pipelines.replaceable import INDEX
from ..pipelines.save import whole_folder
from ..runtime.file_hashing import file_hash, file_hashes
from ..runtime.json_files import read_json, write_json
from ..runtime.whole_files import set_modes, write_whole

CARD_KINDS = {
    BITMASK_KEY: "bitmask",
    LOW_RANK_KEY: "low rank",
    FOLDED_KEY: "modulation",
}


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
    """Return the card of a changed copy.

    Args:
        folder: the folder, complete but for its card and record.
        report: of the run.
    """
    name = str(read_json(folder / INDEX)["_class_name"])
    cls = getattr(diffusers, name, diffusers.DiffusionPipeline)
    kinds = kinds_of(read_json(folder / report.component / CONFIG))
    if code_file(folder, report.component).is_file():
        kinds.add("code")
    return model_card(name, report, loading_code(folder, cls), kinds)


def kinds_of(config: dict[str, Any]) -> set[str]:
    """Return what a component lacks or has beside its weights, as its card names it.

    Args:
        config: the content of its config.json; its checked layout names what was removed.
    """
    removed = {kind for owner in (config.get(LAYOUT_KEY) or {}).values() for kind in owner}
    kinds = {kind for kind in ("heads", "neurons", "channels") if kind in removed}
    if not config.get(HEAD_MARKER_KEY):
        kinds -= {"heads"}  # all are left
    return kinds | {kind for key, kind in CARD_KINDS.items() if config.get(key)}
