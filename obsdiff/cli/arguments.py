"""The command line's parser: words to the arguments of a command."""

import argparse
import os

from ..errors import UserError
from ..runtime.version import VERSION
from .command_table import COMMANDS as COMMANDS
from .command_table import EXAMPLES
from .flags import place_model, read_lists
from .parsing import FORMATTER, Parser
from .settings_file import read_settings_file


def parse(words: list[str]) -> argparse.Namespace:
    """Parse the command line; without a word print the help.

    Args:
        words: the command line without the program's name.

    Returns:
        The arguments, with `run`, the function of the command, `parser`, and `words`.

    Raises:
        UserError: a word, or the file of --from, is wrong.
        SystemExit: after --help and --version.
    """
    require_working_folder()
    top = parser()
    words = words or ["--help"]
    top.check_words(words)
    args, others = top.parse_known_args(words)
    if others:
        args.parser.error(f"expected {args.parser.usage}; found also {' '.join(others)}")
    place_model(args)
    read_lists(args)
    read_settings_file(args)
    args.words = tuple(words)
    return args


def require_working_folder() -> None:
    """Raise UserError if the working folder was deleted: relative paths lead nowhere there."""
    try:
        os.getcwd()
    except OSError:
        raise UserError(
            "expected a working folder, found one that was deleted; change into another folder"
        ) from None


def parser() -> Parser:
    """Make the parser of the command line, with those of all commands."""
    top = Parser(
        prog="obsdiff",
        usage="obsdiff COMMAND ...",
        description="Prune text-to-image diffusion pipelines in one shot, without training.",
        epilog=EXAMPLES,
        formatter_class=FORMATTER,
    )
    top.add_argument("--version", action="version", version=f"obsdiff {VERSION}")
    commands = top.add_subparsers(
        title="commands", required=True, parser_class=Parser, metavar="COMMAND", prog="obsdiff"
    )
    for name, command in COMMANDS.items():
        p = commands.add_parser(
            name,
            usage=f"obsdiff {name} {command.usage}",
            help=command.summary,
            description=command.about,
            epilog=command.epilog,
            formatter_class=FORMATTER,
        )
        command.add(p)
        p.set_defaults(run=command.run, parser=p)
    top.commands = dict(commands.choices)
    return top
