"""GenEval's rules on objects made by hand: no model decides here."""

import pytest

from obsdiff.evaluation.judges.geneval.rule import Found, counted, is_right, positions
from obsdiff.evaluation.judges.geneval.tasks import task_of

from .lines import LINES

SINGLE, TWO, COUNTING, COLOUR, POSITION, ATTRIBUTION = map(task_of, LINES)
BOX = (0.0, 0.0, 10.0, 10.0)


def found(name: str, score: float = 0.95, box=BOX) -> Found:
    return Found(name, score, box)


def never(group):
    raise AssertionError("no colour is asked for")


def painted(**colours: str):
    """The colours of objects by the name of their class."""
    return lambda group: [colours[one.name] for one in group]


def test_one_object_above_the_threshold_is_enough():
    assert is_right(SINGLE, [found("bench", 0.31), found("dog")], never)
    assert not is_right(SINGLE, [found("bench", 0.3)], never)
    assert not is_right(SINGLE, [found("dog")], never)
    assert not is_right(SINGLE, [], never)


def test_two_objects_have_both_to_be_there():
    assert is_right(TWO, [found("tv remote"), found("bench")], never)
    assert not is_right(TWO, [found("bench"), found("bench")], never)


@pytest.mark.parametrize(("confident", "right"), [(1, False), (2, True), (3, False)])
def test_numbers_are_exact_among_the_confident(confident, right):
    objects = [found("clock", 0.91)] * confident + [found("clock", 0.9)] * 5
    assert is_right(COUNTING, objects, never) is right


def test_without_exclude_more_objects_are_right():
    assert is_right(SINGLE, [found("bench")] * 5, never)


def test_the_most_confident_object_has_to_have_the_colour():
    seen = []

    def colours_of(group):
        seen.extend(one.score for one in group)
        return ["blue" if one.score > 0.8 else "red" for one in group]

    assert is_right(COLOUR, [found("car", 0.5), found("car", 0.9)], colours_of)
    assert seen == [0.9]
    assert not is_right(COLOUR, [found("car", 0.5)], colours_of)


def test_every_object_of_an_entry_has_to_have_the_colour():
    task = task_of(LINES[3] | {"include": [{"class": "car", "count": 2, "color": "blue"}]})
    cars = [found("car", 0.9), found("car", 0.8), found("car", 0.7)]
    assert is_right(task, cars, lambda group: ["blue", "blue"])
    assert not is_right(task, cars, lambda group: ["blue", "red"])


def test_colours_belong_to_their_objects():
    objects = [found("cup"), found("horse")]
    assert is_right(ATTRIBUTION, objects, painted(cup="red", horse="white"))
    assert not is_right(ATTRIBUTION, objects, painted(cup="white", horse="red"))


def test_a_position_is_that_of_the_most_confident_objects():
    cup, right = found("cup"), (20.0, 0.0, 30.0, 10.0)
    assert is_right(POSITION, [cup, found("dog", box=right)], never)
    assert not is_right(POSITION, [cup, found("dog", box=(-30.0, 0.0, -20.0, 10.0))], never)
    assert not is_right(POSITION, [found("dog", box=right)], never)  # nothing to be right of
    others = [found("dog", 0.5, right), found("dog", 0.9, (-30.0, 0.0, -20.0, 10.0))]
    assert not is_right(POSITION, [cup, *others], never)


def test_a_position_to_an_entry_that_failed_is_wrong():
    wanted = [
        {"class": "cup", "count": 1, "color": "red"},
        {"class": "dog", "count": 1, "position": ["right of", 0]},
    ]
    task = task_of(LINES[4] | {"include": wanted})
    objects = [found("cup"), found("dog", box=(20.0, 0.0, 30.0, 10.0))]
    assert is_right(task, objects, painted(cup="red"))
    assert not is_right(task, objects, painted(cup="blue"))


@pytest.mark.parametrize(
    ("x", "y", "size", "expected"),
    [
        (-20, 0, 10, {"left of"}),  # 18 of 20 are left over
        (-20, -10, 10, {"left of"}),  # above: (10 - 2) / 22.4 = 0.36
        (-20, -20, 10, {"left of", "above"}),  # 18 / 28.3 = 0.64 each
        (5, 30, 10, {"below"}),
        (-10, 0, 100, set()),  # within a tenth of both sizes
        (-39, 0, 100, set()),  # 19 / 39 = 0.49
        (-41, 0, 100, {"left of"}),  # 21 / 41 = 0.51
        (0, 0, 10, set()),
    ],
)
def test_positions(x, y, size, expected):
    a, b = (x, y, x + size, y + size), (0, 0, size, size)
    assert positions(a, b) == expected
    opposite = {"left of": "right of", "right of": "left of", "above": "below", "below": "above"}
    assert positions(b, a) == {opposite[one] for one in expected}
    turned = {"left of": "above", "right of": "below", "above": "left of", "below": "right of"}
    swapped = [(top, left, bottom, right) for left, top, right, bottom in (a, b)]
    assert positions(*swapped) == {turned[one] for one in expected}


def test_sixteen_of_a_class_count_the_most_confident_first():
    objects = [found("dog", 0.4 + i / 100) for i in range(20)]
    (group,) = counted(objects, "single_object").values()
    assert [one.score for one in group] == sorted((one.score for one in objects), reverse=True)[:16]
