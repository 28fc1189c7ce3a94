"""Objects that were found in a picture -> right or wrong, by GenEval's rules.

    1. Of each class the MOST most confident objects above the threshold count.
    2. Every entry of `include` has at least its count; its most confident objects, as many as its
       count, all have the colour, and all stand in the position to all objects of the other entry.
    3. No entry of `exclude` has its count or more.

Boxes are (left, top, right, bottom) in pixels, from the upper left corner.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from .tasks import Task, Wanted

THRESHOLD = 0.3  # least confidence of an object
COUNTING_THRESHOLD = 0.9  # the same for tasks of the tag "counting"
MOST = 16  # objects of a class
REACH = 0.1  # share of both objects' sizes within which they are in no position to each other
SLANT = 0.5  # least part of a distance in a direction that counts
Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class Found:
    """An object that a detector found.

    Attributes:
        name: of its class.
        score: confidence, 0 to 1.
        box: left, top, right, bottom, in pixels.
        mask: its pixels (H, W), bool; None from a detector of boxes.
    """

    name: str
    score: float
    box: Box
    mask: np.ndarray | None = None


ColoursOf = Callable[[list[Found]], list[str]]  # objects of one class -> the colour of each


def is_right(task: Task, found: list[Found], colours_of: ColoursOf) -> bool:
    """Return whether a picture has everything that its prompt asks for.

    Args:
        task: what is asked for.
        found: all objects of the picture, in any order.
        colours_of: is called for objects whose colour is asked for.
    """
    objects = counted(found, task.tag)
    groups: list[list[Found]] = []  # the objects of each entry; empty if it is not fulfilled
    for wanted in task.include:
        group = objects.get(wanted.name, [])[: wanted.count]
        groups.append(group if fits(group, wanted, groups, colours_of) else [])
    too_many = any(len(objects.get(one.name, [])) >= one.count for one in task.exclude)
    return all(groups) and not too_many


def counted(found: list[Found], tag: str) -> dict[str, list[Found]]:
    """Return the objects that count by class, the most confident first.

    Args:
        found: all objects.
        tag: of the task.
    """
    least = COUNTING_THRESHOLD if tag == "counting" else THRESHOLD
    objects: dict[str, list[Found]] = {}
    for one in sorted(found, key=lambda one: -one.score):
        if one.score > least:
            objects.setdefault(one.name, []).append(one)
    return {name: group[:MOST] for name, group in objects.items()}


def fits(
    group: list[Found], wanted: Wanted, groups: list[list[Found]], colours_of: ColoursOf
) -> bool:
    """Return whether the most confident objects of a class are as an entry asks.

    Args:
        group: at most wanted.count objects.
        wanted: the entry.
        groups: the objects of the entries before it.
        colours_of: tells their colours.
    """
    if len(group) < wanted.count:
        return False
    if wanted.colour and any(colour != wanted.colour for colour in colours_of(group)):
        return False
    if wanted.position is None:
        return True
    others = groups[wanted.of]
    pairs = [(one.box, other.box) for one in group for other in others]
    return bool(pairs) and all(wanted.position in positions(*pair) for pair in pairs)


def positions(a: Box, b: Box) -> set[str]:
    """Return in which positions box a is to box b: of left of, right of, above and below.

    From the distance of the centres, in each direction, REACH of both sizes is taken off. A
    direction counts if more than SLANT of the whole distance is left in it.
    """
    one, other = (np.array(box, dtype=float).reshape(2, 2) for box in (a, b))
    distance = one.mean(0) - other.mean(0)
    sizes = np.ptp(one, 0) + np.ptp(other, 0)
    left_over = np.maximum(np.abs(distance) - REACH * sizes, 0) * np.sign(distance)
    if (np.abs(left_over) < 1e-3).all():
        return set()
    x, y = left_over / np.linalg.norm(distance)
    holds = {
        "left of": x < -SLANT,
        "right of": x > SLANT,
        "above": y < -SLANT,
        "below": y > SLANT,
    }
    return {name for name, true in holds.items() if true}
