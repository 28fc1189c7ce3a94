"""Which cases of a test the quick lane runs."""

from collections.abc import Iterable
from typing import Any

import pytest


def first_quick(cases: Iterable[Any]) -> list[Any]:
    """The first case is quick, the others are slow; a tuple has one value for each argument."""
    first, *others = cases
    return [first, *map(slow, others)]


def slow(case: Any) -> Any:
    """A case for the slow lane alone."""
    if isinstance(case, tuple) and hasattr(case, "marks"):  # a pytest.param
        return pytest.param(*case.values, id=case.id, marks=[*case.marks, pytest.mark.slow])
    return pytest.param(*(case if isinstance(case, tuple) else [case]), marks=pytest.mark.slow)
