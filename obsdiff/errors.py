"""The one error a user can cause, and the warning that a run can give."""


class UserError(ValueError):
    """The input is wrong. The message is one line: what was expected, what was found, what to do."""

    def __init__(self, message: str):
        super().__init__(" ".join(message.split()))


class CalibrationWarning(UserWarning):
    """The run goes on, but its result deserves a second look."""
