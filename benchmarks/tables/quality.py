"""Time to quality (docs/measurements.md): what settings cost, and how near their pictures are."""

import math
from collections import defaultdict
from pathlib import Path
from statistics import mean
from typing import NamedTuple

from .markdown import caption, counted, grid
from .stored import Kept, NotMeasured, read, version_of

COMMAND = "python -m benchmarks.quality"
MODELS = ("emoji-unet", "emoji-sd3")
TARGETS = ("50%", "2:4", "structured 30%")
YARDSTICK = "paper"


class Setting(NamedTuple):
    """What a row varies.

    Attributes:
        preset: its name; "default" for none.
        prompts: number of calibration prompts.
        steps: steps of the calibration's schedule.
        tokens: tokens per column; None for the default.
    """

    preset: str
    prompts: int
    steps: int
    tokens: float | None

    def __str__(self) -> str:
        tokens = "" if self.tokens is None else f", {self.tokens:g} tokens"
        return f"{self.preset}, {self.prompts} prompts, {self.steps} steps{tokens}"


class Found(NamedTuple):
    """Cost and error of a setting, means over the calibration sets.

    Attributes:
        cost: CPU time over that of plain inference of 100 prompts.
        error: relative latent error.
    """

    cost: float
    error: float


def by_target(kept: Kept) -> dict[str, dict[Setting, Found]]:
    """The rows of a model: target -> setting -> its figures."""
    sets: dict[tuple[str, Setting], list[Kept]] = defaultdict(list)
    for row in kept["rows"].values():
        setting = Setting(row["preset"], row["prompts"], row["steps"], row["tokens"])
        sets[row["target"], setting].append(row)
    found: dict[str, dict[Setting, Found]] = {target: {} for target in TARGETS}
    for (target, setting), rows in sets.items():
        found[target][setting] = Found(*(mean(r[key] for r in rows) for key in Found._fields))
    return found


def quality(folder: Path) -> str:
    """The block time-to-quality; `folder`: benchmarks/results.

    Raises:
        NotMeasured: no model has the yardstick for every target.
    """
    parts = []
    for model in MODELS:
        kept = read(folder / f"quality-{model}.json", f"{COMMAND} {model}")
        parts.append(f"{about(kept)}\n\n{table(by_target(kept), kept['command'])}")
    return "\n\n".join(parts)


def about(kept: Kept) -> str:
    """The conditions of a model's rows."""
    return caption(
        f"`{kept['model']}`, version {version_of(kept)}, {kept['tuning_prompts']} prompts that "
        f"settings are chosen on, {counted(kept['threads'], 'thread')}: cost, and error over that "
        f"of preset `{YARDSTICK}` with 100 prompts"
    )


def table(found: dict[str, dict[Setting, Found]], command: str) -> str:
    """The table of one model, its settings by their mean cost over the targets."""
    base = {target: yardstick(rows) for target, rows in found.items()}
    if None in base.values():
        raise NotMeasured(command, f"no row of preset {YARDSTICK}")
    settings = {setting for rows in found.values() for setting in rows}
    lines = [
        [str(setting), *(cell(found[target].get(setting), base[target]) for target in TARGETS)]
        for setting in sorted(settings, key=lambda one: mean_cost(found, one))
    ]
    return grid(["", *(target.replace("%", " %") for target in TARGETS)], lines)


def yardstick(rows: dict[Setting, Found]) -> float | None:
    """The error of the yardstick; None if it was not measured."""
    return next((f.error for setting, f in rows.items() if setting.preset == YARDSTICK), None)


def mean_cost(found: dict[str, dict[Setting, Found]], setting: Setting) -> float:
    """The mean cost of a setting over the targets that it was measured on."""
    return mean(rows[setting].cost for rows in found.values() if setting in rows)


def cell(found: Found | None, base: float | None) -> str:
    """Cost and share of the yardstick's error; empty if it was not measured."""
    if found is None:
        return ""
    return f"{found.cost:.2f}: {found.error / (base or math.nan):.2f}"
