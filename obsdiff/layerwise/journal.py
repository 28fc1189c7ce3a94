"""What a run has solved so far, on disk, so that a killed one can go on: a file for every piece of work.

A file holds a piece's new weights and biases and, in its header, its records and the hash of them. It is written beside and then
renamed, so one that is there is whole; one that a crash of the machine left damaged is not taken, and its piece is solved again.

The journal's fingerprint says what it is a journal of: the model's weights, prompts, settings and versions. A run with another
one is refused.
"""

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from ..calibration.plan import Job
from ..errors import UserError
from ..pipelines.prompt_records import prompts_hash
from ..pipelines.record import GroupRecord, LayerRecord, versions
from ..runtime.hashing import digest, model_hashes
from ..runtime.json_files import read_json, write_json
from ..runtime.scratch import stopped_by_disk
from .tasks import Outcome, Piece

FINGERPRINT = "fingerprint.json"


@dataclass
class Journal:
    """The folder of a run's pieces, for a run with this fingerprint. UserError if another run's pieces are in it."""

    folder: Path
    fingerprint: dict[str, Any]

    def __post_init__(self) -> None:
        file, wanted = (
            self.folder / FINGERPRINT,
            json.loads(json.dumps(self.fingerprint, default=str)),
        )
        if file.is_file():
            differ = differences(read_json(file), wanted)
            if differ:
                raise UserError(
                    f"resume: {self.folder} is of a run with another {differ[0]}; give what that run was given, or start anew with --overwrite"
                )
        else:
            write_json(file, wanted)

    def recall(self, name: str) -> dict[str, Any] | None:
        """What was noted under a name; None if nothing was."""
        file = self.folder / f"{name}.json"
        return read_json(file) if file.is_file() else None

    def note(self, name: str, value: dict[str, Any]) -> None:
        """Keep what was worked out once for the whole run, as JSON. Written whole."""
        with stopped_by_disk(self.folder):
            write_json(self.folder / f"{name}.json", value)

    def file(self, piece: Piece) -> Path:
        return self.folder / f"{piece.number:06}.safetensors"

    def read(self, piece: Piece) -> Outcome | None:
        """The piece's outcome; None if it was not solved, or its file is damaged."""
        file = self.file(piece)
        if not file.is_file():
            return None
        try:
            with safe_open(file, "pt") as opened:
                tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118 (no dict)
                notes = opened.metadata() or {}
            records = json.loads(notes["records"])
            if notes["sha256"] != digest(sorted(tensors.items())):
                return None
            layers = [
                LayerRecord(**row | {"shape": tuple(row["shape"])}) for row in records["layers"]
            ]
            return Outcome.of(tensors, layers, [GroupRecord(**row) for row in records["groups"]])
        except (SafetensorError, KeyError, ValueError, TypeError):
            return None

    def write(self, piece: Piece, outcome: Outcome) -> None:
        """Keep an outcome. RunStopped if the disk does not take it."""
        tensors = {name: tensor.contiguous() for name, tensor in outcome.tensors.items()}
        records = {
            kind: [dataclasses.asdict(row) for row in getattr(outcome, kind)]
            for kind in ("layers", "groups")
        }
        beside = self.file(piece).with_suffix(".part")
        with stopped_by_disk(beside):
            save_file(
                tensors,
                beside,
                {"records": json.dumps(records), "sha256": digest(sorted(tensors.items()))},
            )
            beside.replace(self.file(piece))


def fingerprint(pipe: Any, job: Job, model: dict[str, str] | None = None) -> dict[str, Any]:
    """What has to be the same for a run to go on; `model` is what `model_hashes` gave, if it was asked before."""
    return {
        "model": model or model_hashes(pipe),
        "scheduler": {
            name: dict(part.config)
            for name, part in pipe.components.items()
            if hasattr(part, "config") and hasattr(part, "timesteps")
        },
        "prompts": prompts_hash(*job.plan.drawn),
        "config": job.config.to_dict(),
        "settings": job.plan.settings,
        "versions": versions(),
    }


def differences(found: Mapping[str, Any], wanted: Mapping[str, Any], above: str = "") -> list[str]:
    """Names of the entries that differ, with both values where they are short: "config.damping (0.01 there, 0.1 here)"."""
    differ = []
    for key in sorted({*found, *wanted}, key=str):
        there, here, name = found.get(key), wanted.get(key), f"{above}{key}"
        if isinstance(there, Mapping) and isinstance(here, Mapping):
            differ += differences(there, here, f"{name}.")
        elif there != here:
            long = max(len(str(there)), len(str(here))) > 40
            differ.append(name if long else f"{name} ({there} there, {here} here)")
    return differ
