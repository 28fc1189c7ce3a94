"""The optional extras of the package, and the libraries that each brings."""

from importlib.util import find_spec

from ..errors import UserError

EXTRAS = {
    "eval": ("torchmetrics",),
    "report": ("jinja2", "matplotlib"),
    "demo": ("torchmetrics", "jinja2", "matplotlib"),
}


def require_extra(extra: str, command: str) -> None:
    """UserError with the install command unless every library of an extra is installed. Nothing is imported."""
    missing = [name for name in EXTRAS[extra] if find_spec(name) is None]
    if missing:
        raise UserError(
            f"{command} needs {' and '.join(missing)}, not installed here; pip install 'obsdiff[{extra}]'"
        )
