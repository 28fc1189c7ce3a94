"""The arguments of every command."""

import argparse
import dataclasses
import typing
from collections.abc import Callable
from pathlib import Path

import obsdiff

from ..config import PruningConfig
from ..config.choices import CALL_SETTINGS
from ..config.settings import RESOURCES
from ..pipelines.builtin import BUILTINS
from .commands import demo_command, inspect_command, report_command, verify_command
from .evaluate import evaluate_command
from .flags import add_settings, flag_of, flag_options, place_model, read_lists
from .parsing import FORMATTER, Parser, decimal_number, whole_number
from .prune import prune_command

MODEL_HELP = (
    "pipeline folder, hub id, single-file checkpoint (.safetensors, with --config), "
    f"or built-in: {', '.join(BUILTINS)}"
)
CONFIG_HELP = (
    "pipeline folder with the configs of a single-file checkpoint, which describe how to read the "
    "file; no setting of the pruning"
)
RESUME_HELP = "continue a run that was killed; the result is the same"
OVERWRITE_HELP = "replace an output folder that obsdiff wrote; any other folder is refused"
OUTPUT_HELP = "folder to write; it appears complete or not at all"


@dataclasses.dataclass(frozen=True)
class Command:
    """A subcommand."""

    run: Callable[[argparse.Namespace], None]
    add: Callable[[argparse.ArgumentParser], None]  # adds its arguments to its parser
    summary: str  # one line in the list of commands
    usage: str  # its arguments
    about: str  # the paragraph above its arguments
    epilog: str  # examples


def parse(words: list[str]) -> argparse.Namespace:
    """Parse the command line; without a word print the help.

    Args:
        words: the command line without the program's name.

    Returns:
        The arguments, with `run`, the function of the command, and `parser`.

    Raises:
        UserError: a word is wrong.
        SystemExit: after --help and --version.
    """
    top = parser()
    words = words or ["--help"]
    top.check_words(words)
    args, others = top.parse_known_args(words)
    if others:
        args.parser.error(f"expected {args.parser.usage}; found also {' '.join(others)}")
    place_model(args)
    read_lists(args)
    return args


def parser() -> Parser:
    """Make the parser of the command line, with those of all commands."""
    top = Parser(
        prog="obsdiff",
        usage="obsdiff COMMAND ...",
        description="Prune text-to-image diffusion pipelines in one shot, without training.",
        epilog=EXAMPLES,
        formatter_class=FORMATTER,
    )
    top.add_argument("--version", action="version", version=f"obsdiff {obsdiff.__version__}")
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


def add_prune(p: argparse.ArgumentParser) -> None:
    """Arguments of prune."""
    add_model(p)
    groups = add_settings(p, several=True)
    groups[RESOURCES].add_argument(
        "--timeout-minutes",
        type=decimal_number,
        default=30.0,
        metavar="MINUTES",
        help="longest time that one of several processes (torchrun) waits for the others "
        "(default: %(default)g)",
    )
    group = add_output(p, "DIR")
    group.add_argument("--json", action="store_true", help="print the record on stdout")


def add_inspect(p: argparse.ArgumentParser) -> None:
    """Arguments of inspect."""
    add_model(p)
    add_settings(p)
    group = p.add_argument_group("output")
    group.add_argument("--json", action="store_true", help="print the plan as JSON")
    group.add_argument(
        "--paper-count",
        action="store_true",
        help='with --pattern structured: also count parameters and "TFLOPs" as the OBS-Diff paper '
        "does",
    )


def add_model(p: argparse.ArgumentParser) -> None:
    """MODEL, and the configs of a single file."""
    group = p.add_argument_group("model")
    model = group.add_argument("model", metavar="MODEL", help=MODEL_HELP)
    model.required = False  # it may follow the values of a flag: see place_model
    group.add_argument("--config", metavar="FOLDER", type=Path, help=CONFIG_HELP)


