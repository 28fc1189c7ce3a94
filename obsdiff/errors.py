"""Exceptions and warnings of the package: wrong input, failed runs, doubtful results."""


class UserError(ValueError):
    """The input is wrong. The message is one line: what was expected, what was found, what to do.

    Args:
        message: any text; line breaks and repeated blanks become single blanks.
    """

    def __init__(self, message: str) -> None:
        super().__init__(" ".join(message.split()))


class RunFailed(RuntimeError):
    """The run has no result that can be trusted. The message names the layer."""


class CalibrationError(RunFailed):
    """Calibration missed calls, or inputs are infinite, NaN or not shared as in the table."""


class RunStopped(RunFailed):
    """The machine ended the run: full disk, too little memory, lost process. --resume continues."""


class NotPositiveDefinite(RunFailed):
    """The Hessian has no Cholesky factor, even with the highest damping."""


class CalibrationWarning(UserWarning):
    """The run continues, but its result needs a check."""
