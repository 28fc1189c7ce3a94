"""Pictures -> GenEval's figure: the share that is right, of all and by tag."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image

from ...metrics import Figure, mean_of
from ..clip import Clip
from ..weights import MetricUnavailable
from .colours import Colours
from .detector import open_detector
from .rule import is_right
from .tasks import FILE, Task, read_tasks


def geneval_figures(
    pictures: Mapping[str, list[Image.Image]],
    prompts: list[str],
    file: Path,
    detector: Path,
    clip: Path | None,
) -> dict[str, Figure]:
    """Return the figure of each pipeline.

    Args:
        pictures: N pictures of each.
        prompts: their prompts, the first N of the file.
        file: GenEval's evaluation_metadata.jsonl.
        detector: folder of the detector.
        clip: folder of the CLIP that tells colours; None if no task asks for colours.

    Raises:
        MetricUnavailable: a model can't be loaded, or the file has other prompts.
    """
    tasks = tasks_of(file, prompts)
    detect = open_detector(detector)
    colours = Colours(Clip(clip)) if clip and any(task.has_colours for task in tasks) else None
    figures = {}
    for name, images in pictures.items():
        right = [
            is_right(task, detect(image), colours.of(image) if colours else no_colours)
            for task, image in zip(tasks, images, strict=True)
        ]
        figures[name] = figure_of(tasks, right)
    return figures


def no_colours(group: object) -> list[str]:
    """Raise MetricUnavailable: a colour is asked for, and there is no CLIP."""
    raise MetricUnavailable("expected a CLIP for the colours of GenEval, found none: --clip")


def tasks_of(file: Path, prompts: list[str]) -> list[Task]:
    """Return the tasks of N prompts; MetricUnavailable if the file has others."""
    tasks = read_tasks(file)[: len(prompts)]
    if [task.prompt for task in tasks] != prompts:
        raise MetricUnavailable(
            f"{file}: expected GenEval's {FILE}, found other prompts than drawn"
        )
    return tasks


def figure_of(tasks: list[Task], right: list[bool]) -> Figure:
    """Return the share of right pictures, with that of each tag under "parts".

    Args:
        tasks: N tasks.
        right: whether each picture has everything.
    """
    by_tag: dict[str, list[bool]] = {}
    for task, one in zip(tasks, right, strict=True):
        by_tag.setdefault(task.tag, []).append(one)
    parts = {
        tag: {"value": float(np.mean(each)), "count": len(each)} for tag, each in by_tag.items()
    }
    return mean_of(np.array(right, dtype=float)) | {"parts": parts}
