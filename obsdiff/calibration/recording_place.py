"""Where a run stores the recording of its replay (replay/kept_recording.py)."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class RecordingPlace:
    """Where a run stores the recording of its replay.

    Attributes:
        folder: its folder, which may be missing.
        run: a hash that identifies the run.
    """

    folder: Path
    run: str

    def file(self, number: int) -> Path:
        """Return the file of a tensor by its number."""
        return self.folder / f"{number:06}.safetensors"
