"""Which questions count, from answers made by hand: no model decides here."""

import itertools

import pytest

from obsdiff.evaluation.judges.dpg.questions import Question
from obsdiff.evaluation.judges.dpg.rule import counting, score


def questions(**needs: tuple[int, ...]) -> dict[int, Question]:
    """Questions by number, with what they need: n2=(1,)."""
    return {int(name[1:]): Question("?", "entity", each) for name, each in needs.items()}


DOG = questions(n1=(), n2=(1,), n3=(), n4=(1, 3))


@pytest.mark.parametrize(
    ("yes", "expected"),
    [
        ({1, 2, 3, 4}, {1, 2, 3, 4}),
        ({2, 3, 4}, {3}),  # no dog: it is neither brown nor on the mat
        ({1, 2, 4}, {1, 2}),  # no mat
        ({1}, {1}),
        (set(), set()),
    ],
)
def test_a_question_counts_only_with_those_that_it_needs(yes, expected):
    answers = {number: number in yes for number in DOG}
    assert counting(DOG, answers) == expected
    assert score(DOG, answers) == 25 * len(expected)


def test_a_no_is_passed_on_through_a_chain_in_any_order():
    chain = questions(n1=(), n2=(1,), n3=(2,), n4=(3,))
    answers = {1: False, 2: True, 3: True, 4: True}
    for order in itertools.permutations(chain):
        assert counting({number: chain[number] for number in order}, answers) == set()


def test_questions_that_need_each_other_count_together():
    circle = questions(n1=(2,), n2=(1,))
    assert counting(circle, {1: True, 2: True}) == {1, 2}
    assert counting(circle, {1: True, 2: False}) == set()
