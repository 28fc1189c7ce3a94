"""The journal of a run: one file for each solved task, so that a killed run can resume.

A file stores a task's new weights and biases and, in its header, its records, and one hash of both.
A file is written whole; one that was damaged all the same is ignored, and its task is solved again.

What is found once for the whole run (a budget, a latency, the allocation, the orders of inputs) is
a note: a JSON file with a hash. Notes are a chain: each holds the hash of those before it, and a
task's file that of all of them. A note that was changed is found again, and so is what follows it.
A replay stores its recording, too (calibration/replay/kept_recording.py).

The fingerprint identifies the run: the model's weights, prompts, settings and versions. A run with
another fingerprint is refused.
"""

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from ..calibration.plan import PruningPlan
from ..calibration.recording_place import RecordingPlace
from ..errors import RunFailed
from ..pipelines.record import GroupRecord, LayerRecord
from ..runtime.distributed import Ranks
from ..runtime.hashed_json import content_hash, read_hashed, write_hashed
from ..runtime.hashing import tensors_hash
from ..runtime.json_files import read_json, write_json
from ..runtime.scratch import disk_errors
from ..runtime.strict_json import as_written, json_text, parse_json
from ..runtime.whole_files import whole_file
from .fingerprint import fingerprint, require_same
from .tasks import Task, TaskResult

FINGERPRINT = "fingerprint.json"
RECORDING = "recording"  # folder of the recording that a replay reads
TRIALS = "trials"  # folder with a file for each layer or group that an allocation has measured


class NullJournal:
    """A journal that stores nothing, for a run without a folder."""

    fingerprint: dict[str, Any]

    def __init__(self) -> None:
        self.fingerprint = {}

    @property
    def recording(self) -> RecordingPlace | None:
        """Where a replay stores its recording; None for nowhere."""
        return None

    def recall(self, name: str) -> dict[str, Any] | None:
        """Return the value stored under a name; None if there is none."""
        return None

    def note(self, name: str, value: dict[str, Any]) -> None:
        """Store a value that was found once for the whole run, as JSON."""

    def recall_trial(self, number: int, name: str) -> dict[str, Any] | None:
        """Return the figures of a trial of the allocation; None if there are none."""
        return None

    def note_trial(self, number: int, name: str, figures: dict[str, Any]) -> None:
        """Store the figures of a trial as JSON."""

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
        notes: the hash of each note by its name, in the order of the chain.

    Raises:
        UserError: the folder has the results of another run.
    """

    folder: Path
    fingerprint: dict[str, Any]
    notes: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        file = self.folder / FINGERPRINT
        wanted = as_written(self.fingerprint)
        if file.is_file():
            require_same(read_json(file), wanted, self.folder)
        else:
            write_json(file, wanted)
        self.notes = chain_of(self.folder)

    @property
    def basis(self) -> str:
        """The hash of all notes: a task's result depends on them."""
        return content_hash(list(self.notes.items()))

    @property
    def recording(self) -> RecordingPlace:
        """Where a replay stores its recording."""
        return RecordingPlace(self.folder / RECORDING, content_hash(self.fingerprint))

    def recall(self, name: str) -> dict[str, Any] | None:
        """Return the value stored under a name; None if there is none, or it was changed."""
        return self.read_note(name)["value"] if name in self.notes else None

    def note(self, name: str, value: dict[str, Any]) -> None:
        """Store a value that was found once for the whole run; notes after an old one are void."""
        known = list(self.notes.items())
        if name in self.notes:
            known = known[: list(self.notes).index(name)]
        self.notes = dict(known)
        found = {"number": len(known), "after": self.basis, "value": value}
        with disk_errors(self.folder):
            write_hashed(self.folder / f"{name}.json", found)
        self.notes[name] = content_hash(found)

    def read_note(self, name: str) -> dict[str, Any]:
        """Return a note of the chain with its place in it; RunFailed if it changed meanwhile."""
        found = read_hashed(self.folder / f"{name}.json")
        if not isinstance(found, dict) or content_hash(found) != self.notes[name]:
            raise RunFailed(f"{self.folder / name}.json was changed during the run")
        return found

    def recall_trial(self, number: int, name: str) -> dict[str, Any] | None:
        """Return the figures of a trial of the allocation; None if there are none, or changed ones.

        Args:
            number: its index among all trials, the name of its file.
            name: the layer or group.
        """
        found = read_hashed(self.folder / TRIALS / f"{number:06}.json")
        here = {"name": name, "after": self.basis}
        if not isinstance(found, dict) or {key: found.get(key) for key in here} != here:
            return None
        return found["figures"]

    def note_trial(self, number: int, name: str, figures: dict[str, Any]) -> None:
        """Store the figures of a trial, which depend on the notes so far; see recall_trial."""
        file = self.folder / TRIALS / f"{number:06}.json"
        with disk_errors(file):
            write_hashed(file, {"name": name, "after": self.basis, "figures": figures})

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
            if notes["sha256"] != self.task_hash(task, tensors, notes["records"]):
                return None
            records = parse_json(notes["records"])
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
        text = json_text(records, None)
        digest, file = self.task_hash(task, tensors, text), self.file(task)
        with disk_errors(file), whole_file(file) as beside:
            save_file(tensors, beside, {"records": text, "sha256": digest})

    def task_hash(self, task: Task, tensors: Mapping[str, Tensor], records: str) -> str:
        """Return the hash of a task's file: of the task, its tensors, its records and the notes."""
        weights = tensors_hash(sorted(tensors.items()))
        return content_hash([task.number, list(task.layers), weights, records, self.basis])


def chain_of(folder: Path) -> dict[str, str]:
    """Return the hash of each note of a folder by its name; the first wrong one ends the chain."""
    files = sorted(file for file in folder.glob("*.json") if file.name != FINGERPRINT)
    read = {file.stem: read_hashed(file) for file in files}
    notes = {n: v for n, v in read.items() if isinstance(v, dict) and "number" in v}
    chain: dict[str, str] = {}
    for name, note in sorted(notes.items(), key=lambda item: str(item[1]["number"])):
        if note["number"] != len(chain) or note["after"] != content_hash(list(chain.items())):
            break
        chain[name] = content_hash(note)
    return chain
