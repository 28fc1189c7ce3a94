"""The optional extras of the package, and the libraries that each installs."""

from importlib.util import find_spec

from ..errors import UserError

EXTRAS = {
    "eval": ("torchmetrics",),
    "report": ("jinja2", "matplotlib"),
    "geneval": ("scipy",),
    "gguf": ("gguf",),
    "torchao": ("torchao",),
    "demo": ("torchmetrics", "jinja2", "matplotlib"),
}


def require_extra(extra: str, command: str) -> None:
    """Check that every library of an extra is installed. Imports none of them.

    Args:
        extra: a key of EXTRAS.
        command: the command that needs the extra, for the message.

    Raises:
        UserError: a library is missing; the message has the install command.
    """
    missing = missing_of(extra)
    if missing:
        raise UserError(
            f"{command} needs {' and '.join(missing)}, not installed here; "
            f"pip install 'obsdiff[{extra}]'"
        )


def missing_of(extra: str) -> list[str]:
    """Return the libraries of an extra that are not installed."""
    return [name for name in EXTRAS[extra] if find_spec(name) is None]


def is_installed(extra: str) -> bool:
    """Return whether every library of an extra is installed."""
    return not missing_of(extra)
