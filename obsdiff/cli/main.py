"""The command line. Arguments and files are checked before torch or diffusers are imported.

Every error but a bug of obsdiff is one line. With OBSDIFF_TRACEBACK=1 in the environment errors of
the system and of other libraries keep their tracebacks.
"""

import argparse
import logging
import os
import sys

from ..errors import RunFailed, RunStopped, UserError
from ..pipelines.partial_output import part_folder
from ..pipelines.replaceable import WORK
from ..runtime.console import discard, lenient_streams, lost, settle, tell
from ..runtime.display import watching
from ..runtime.outlet import shown_as
from .arguments import parse
from .arguments import parser as parser
from .evaluate import evaluate_command
from .foreign_errors import foreign_line, raised_by, system_line, wants_traceback
from .prune import prune_command
from .push import push_command
from .sweep import sweep_command

CONTINUE = "; continue with --resume"
RESUMABLE = (evaluate_command, prune_command, sweep_command)


def main(argv: list[str] | None = None) -> int:
    """Run the command line.

    Args:
        argv: the words after the program's name; None for those of this process.

    Returns:
        The exit code: 0 done, 2 the input is wrong, 1 the run failed.
    """
    lenient_streams()
    quiet_imports()
    try:
        code = run_words(sys.argv[1:] if argv is None else argv)
    except SystemExit:  # after --help and --version
        if (error := settle()) is None:
            raise
        code = 0
    else:
        error = settle()
    if error is not None:
        tell(f"failed: {lost(error)}")
        return code or 1
    return code


def run_words(argv: list[str]) -> int:
    """Run a command and return the exit code; errors are printed.

    Args:
        argv: the words after the program's name.
    """
    args: argparse.Namespace | None = None
    try:
        args = parse(argv)
        with shown_as(getattr(args, "quiet", False), getattr(args, "log_file", None)), watching():
            args.run(args)
    except UserError as error:
        complain(f"error: {error}", error)
        return 2
    except RunFailed as error:
        more = CONTINUE if isinstance(error, RunStopped) and can_continue(args) else ""
        complain(f"failed: {error}{more}", error)
        return 1
    except KeyboardInterrupt:
        tell(f"interrupted{ending_of(args)}")
        return 1
    except BrokenPipeError:  # the reader closed the pipe
        discard(sys.stdout)
        return 1
    except Exception as error:
        line = other_line(error, args)
        if not line or wants_traceback():
            raise
        tell(f"failed: {line}{CONTINUE if can_continue(args) else ''}")
        return 1
    return 0


def ending_of(args: argparse.Namespace | None) -> str:
    """Return what an interrupted command leaves, and how to go on."""
    if args is not None and args.run is push_command:
        return "; the same command continues it"
    return CONTINUE if args is not None and args.run in RESUMABLE else "; nothing was written"


def other_line(error: Exception, args: argparse.Namespace | None) -> str:
    """Return the line about a lack of memory, or an error of the system or of a library.

    Args:
        error: the error.
        args: the command's arguments; None if they were not read yet.

    Returns:
        The line; "" for any other error, which is a bug of obsdiff.
    """
    if is_of_memory(error):
        reason = str(error).strip().splitlines()[0] if str(error).strip() else "MemoryError"
        return f"out of memory ({reason[:160]}); {memory_advice(reason, args)}"
    if library := raised_by(error):
        return foreign_line(error, library)
    return system_line(error) if isinstance(error, OSError) else ""


def memory_advice(reason: str, args: argparse.Namespace | None) -> str:
    """Return what to do about a lack of memory, of the host or, by torch's words, of a device."""
    if args is None or args.run not in (prune_command, sweep_command):
        return "set a smaller --batch-size"
    if "CUDA" in reason or "backend" in reason or "XPU" in reason:
        return (
            "set --offload model or group, a smaller --batch-size, or --calibration live with "
            "more --packages"
        )
    return "set a smaller --memory-budget-gib or --batch-size"


def can_continue(args: argparse.Namespace | None) -> bool:
    """Return whether the command left something that --resume continues."""
    if args is None or args.run not in RESUMABLE:
        return False
    output = args.output
    return bool(output.name) and os.path.isdir(part_folder(output) / WORK)


def complain(line: str, error: Exception) -> None:
    """Print a line on stderr, unless another process of the job has printed it."""
    if not getattr(error, "reported", False):
        tell(" ".join(line.splitlines()))


def is_of_memory(error: Exception) -> bool:
    """Return whether an error is a lack of memory: Python's, or torch's on a CPU or a device."""
    words = str(error)
    return (
        isinstance(error, MemoryError)
        or "can't allocate memory" in words
        or "out of memory" in words
    )


def quiet_imports() -> None:
    """Silence the import-time warnings of transformers, diffusers, torchao and torch."""
    for library in ("TRANSFORMERS", "DIFFUSERS"):
        os.environ.setdefault(f"{library}_VERBOSITY", "error")
    for name in ("torchao", "torch.utils._pytree"):
        logging.getLogger(name).setLevel(logging.ERROR)