def add_output(p: argparse.ArgumentParser, metavar: str) -> "argparse._ArgumentGroup":
    """--output, --resume, --overwrite; returns their group."""
    group = p.add_argument_group("output")
    group.add_argument("--output", required=True, metavar=metavar, type=Path, help=OUTPUT_HELP)
    group.add_argument("--resume", action="store_true", help=RESUME_HELP)
    group.add_argument("--overwrite", action="store_true", help=OVERWRITE_HELP)
    return group


def add_evaluate(p: argparse.ArgumentParser) -> None:
    """Arguments of evaluate."""
    group = p.add_argument_group("pipelines")
    group.add_argument("runs", metavar="DIR", nargs="+", type=Path, help="pruned pipelines")
    group.add_argument(
        "--against", required=True, metavar="MODEL", help=f"the dense pipeline: {MODEL_HELP}"
    )
    group.add_argument("--config", metavar="FOLDER", type=Path, help=CONFIG_HELP)
    group.add_argument(
        "--component",
        metavar="NAME",
        help="pipeline component that was pruned "
        "(default: the one in the records of the pruned folders, else as for prune)",
    )
    add_pictures(p)
    add_judges(p)
    group = add_output(p, "RUN")
    group.add_argument("--json", action="store_true", help="print results.json on stdout")


def add_pictures(p: argparse.ArgumentParser) -> None:
    """How evaluate calls the pipelines; the settings of the call are described in PruningConfig."""
    group = p.add_argument_group("pictures")
    group.add_argument(
        "--prompts",
        metavar="FILE",
        type=Path,
        help="prompts, UTF-8, one a line "
        "(default: a built-in's evaluation prompts, else general captions of obsdiff)",
    )
    numbers = {
        "num_prompts": (64, "number of prompts, the first ones"),
        "seed": (1_000_000, "prompt i starts from seed + i, far from those of the calibration"),
        "batch_size": (4, "prompts per pipeline call"),
        "rounds": (5, "timed pictures, dense and pruned in turn; 0 measures no time"),
    }
    for name, (default, text) in numbers.items():
        group.add_argument(
            flag_of(name),
            type=whole_number,
            default=default,
            metavar="SEED" if name == "seed" else "N",
            help=f"{text} (default: %(default)s)",
        )
    kinds = typing.get_type_hints(PruningConfig)
    for field in dataclasses.fields(PruningConfig):
        if field.name in CALL_SETTINGS:
            group.add_argument(flag_of(field.name), **flag_options(field, kinds[field.name]))


def add_judges(p: argparse.ArgumentParser) -> None:
    """The metric models: files, or hub ids in the hub's cache."""
    group = p.add_argument_group(
        "metric models",
        "Paths, or ids in the hub's cache; nothing is downloaded.\n"
        "A metric without its model is reported as not run.",
    )
    for flag, metavar, text in (
        ("--clip", "PATH", "CLIPModel folder for CLIP score (default for a built-in: emoji-clip)"),
        (
            "--features",
            "inception|PATH",
            "extractor for FID and KID: inception (weights in torch's cache), a file of its "
            "weights, or a CLIP folder (default: inception; for a built-in emoji-clip)",
        ),
        (
            "--real",
            "FOLDER|FILE",
            "real pictures for FID and KID, or their saved features as .safetensors "
            "(default for a built-in: those that ship with it)",
        ),
        (
            "--lpips",
            "FILE",
            "weights of AlexNet for LPIPS (default: torchvision's file in torch's cache)",
        ),
        ("--pickscore", "PATH", "PickScore folder (a CLIPModel)"),
        (
            "--image-reward",
            "FOLDER",
            "ImageReward folder: its weights, med_config.json, the tokenizer of BERT",
        ),
    ):
        group.add_argument(flag, metavar=metavar, help=text)


def add_report(p: argparse.ArgumentParser) -> None:
    """Arguments of report."""
    p.add_argument("runs", metavar="RUN", nargs="+", type=Path, help="folders with a results.json")
    p.add_argument(
        "--output", required=True, metavar="PAGE.html", type=Path, help="HTML file to write"
    )
    p.add_argument(
        "--overwrite",
        action="store_true",
        help="replace a page that obsdiff wrote; any other file is refused",
    )


def add_verify(p: argparse.ArgumentParser) -> None:
    """Arguments of verify."""
    p.add_argument("folder", metavar="DIR", type=Path, help="folder that obsdiff prune wrote")


