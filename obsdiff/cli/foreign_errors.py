"""Errors of the libraries below: which one raised it, and one line about it.

diffusers, transformers and torch raise errors of any type about a checkpoint, a scheduler or a
machine. For a user they are one line. An error that obsdiff's own code raises is a bug, and keeps
its traceback.
"""

import os
import sys
import traceback

TRACEBACK = "OBSDIFF_TRACEBACK"  # with any value: every error keeps its traceback
SHOWN = 200  # characters of an error's first line
LIBRARIES = (
    *("torch", "diffusers", "transformers", "tokenizers", "safetensors", "safetensors_rust"),
    *("accelerate", "huggingface_hub", "peft", "sentencepiece", "numpy", "PIL", "torchmetrics"),
    *("torchvision", "matplotlib", "jinja2", "markupsafe", "filelock", "httpx", "requests"),
)


def wants_traceback() -> bool:
    """Return whether the user asked for tracebacks."""
    return bool(os.environ.get(TRACEBACK))


def raised_by(error: BaseException) -> str:
    """Return the library that raised an error; "" for obsdiff itself and everything else.

    It is the one of the innermost frame that is not of Python's own library, else the one that
    defines the type of the error.
    """
    if (own := top_of(type(error).__module__)) in LIBRARIES:
        return own
    frames = list(traceback.walk_tb(error.__traceback__))
    for frame, _ in reversed(frames):
        module = top_of(frame.f_globals.get("__name__") or "")
        if module in LIBRARIES:
            return module
        if module not in sys.stdlib_module_names or module == "__main__":
            return ""
    return ""


def top_of(module: str) -> str:
    """Return the name of the distribution's package: torch of torch.nn.functional."""
    return module.partition(".")[0]


def foreign_line(error: BaseException, library: str) -> str:
    """Return the line about an error of a library: which, the type, the first line of its text."""
    words = str(error).strip()
    first = words.splitlines()[0][:SHOWN] if words else "without a message"
    return f"{library} raised {type(error).__name__}: {first}; {TRACEBACK}=1 shows where"


def system_line(error: OSError) -> str:
    """Return the line about an error of the operating system: what, and which file."""
    what = error.strerror or str(error) or type(error).__name__
    return f"{error.filename}: {what}" if error.filename is not None else what
