"""The measured rows of a table, in a JSON file that grows row by row, and how a row is measured."""

import copy
import json
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import torch

from obsdiff import PruningConfig, prune_
from obsdiff.calibration.gather import DensePass
from obsdiff.pipelines.removed import leaving
from obsdiff.runtime.json_files import write_json

from ..conditions import RESULTS as STORED
from ..conditions import conditions, model_version
from .lab import REPORTED, Lab

Row = dict[str, Any]

RESULTS = STORED / "paper"
DIGITS = 6  # kept of a figure


def file_of(version: int, model: str, table: str) -> Path:
    """Where the rows of a table are kept, by the version of the built-in model."""
    return RESULTS / f"version-{version}" / f"{model}-{table}.json"


@dataclass
class Rows:
    """The rows of one table of one model, in a JSON file that is rewritten after each."""

    lab: Lab
    table: str
    skipped: str = ""  # a glob of rows that are not measured now
    lacks: bool = False
    rows: dict[str, Row] = field(default_factory=dict)

    def __post_init__(self) -> None:
        version = model_version(self.lab.model)
        self.file = file_of(version, self.lab.model, self.table)
        about = {
            "model": self.lab.model,
            "table": self.table,
            "model_version": version,
            "settings": self.lab.settings,
            "prompts": {name: len(self.lab.sets[name]) for name in REPORTED},
        }
        self.about = about | conditions("benchmarks.paper")
        self.file.parent.mkdir(parents=True, exist_ok=True)
        if self.file.exists():
            kept = json.loads(self.file.read_text())
            if any(kept[key] != about[key] for key in about):
                raise SystemExit(
                    f"{self.file} was measured with other settings; move it away to measure it anew"
                )
            self.rows = kept["rows"]

    def keep(self, name: str, measure: Callable[[], Row]) -> None:
        """Measure a row unless the file has it."""
        if not self.wants(name):
            return
        self.rows[name] = rounded(measure())
        write_json(self.file, self.about | {"rows": self.rows})
        print(f"{self.lab.model} {self.table}: {name}: {in_short(self.rows[name])}", flush=True)

    def wants(self, name: str) -> bool:
        """Whether a row is to be measured now."""
        skip = name not in self.rows and fnmatchcase(name, self.skipped)
        self.lacks |= skip
        return name not in self.rows and not skip

    def finish(self) -> None:
        """Note that the table has all its rows: only then it is shown."""
        if self.lacks:
            return
        write_json(self.file, self.about | {"finished": True, "rows": self.rows})


def rounded(value: Any) -> Any:
    """A value with all floats rounded to few digits, at every depth."""
    if isinstance(value, dict):
        return {key: rounded(v) for key, v in value.items()}
    if isinstance(value, list | tuple):
        return [rounded(v) for v in value]
    return float(f"{value:.{DIGITS}g}") if isinstance(value, float) else value


def in_short(row: Row) -> str:
    metrics = row.get("metrics", {})
    return ", ".join(
        f"{name} {m['value']:.4f} ({m['low']:.4f} to {m['high']:.4f})"
        for name, m in metrics.items()
        if m["value"] is not None
    ) or str(row)


def pruned_row(lab: Lab, config: PruningConfig, **hessians: Any) -> Row:
    """Prune with shared Hessians, draw, measure."""
    denoiser, layers, groups, seconds = lab.pruned(config, lab.hessians(**hessians))
    return row_of(lab, config, denoiser, layers, groups) | {"solve_seconds": seconds}


def row_of(
    lab: Lab, config: PruningConfig, denoiser: torch.nn.Module, layers: list, groups: list
) -> Row:
    gone = leaving([vars(group) for group in groups])
    return {
        "method": config.method,
        "pattern": config.pattern,
        "sparsity": config.removed,
        "layer_error": statistics.median(layer.error for layer in layers),
        "gone": gone,
    } | figures_row(lab, denoiser)


def figures_row(lab: Lab, denoiser: torch.nn.Module) -> Row:
    """The cost of a denoiser, and its errors on both sets of prompts."""
    return {
        "cost": lab.cost(denoiser),
        "metrics": lab.figures(denoiser),
        "held_out": {"relative_latent_error": lab.error_of(denoiser, "held_out")},
    }


def dense_row(lab: Lab) -> Row:
    return {
        "method": "dense",
        "pattern": "",
        "sparsity": 0.0,
        "cost": lab.cost(lab.dense),
        "metrics": lab.figures(lab.dense),
    }


def live(
    lab: Lab,
    config: PruningConfig,
    dense: DensePass | None = None,
    begin: torch.nn.Module | None = None,
) -> tuple[torch.nn.Module, Any]:
    """Prune a copy of the dense denoiser, or of `begin`, as `obsdiff prune` does; returns the copy
    and the report."""
    setattr(lab.pipe, lab.component, copy.deepcopy(begin or lab.dense))
    try:
        report = prune_(lab.pipe, lab.calibration, config, dense=dense)
        return getattr(lab.pipe, lab.component), report
    finally:
        setattr(lab.pipe, lab.component, lab.dense)


def live_row(
    lab: Lab, config: PruningConfig, dense: DensePass | None = None, besides: float = 0.0
) -> Row:
    """Prune and measure; `besides`: seconds of CPU time that the shared dense pass took."""
    began = time.process_time()
    denoiser, report = live(lab, config, dense)
    spent = besides + time.process_time() - began
    largest = max(package.hessian_bytes for package in lab.packages(config))
    return row_of(lab, config, denoiser, report.layers, report.groups) | {
        "seconds": report.seconds,
        "cpu_seconds": spent,
        "hessian_bytes": largest,
    }
