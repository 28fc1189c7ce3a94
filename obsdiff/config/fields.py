"""A setting as a dataclass field: its section, default and help, and how they are printed."""

import dataclasses
import textwrap
from dataclasses import field
from typing import Any

from .choices import DEFAULTS

# The sections, in the order of the help.
WHAT, AMOUNT, CALIBRATION = "what to prune", "how much", "calibration"
SOLVER, RESOURCES = "solver", "resources"
SECTIONS = (WHAT, AMOUNT, CALIBRATION, SOLVER, RESOURCES)
MODELS_OWN = "the model's own"


def setting(
    section: str,
    default: Any,
    text: str,
    *,
    otherwise: str | None = None,
    choices: tuple[str, ...] | None = None,
    metavar: str | None = None,
) -> Any:
    """Make a dataclass field with the metadata of its flag.

    Args:
        section: one of SECTIONS.
        default: its value if it is not given; None also if a preset may fill it in.
        text: the help, without its default.
        otherwise: the default in words, where `default` does not state it.
        choices: the possible values.
        metavar: the name of the value in the help.

    Returns:
        The dataclass field.
    """
    return field(
        default=default,
        metadata={
            "section": section,
            "help": text,
            "otherwise": otherwise,
            "choices": choices,
            "metavar": metavar,
        },
    )


def default_in_words(setting: "dataclasses.Field[Any]") -> str | None:
    """Return the default of a setting as its help prints it, or None if it has none."""
    if setting.metadata["otherwise"] is not None:
        return str(setting.metadata["otherwise"])
    value = DEFAULTS.get(setting.name) if setting.default is None else setting.default
    if isinstance(value, bool):
        return "yes" if value else "no"
    return None if value in (None, ()) else str(value)


def help_of(setting: "dataclasses.Field[Any]", more: str = "") -> str:
    """Return the help of a setting: its text, `more`, and its default once.

    Args:
        setting: a field that `setting` made.
        more: text between the help and the default.
    """
    default = default_in_words(setting)
    return setting.metadata["help"] + more + (f" (default: {default})" if default else "")


def describe_settings(settings: type) -> str:
    """Return the help of every field of a dataclass of settings, by section, for its docstring."""
    lines = []
    for section in SECTIONS:
        lines += ["", f"    {section.capitalize()}:"]
        for one in dataclasses.fields(settings):
            if one.metadata["section"] == section:
                text = f"{one.name}: {help_of(one)}"
                wrapped = textwrap.wrap(text, 88, break_on_hyphens=False)
                lines += [" " * (12 if i else 8) + line for i, line in enumerate(wrapped)]
    return "\n".join(lines) + "\n"
