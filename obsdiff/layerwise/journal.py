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

from ..calibration.plan import PruningPlan
from ..errors import UserError
from ..pipelines.prompt_records import prompts_hash
from ..pipelines.record import GroupRecord, LayerRecord, versions
from ..runtime.hashing import model_hashes, tensors_hash
from ..runtime.json_files import read_json, write_json
from ..runtime.scratch import disk_errors
from .tasks import Task, TaskResult

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
        with disk_errors(self.folder):
            write_json(self.folder / f"{name}.json", value)

    def file(self, task: Task) -> Path:
        return self.folder / f"{task.number:06}.safetensors"

    def read(self, task: Task) -> TaskResult | None:
        """The piece's outcome; None if it was not solved, or its file is damaged."""
        file = self.file(task)
        if not file.is_file():
            return None
        try:
            with safe_open(file, "pt") as opened:
                tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118 (no dict)
                notes = opened.metadata() or {}
            records = json.loads(notes["records"])
            if notes["sha256"] != tensors_hash(sorted(tensors.items())):
                return None
            layers = [
                LayerRecord(**row | {"shape": tuple(row["shape"])}) for row in records["layers"]
            ]
            return TaskResult.of(tensors, layers, [GroupRecord(**row) for row in records["groups"]])
        except (SafetensorError, KeyError, ValueError, TypeError):
            return None

    def write(self, task: Task, result: TaskResult) -> None:
        """Keep an outcome. RunStopped if the disk does not take it."""
        tensors = {name: tensor.contiguous() for name, tensor in result.tensors.items()}
        records = {
            kind: [dataclasses.asdict(row) for row in getattr(result, kind)]
            for kind in ("layers", "groups")
        }
        beside = self.file(task).with_suffix(".part")
        with disk_errors(beside):
            save_file(
                tensors,
                beside,
                {"records": json.dumps(records), "sha256": tensors_hash(sorted(tensors.items()))},
            )
            beside.replace(self.file(task))


def fingerprint(
    pipe: Any, plan: PruningPlan, model: dict[str, str] | None = None
) -> dict[str, Any]:
    """What has to be the same for a run to go on; `model` is what `model_hashes` gave, if it was asked before."""
    return {
        "model": model or model_hashes(pipe),
        "scheduler": {
            name: dict(part.config)
            for name, part in pipe.components.items()
            if hasattr(part, "config") and hasattr(part, "timesteps")
        },
        "prompts": prompts_hash(*plan.calibration_set.drawn),
        "config": plan.config.to_dict(),
        "settings": plan.calibration_set.settings,
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
