"""Pictures -> DPG-Bench's figure: the mean score of the prompts, and the answers by category."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image

from ...metrics import Figure, mean_of
from ..weights import MetricUnavailable
from .answers import open_answers
from .questions import Item, read_items
from .rule import score

Yes = dict[int, bool]  # the number of a question -> whether its answer is yes


def dpg_figures(
    pictures: Mapping[str, list[Image.Image]], prompts: list[str], folder: Path, model: Path
) -> dict[str, Figure]:
    """Return the figure of each pipeline.

    Args:
        pictures: N pictures of each.
        prompts: their prompts, the first N of the folder.
        folder: DPG-Bench's prompts.
        model: folder of the model that answers.

    Raises:
        MetricUnavailable: the model can't be loaded, or the folder has other prompts.
    """
    items = read_items(folder)[: len(prompts)]
    if [item.prompt for item in items] != prompts:
        raise MetricUnavailable(f"{folder}: expected the prompts of the run, found others")
    says_yes = open_answers(model)
    figures = {}
    for name, images in pictures.items():
        answers = [
            {number: says_yes(image, one.text) for number, one in item.questions.items()}
            for item, image in zip(items, images, strict=True)
        ]
        figures[name] = figure_of(items, answers)
    return figures


def figure_of(items: list[Item], answers: list[Yes]) -> Figure:
    """Return the mean score of N prompts, 0 to 100; under "parts" the yes of each category.

    Args:
        items: N prompts with their questions.
        answers: to the questions about each picture.
    """
    pairs = list(zip(items, answers, strict=True))
    by_category: dict[str, list[bool]] = {}
    for item, yes in pairs:
        for number, question in item.questions.items():
            by_category.setdefault(question.category, []).append(yes[number])
    parts = {
        category: {"value": 100 * float(np.mean(each)), "count": len(each)}
        for category, each in sorted(by_category.items())
    }
    scores = np.array([score(item.questions, yes) for item, yes in pairs])
    return mean_of(scores) | {"parts": parts}