def add_demo(p: argparse.ArgumentParser) -> None:
    """Arguments of demo."""
    p.add_argument(
        "--output",
        default=Path("obsdiff-demo"),
        metavar="DIR",
        type=Path,
        help="folder to write (default: %(default)s)",
    )
    p.add_argument("--overwrite", action="store_true", help=OVERWRITE_HELP)


EXAMPLES = """\
examples:
  obsdiff inspect emoji-sd3 --pattern structured --sparsity 30%
  obsdiff prune emoji-sd3 --pattern structured --sparsity 30% --output pruned
  obsdiff evaluate pruned --against emoji-sd3 --output run
  obsdiff report run --output page.html

obsdiff COMMAND --help lists the flags of a command. Exit codes: 0 done, 2 wrong input, 1 failed."""

COMMANDS = {
    "prune": Command(
        prune_command,
        add_prune,
        "prune a pipeline and save the result",
        "MODEL --output DIR [flag ...]",
        "Prune the denoiser of a pipeline, and save the pipeline with a record (obsdiff.json).",
        """\
examples:
  obsdiff prune emoji-sd3 --sparsity 50% --output out
  obsdiff prune emoji-sd3 --preset best --pattern 2:4 --output out
  obsdiff prune emoji-sd3 --pattern structured --target-macs 80% --output out
  obsdiff prune --sparsity 0.3 0.5 emoji-sd3 --output out    (writes out/0.30 and out/0.50)
  torchrun --nproc-per-node 4 -m obsdiff prune emoji-sd3 --output out

Several values are separated by spaces; those of --sparsity and --pattern also by commas.
MODEL may follow them: without a MODEL elsewhere, it is the last value of --sparsity or --pattern
that is no share or pattern, else the last value of --include or --exclude without *, ? and [.""",
    ),
    "inspect": Command(
        inspect_command,
        add_inspect,
        "print the plan of a pruning without running it: layers, packages, memory, cost",
        "MODEL [flag ...]",
        "Print the layers to prune, packages, memory and number of denoising steps; for structured "
        "pruning\nalso the remaining parameters and MACs. Nothing is run; folders without weights "
        "are enough.",
        """\
examples:
  obsdiff inspect emoji-sd3
  obsdiff inspect emoji-sd3 --pattern structured --target-parameters 80%
  obsdiff inspect FOLDER --pattern structured --sparsity 30% --json

MODEL may follow wildcards: without a MODEL elsewhere, it is the last value of --include or
--exclude without *, ? and [.""",
    ),
    "evaluate": Command(
        evaluate_command,
        add_evaluate,
        "compare pruned pipelines with the dense one: pictures, metrics, costs",
        "DIR [DIR ...] --against MODEL --output RUN [flag ...]",
        "Draw the same prompts with the same seeds with the dense and the pruned pipelines; write "
        "pictures\nand results.json, and print a table.",
        """\
examples:
  obsdiff evaluate out --against emoji-sd3 --output run
  obsdiff evaluate out/0.30 out/0.50 --against emoji-sd3 --output run --num-prompts 24""",
    ),
    "report": Command(
        report_command,
        add_report,
        "write one self-contained HTML page about one or several evaluations",
        "RUN [RUN ...] --output PAGE.html [--overwrite]",
        "Write one self-contained HTML page: pictures side by side, plots, tables.",
        "example:\n  obsdiff report run --output page.html",
    ),
    "verify": Command(
        verify_command,
        add_verify,
        "check a pruned folder against its record: hashes, shapes, zeros, pattern",
        "DIR",
        "Check the files of a pruned folder against its record: hashes, shapes, zeros, pattern.",
        "example:\n  obsdiff verify out",
    ),
    "demo": Command(
        demo_command,
        add_demo,
        "prune the built-in model in six ways, evaluate, and write the page",
        "[--output DIR] [--overwrite]",
        "Prune the built-in model in six ways, evaluate them, and write OUTPUT/demo.html.",
        "example:\n  obsdiff demo --output obsdiff-demo",
    ),
}
