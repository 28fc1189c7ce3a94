"""The journal of a run: one file for each solved task, so that a killed run can resume.

A file stores a task's new weights and biases and, in its header, its records and their hash. It is
written under another name and then renamed, so a file is complete; one that a crash of the machine
damaged is ignored, and its task is solved again.

The fingerprint identifies the run: the model's weights, prompts, settings and versions. A run with
another fingerprint is refused.
"""

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from ..calibration.plan import PruningPlan
from ..errors import UserError
from ..pipelines.finite_configs import require_finite
from ..pipelines.prompt_records import prompts_hash
from ..pipelines.record import GroupRecord, LayerRecord, versions
from ..runtime.distributed import Ranks
from ..runtime.hashing import model_hashes, tensors_hash
from ..runtime.json_files import read_json, write_json
from ..runtime.scratch import disk_errors
from ..runtime.strict_json import as_written, json_text, parse_json
from .tasks import Task, TaskResult

FINGERPRINT = "fingerprint.json"


class NullJournal:
    """A journal that stores nothing, for a run without a folder."""

    def recall(self, name: str) -> dict[str, Any] | None:
        """Return the value stored under a name; None if there is none."""
        return None

    def note(self, name: str, value: dict[str, Any]) -> None:
        """Store a value that was found once for the whole run, as JSON."""

    def read(self, task: Task) -> TaskResult | None:
        """Return the result of a task; None if it was not solved, or its file is damaged."""
        return None

    def write(self, task: Task, result: TaskResult) -> None:
        """Store the result of a task."""

    def once(self, name: str, find: Callable[[], dict[str, Any]], ranks: Ranks) -> dict[str, Any]:
        """Return the value stored under a name or, the first time, that of `find` in all."""
        found = ranks.from_rank_zero(lambda: self.recall(name))
        if found is None:
            found = find()
            if ranks.rank == 0:
                self.note(name, found)
        return found


@dataclass(frozen=True)
class JournalPlace:
    """Where a run stores its journal.

    Attributes:
        folder: the folder.
        hashes: the hashes of the pipeline's components, if `model_hashes` has computed them before.
    """

    folder: Path
    hashes: dict[str, str] | None = None


def open_journal(
    place: Path | str | JournalPlace | None, pipe: Any, plan: PruningPlan
) -> NullJournal:
    """Return the journal of a run; UserError if the folder has the journal of another run.

    Args:
        place: its folder; None for a journal that stores nothing.
        pipe: the dense pipeline.
        plan: the pruning.
    """
    if place is None:
        return NullJournal()
    if not isinstance(place, JournalPlace):
        place = JournalPlace(Path(place))
    return Journal(place.folder, fingerprint(pipe, plan, place.hashes))


@dataclass
class Journal(NullJournal):
    """The journal of a run in a folder.

    Attributes:
        folder: where the results are stored.
        fingerprint: identifies the run; see the function `fingerprint`.

    Raises:
        UserError: the folder has the results of another run.
    """

    folder: Path
    fingerprint: dict[str, Any]

    def __post_init__(self) -> None:
        file = self.folder / FINGERPRINT
        wanted = as_written(self.fingerprint)
        if file.is_file():
            differ = differences(read_json(file), wanted)
            if differ:
                raise UserError(
                    f"resume: {self.folder} is of a run with another {differ[0]}; "
                    "pass the arguments of that run, or start anew with --overwrite"
                )
        else:
            write_json(file, wanted)

    def recall(self, name: str) -> dict[str, Any] | None:
        """Return the value stored under a name; None if there is none."""
        file = self.folder / f"{name}.json"
        return read_json(file) if file.is_file() else None

    def note(self, name: str, value: dict[str, Any]) -> None:
        """Store a value that was found once for the whole run, as JSON, written whole."""
        with disk_errors(self.folder):
            write_json(self.folder / f"{name}.json", value)

    def file(self, task: Task) -> Path:
        """Return the file of a task."""
        return self.folder / f"{task.number:06}.safetensors"

    def read(self, task: Task) -> TaskResult | None:
        """Return the result of a task; None if it was not solved, or its file is damaged."""
        file = self.file(task)
        if not file.is_file():
            return None
        try:
            with safe_open(file, "pt") as opened:
                names = opened.keys()
                tensors = {name: opened.get_tensor(name) for name in names}
                notes = opened.metadata() or {}
            records = parse_json(notes["records"])
            if notes["sha256"] != tensors_hash(sorted(tensors.items())):
                return None
            layers = [
                LayerRecord(**row | {"shape": tuple(row["shape"])}) for row in records["layers"]
            ]
            return TaskResult.of(tensors, layers, [GroupRecord(**row) for row in records["groups"]])
        except (SafetensorError, KeyError, ValueError, TypeError):
            return None

    def write(self, task: Task, result: TaskResult) -> None:
        """Store the result of a task; RunStopped if the disk is full."""
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
                {
                    "records": json_text(records, None),
                    "sha256": tensors_hash(sorted(tensors.items())),
                },
            )
            beside.replace(self.file(task))


def fingerprint(
    pipe: Any, plan: PruningPlan, model: dict[str, str] | None = None
) -> dict[str, Any]:
    """Return the values that identify a run: it resumes only if all of them are equal.

    Args:
        pipe: the dense pipeline.
        plan: the pruning.
        model: the hashes of its components, if `model_hashes` has computed them before.

    Raises:
        UserError: a setting of a scheduler is NaN or infinite.
    """
    return {
        "model": model or model_hashes(pipe),
        "scheduler": schedulers(pipe),
        "prompts": prompts_hash(*plan.calibration_set.drawn),
        "config": plan.config.to_dict(),
        "settings": plan.calibration_set.settings,
        "versions": versions(),
    }


def schedulers(pipe: Any) -> dict[str, dict[str, Any]]:
    """Return the settings of a pipeline's schedulers as JSON, by the component's name."""
    found = {
        name: as_json(part.config)
        for name, part in pipe.components.items()
        if hasattr(part, "config") and hasattr(part, "set_timesteps")
    }
    for name, config in found.items():
        require_finite(config, name)
    return found


def as_json(value: Any) -> Any:
    """Return a setting as JSON: arrays and tensors in full, other objects as their text."""
    if isinstance(value, Mapping):
        return {str(key): as_json(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [as_json(part) for part in value]
    if hasattr(value, "tolist"):
        return as_json(value.tolist())
    return value if isinstance(value, str | bool | int | float | None) else str(value)


def differences(found: Mapping[str, Any], wanted: Mapping[str, Any], above: str = "") -> list[str]:
    """Return the names of the entries that differ, with both values where they are short.

    An example: "config.damping (0.01 there, 0.1 here)".
    """
    differ = []
    for key in sorted({*found, *wanted}, key=str):
        there, here, name = found.get(key), wanted.get(key), f"{above}{key}"
        if isinstance(there, Mapping) and isinstance(here, Mapping):
            differ += differences(there, here, f"{name}.")
        elif there != here:
            long = max(len(str(there)), len(str(here))) > 40
            differ.append(name if long else f"{name} ({there} there, {here} here)")
    return differ
