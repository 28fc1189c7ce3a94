"""What a pipeline says about arguments that it does not accept, as one line."""

import contextlib
import re
from collections.abc import Callable, Iterator
from typing import Any

from ..errors import UserError
from .call import absent_encoders
from .errors_below import is_own


@contextlib.contextmanager
def refused(pipe: Any, before_first_step: Callable[[], bool] = lambda: True) -> Iterator[None]:
    """Turn a pipeline's errors about its arguments into UserError.

    Args:
        pipe: the pipeline that is called inside.
        before_first_step: whether an error now is one about the arguments. Pipelines check them
            before their first step.

    Raises:
        UserError: the pipeline refused its arguments, or needs an absent text encoder.
    """
    try:
        yield
    except (ValueError, TypeError, AttributeError) as error:
        absent = absent_encoders(pipe)
        if (
            not before_first_step()
            or isinstance(error, UserError)
            or is_own(error)
            or (isinstance(error, AttributeError) and not absent)
        ):
            raise
        if wrong := wrong_size(str(error)):
            raise UserError(wrong) from error
        without = f" (it has no {' and no '.join(absent)})" if absent else ""
        raise UserError(
            f"{type(pipe).__name__} does not accept these prompts and settings{without}: "
            f"{' '.join(str(error).split())}"
        ) from error


def wrong_size(words: str) -> str:
    """Return the line about a picture's size that is no multiple; "" for other words.

    Args:
        words: of diffusers, whose own advice may be a height of 0.
    """
    found = re.search(r"divisible by (\d+) but are (\d+) and (\d+)", words)
    if not found:
        return ""
    step, *sides = (int(number) for number in found.groups())
    near = [max(step, side // step * step) for side in sides]
    return (
        f"height, width: expected multiples of {step}, found height {sides[0]} and width "
        f"{sides[1]}; pass height {near[0]} and width {near[1]}"
    )
