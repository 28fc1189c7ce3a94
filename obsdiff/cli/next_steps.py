"""The last line of a command: what to do next. For people alone: on stderr, and in no log."""

import argparse
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path

from ..runtime.console import tell
from ..runtime.outlet import OUTLET


def suggest(text: str) -> None:
    """Print what to do next; nothing with --quiet."""
    if not OUTLET.quiet:
        tell(f"next: {text}")


def typed(*words: str | Path) -> str:
    """Return a command of obsdiff as it is typed: paths with spaces are quoted."""
    return shlex.join(["obsdiff", *map(str, words)])


def reading(args: argparse.Namespace) -> list[str]:
    """Return the flags that say how MODEL is read, as they were given."""
    given = (("--config", args.config), ("--variant", args.variant))
    return [word for flag, value in given if value is not None for word in (flag, str(value))]


def after_pruning(args: argparse.Namespace, folders: Sequence[Path]) -> str:
    """Return the command that compares pruned folders with their model.

    Args:
        args: the arguments of prune.
        folders: what it wrote.
    """
    run = args.output.with_name(f"{args.output.name}-run")
    return typed("evaluate", *folders, "--against", args.model, *reading(args), "--output", run)


def after_evaluating(output: Path, quick: bool) -> str:
    """Return the command that shows a run.

    Args:
        output: the folder of the run.
        quick: whether it is too short for figures to report.
    """
    page = output.with_name(f"{output.name}.html")
    more = "; for figures to report evaluate without --quick" if quick else ""
    return typed("report", output, "--output", page) + more


def after_drawing(args: argparse.Namespace, pruned: bool, dense: str = "") -> str:
    """Return the command that measures what one picture can't tell, or that begins a pruning.

    Args:
        args: the arguments of draw.
        pruned: whether the picture is of a pruned folder.
        dense: the model that this was made of; "" if it is not known.
    """
    if not pruned:
        return typed("plan", args.model, *reading(args))
    return typed("evaluate", args.model, "--against", dense or "MODEL", "--output", "RUN")


def in_browser(page: Path) -> str:
    """Return the words about a page."""
    return f"open {page} in a browser"


INSPECTION = {"--json": 0, "--paper-count": 0, "--vram": 1}  # flags of inspect alone: their values


def after_inspecting(words: Sequence[str]) -> str:
    """Return the command that prunes as `inspect` planned.

    Args:
        words: the command line of inspect.
    """
    return typed(*without(words, INSPECTION, "prune"), "--output", "pruned")


def without(words: Sequence[str], flags: Mapping[str, int], command: str) -> list[str]:
    """Return a command line for another command, without some flags.

    Args:
        words: the command line.
        flags: flag that is left out -> number of its values.
        command: the other command.
    """
    kept = [command]
    left = iter(words[1:])
    for word in left:
        flag, equals, _ = word.partition("=")
        if flag not in flags:
            kept.append(word)
        elif not equals:
            for _ in range(flags[flag]):
                next(left, None)
    return kept
