"""What can go wrong: the user's input, a run, and what a run warns about."""


class UserError(ValueError):
    """The input is wrong. The message is one line: what was expected, what was found, what to do."""

    def __init__(self, message: str):
        super().__init__(" ".join(message.split()))


class RunFailed(RuntimeError):
    """The run can't give a result that could be trusted; the message names the layer."""


class CalibrationError(RunFailed):
    """Missed calls, inputs that are not finite or not shared as the table says."""


class RunStopped(RunFailed):
    """Something outside of the run ended it: a full disk, too little memory, another process. It can go on with --resume."""


class NotPositiveDefinite(RunFailed):
    """The Hessian could not be factored, whatever the damping."""


class CalibrationWarning(UserWarning):
    """The run goes on, but its result deserves a second look."""
