r"""Text for people, on consoles of any kind: the one place where lines are printed.

Names come from checkpoints, files and prompts. A control character in them could set the title of a
terminal, hide a line or forge one, and a bidirectional override could show a name backwards: they
are shown as \x1b, not sent. Characters that an encoding lacks are shown in the same way. A message
that can't be written costs no work; a result that can't be written is an error.
"""

import contextlib
import os
import sys
from typing import TextIO

from ..errors import RunFailed

UNSEEN = (
    *range(0x20),
    *range(0x7F, 0xA0),
    *(0x61C, 0x200E, 0x200F),  # marks of a direction
    *range(0x2028, 0x202F),  # line separators, embeddings and overrides of a direction
    *range(0x2066, 0x206A),
    *range(0xD800, 0xE000),  # halves of pairs: bytes of a file name that are no UTF-8
)
ESCAPES = {code: chr(code).encode("unicode_escape").decode() for code in UNSEEN}


def shown(text: str) -> str:
    r"""Return a text as one line that changes nothing in a terminal: ESC becomes \x1b."""
    return text.translate(ESCAPES)


def tell(text: str) -> None:
    """Print one line for people to stderr; a line that can't be written is lost, and no more."""
    stream = sys.stderr
    if stream is None:  # closed by whoever started this process
        return
    with contextlib.suppress(OSError, ValueError):
        print(encodable(shown(text), stream), file=stream, flush=True)


def put(text: str) -> None:
    """Print a result, of one or several lines, to stdout.

    Raises:
        RunFailed: stdout can't be written.
        BrokenPipeError: nobody reads it.
    """
    stream = sys.stdout
    lines = "\n".join(map(shown, text.split("\n")))
    try:
        if stream is None:
            raise OSError("it is closed")
        print(encodable(lines, stream), file=stream, flush=True)
    except BrokenPipeError:
        raise
    except OSError as error:
        if stream is not None:
            discard(stream)  # what it holds would fail again when Python ends
        raise RunFailed(lost(error)) from error


def lost(error: OSError) -> str:
    """Return the words about a result that could not be printed."""
    return f"stdout can't be written: {error.strerror or error}"


def encodable(text: str, stream: TextIO) -> str:
    """Return a text in which characters that a stream's encoding lacks are escaped."""
    encoding = getattr(stream, "encoding", None) or "utf-8"
    return text.encode(encoding, "backslashreplace").decode(encoding)


def lenient_streams() -> None:
    """Escape what the encodings of stdout and stderr lack, also in what other libraries print."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


def settle() -> OSError | None:
    """Flush stdout and stderr, so that nothing fails when Python ends.

    A stream that can't be flushed is pointed at nothing.

    Returns:
        The error of stdout; None if everything was written, or nobody reads it any more.
    """
    found = None
    for stream in (sys.stdout, sys.stderr):
        try:
            if stream is not None:
                stream.flush()
        except OSError as error:
            discard(stream)
            if stream is sys.stdout and not isinstance(error, BrokenPipeError):
                found = error
        except ValueError:  # closed
            continue
    return found


def discard(stream: TextIO) -> None:
    """Point a stream's file at nothing, and drop what it holds."""
    with contextlib.suppress(OSError, ValueError):
        nothing = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nothing, stream.fileno())
        os.close(nothing)
        stream.flush()
