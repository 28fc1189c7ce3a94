"""Answers to the questions about a picture -> which of them count."""

from collections.abc import Mapping

from .questions import Question


def counting(questions: Mapping[int, Question], yes: Mapping[int, bool]) -> set[int]:
    """Return the numbers of the questions that count.

    A question counts if its answer is yes and all questions that it needs count, in whatever order
    they are. "Is the dog brown?" does not count where there is no dog.

    Args:
        questions: by number.
        yes: whether each was answered yes.
    """
    left = {number for number in questions if yes[number]}
    while gone := {number for number in left if not left.issuperset(questions[number].needs)}:
        left -= gone
    return left


def score(questions: Mapping[int, Question], yes: Mapping[int, bool]) -> float:
    """Return the share of the questions about a picture that count, 0 to 100."""
    return 100 * len(counting(questions, yes)) / len(questions)
