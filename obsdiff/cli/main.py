"""The command line. Arguments and files are checked before torch or diffusers are imported."""

import logging
import os
import sys

from ..errors import RunFailed, RunStopped, UserError
from ..runtime.display import watching
from ..runtime.outlet import shown_as
from .arguments import parse
from .arguments import parser as parser
from .evaluate import evaluate_command
from .prune import prune_command

CONTINUE = "; continue with --resume"


def main(argv: list[str] | None = None) -> int:
    """Run the command line.

    Args:
        argv: the words after the program's name; None for those of this process.

    Returns:
        The exit code: 0 done, 2 the input is wrong, 1 the run failed.
    """
    quiet_imports()
    args = None
    try:
        args = parse(sys.argv[1:] if argv is None else argv)
        with shown_as(getattr(args, "quiet", False), getattr(args, "log_file", None)), watching():
            args.run(args)
    except UserError as error:
        complain(f"error: {error}", error)
        return 2
    except RunFailed as error:
        complain(f"failed: {error}{CONTINUE if isinstance(error, RunStopped) else ''}", error)
        return 1
    except KeyboardInterrupt:
        resumable = args is not None and args.run in (evaluate_command, prune_command)
        ending = CONTINUE if resumable else "; nothing was written"
        print(f"interrupted{ending}", file=sys.stderr)
        return 1
    except BrokenPipeError:  # the reader closed the pipe
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (MemoryError, RuntimeError) as error:
        if not is_of_memory(error):
            raise
        reason = str(error).strip().splitlines()[0] if str(error).strip() else "MemoryError"
        print(
            f"failed: out of memory ({reason[:160]}); "
            f"set a smaller --memory-budget-gib or --batch-size{CONTINUE}",
            file=sys.stderr,
        )
        return 1
    return 0


def complain(line: str, error: Exception) -> None:
    """Print a line on stderr, unless another process of the job has printed it."""
    if not getattr(error, "reported", False):
        print(line, file=sys.stderr)


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
