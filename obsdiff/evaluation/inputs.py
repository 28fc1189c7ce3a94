"""Evaluation: the pipelines, prompts, seeds and settings of one evaluation, and its fingerprint."""

import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from ..pipelines.folder import Folder
from ..pipelines.load import default_device, loaded_format
from ..pipelines.record import versions
from ..runtime.machine import machine
from .flaws import checkers_of
from .judges.files import Judges
from .report.noise import DENSE_NAME

LONGEST_KEY = 80  # letters of a pipeline's name in its file name


@dataclass(frozen=True)
class Evaluation:
    """What one evaluation compares, and how."""

    dense: Folder  # the dense pipeline
    runs: dict[str, Folder]  # the pruned pipelines, by name
    prompts: list[str]  # N prompts, one picture each
    seeds: list[int]  # N generator seeds, the same for every pipeline
    settings: dict[str, Any]  # keyword arguments of the pipeline call
    component: str  # name of the pruned denoiser
    batch_size: int = 4  # prompts of one pipeline call
    rounds: int = 5  # timed pictures of each pipeline; 0 skips timing and peak memory
    label: str = ""  # the dense model's name in results.json; "" for the path it was opened from
    judges: Judges = field(default_factory=Judges)  # models of the metrics
    threads: int = field(default_factory=torch.get_num_threads)  # CPU threads, recorded only

    @property
    def folders(self) -> dict[str, Folder]:
        """All pipelines by name, the dense one first."""
        return {DENSE_NAME: self.dense, **self.runs}

    @property
    def checkers(self) -> list[str]:
        """Names of the safety checkers of all pipelines; they are left out of every call."""
        return sorted({name for folder in self.folders.values() for name in checkers_of(folder)})

    @property
    def inputs(self) -> list[Path]:
        """All paths that the evaluation reads; no output may replace one."""
        models = [
            place for folder in self.folders.values() for place in (folder.path, folder.source)
        ]
        return models + [place for place in vars(self.judges).values() if place is not None]

    def key(self, name: str) -> str:
        """Return a unique file name for a pipeline: its position, and the letters of its name."""
        position = list(self.folders).index(name)
        letters = re.sub(r"[^0-9A-Za-z]+", "-", name).strip("-")
        return f"{position:02}-{letters[:LONGEST_KEY]}"

    def fingerprint(self) -> dict[str, Any]:
        """Return everything that has to be equal for a run to resume from another run's files."""
        models = {
            name: [str(folder.path.absolute()), file_stamps(folder)]
            for name, folder in self.folders.items()
        }
        return {
            "models": models,
            "component": self.component,
            "prompts": self.prompts,
            "seeds": self.seeds,
            "settings": self.settings,
            "batch_size": self.batch_size,
            "rounds": self.rounds,
            "versions": versions(),
            "machine": self.machine(),
        }

    def machine(self) -> dict[str, str]:
        """Return what the pipelines compute on, as they are loaded without further settings."""
        device = torch.device(default_device())
        stored = self.dense.components[self.component].dtype
        return machine(device, loaded_format(device.type, stored))


def file_stamps(folder: Folder) -> dict[str, list[int]]:
    """Return size in bytes and modification time in ns of each file of a pipeline, by its path."""
    files = sorted(
        file for file in folder.path.rglob("*") if file.suffix in (".json", ".safetensors")
    )
    files += [folder.single_file] if folder.single_file else []
    return {
        os.path.relpath(file, folder.path): [file.stat().st_size, file.stat().st_mtime_ns]
        for file in files
    }
