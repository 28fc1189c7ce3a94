"""What GenEval's prompts ask for: evaluation_metadata.jsonl, one object a line. Imports no torch.

    {"tag": "position", "prompt": "a photo of a dog right of a cup", "include": [
        {"class": "cup", "count": 1}, {"class": "dog", "count": 1, "position": ["right of", 0]}]}

`include` has what must be there, `exclude` what must not be there so often; a position is relative
to the objects of an earlier entry of `include`, by its number from 0.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ....errors import UserError
from ....pipelines.prompt_files import read_text

FILE = "evaluation_metadata.jsonl"
COLOURS = (
    *("red", "orange", "yellow", "green", "blue"),
    *("purple", "pink", "brown", "black", "white"),
)
POSITIONS = ("left of", "right of", "above", "below")
SHOWN = 60  # characters of a wrong value in a message


@dataclass(frozen=True)
class Wanted:
    """Objects of one class.

    Attributes:
        name: of the class.
        count: how many, at least 1.
        colour: of each of them; None for any.
        position: of each of them, relative to the objects of `of`; None for any.
        of: number of an earlier entry.
    """

    name: str
    count: int
    colour: str | None = None
    position: str | None = None
    of: int = 0


@dataclass(frozen=True)
class Task:
    """What one prompt asks for.

    Attributes:
        tag: the kind of task: single_object, two_object, counting, colors, position, color_attr.
        prompt: the text.
        include: what must be there.
        exclude: what must not be there, `count` or more of it.
    """

    tag: str
    prompt: str
    include: tuple[Wanted, ...]
    exclude: tuple[Wanted, ...] = ()

    @property
    def classes(self) -> set[str]:
        """The classes that a detector has to know."""
        return {wanted.name for wanted in (*self.include, *self.exclude)}

    @property
    def has_colours(self) -> bool:
        """Whether it asks for colours."""
        return any(wanted.colour for wanted in self.include)


def read_tasks(file: Path) -> list[Task]:
    """Read the tasks of a file, in its order.

    Raises:
        UserError: the file can't be read, or a line is no task; the message has its number.
    """
    tasks = []
    for number, line in enumerate(read_text(file).split("\n"), 1):
        if line.strip():
            try:
                tasks.append(task_of(json.loads(line)))
            except (ValueError, RecursionError) as error:
                raise UserError(
                    f"geneval: {file}: line {number} is no task of GenEval's {FILE}: {error}"
                ) from None
    if not tasks:
        raise UserError(f"geneval: {file} has no tasks: expected GenEval's {FILE}")
    return tasks


def task_of(value: Any) -> Task:
    """Return the task in a JSON value; ValueError with what is wrong."""
    expect(isinstance(value, dict), "an object", value)
    tag, prompt, include = (value.get(key) for key in ("tag", "prompt", "include"))
    expect(isinstance(tag, str) and tag, "a tag", tag)
    expect(isinstance(prompt, str) and prompt.strip(), "a prompt", prompt)
    expect(isinstance(include, list) and include, "a list of objects in include", include)
    exclude = value.get("exclude", [])
    expect(isinstance(exclude, list), "a list of objects in exclude", exclude)
    return Task(
        tag,
        prompt.strip(),
        tuple(wanted_of(one, i) for i, one in enumerate(include)),
        tuple(wanted_of(one, 0) for one in exclude),
    )


def wanted_of(value: Any, earlier: int) -> Wanted:
    """Return an entry of include or exclude.

    Args:
        value: the JSON value.
        earlier: number of entries before it, to which a position may refer.

    Raises:
        ValueError: with what is wrong.
    """
    expect(isinstance(value, dict), "an object of include or exclude", value)
    name, count, colour = (value.get(key) for key in ("class", "count", "color"))
    expect(isinstance(name, str) and name, "the name of a class", name)
    expect(type(count) is int and count >= 1, "a count of at least 1", count)
    expect(colour is None or colour in COLOURS, f"a color, one of {', '.join(COLOURS)}", colour)
    wanted = Wanted(name, count, colour)
    return placed(wanted, value["position"], earlier) if "position" in value else wanted


def placed(wanted: Wanted, position: Any, earlier: int) -> Wanted:
    """Return an entry with its position, as JSON has it: ["left of", 0]."""
    words = f'a position such as ["{POSITIONS[0]}", 0], of an earlier entry'
    expect(isinstance(position, list) and len(position) == 2, words, position)
    where, of = position
    expect(where in POSITIONS and type(of) is int and 0 <= of < earlier, words, position)
    return replace(wanted, position=where, of=of)


def expect(holds: Any, words: str, found: Any) -> None:
    """Raise ValueError with what was expected and found, unless something holds."""
    if not holds:
        raise ValueError(f"expected {words}, found {json.dumps(found)[:SHOWN]}")


def missing_classes(tasks: list[Task], labels: Mapping[str, str]) -> list[str]:
    """Return the classes of some tasks that a detector does not know, sorted.

    Args:
        tasks: what is asked for.
        labels: id2label of the detector's config.
    """
    known = {geneval_name(label) for label in labels.values()}
    return sorted({name for task in tasks for name in task.classes} - known)


# COCO's names of classes that GenEval's prompts call otherwise
OTHERWISE = {"mouse": "computer mouse", "remote": "tv remote", "keyboard": "computer keyboard"}


def geneval_name(label: str) -> str:
    """Return GenEval's name of a class of COCO."""
    return OTHERWISE.get(label, label)
