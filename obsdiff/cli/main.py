"""The command line. Arguments and files are checked before torch or diffusers are imported."""

import argparse
import dataclasses
import logging
import os
import sys
import typing
from pathlib import Path
from typing import Any

from ..config import PruningConfig
from ..errors import RunFailed, RunStopped, UserError
from ..pipelines.builtin import BUILTINS
from .commands import CALL, demo_command, inspect_command, report_command, verify_command
from .evaluate import evaluate_command
from .prune import prune_command

MODEL_HELP = f"a pipeline folder, a hub id, a single-file checkpoint (.safetensors, with --config), or a built-in: {', '.join(BUILTINS)}"
CONFIG = "pipeline folder with the configs of a single-file checkpoint: it says how the file is read, and is no setting of the pruning"
SEVERAL = {
    "sparsity": "; several values write DIR/0.30, DIR/0.40 ..., and share one calibration unless it is live",
    "pattern": "; several write DIR/unstructured-0.50, DIR/2-4 ...",
}
GO_ON = "; go on with --resume"
NEGATED = {"compensation": "--no-compensation"}


class Parser(argparse.ArgumentParser):
    """argparse, whose complaints become our one line."""

    def error(self, message: str) -> typing.NoReturn:
        raise UserError(f"{message} (see {self.prog} --help)")


def main(argv: list[str] | None = None) -> int:
    """Run the command line; returns the exit code: 0 done, 2 the input is wrong, 1 the run failed."""
    hush()
    try:
        args = parser().parse_args(argv)
        args.run(args)
    except UserError as error:
        complain(f"error: {error}", error)
        return 2
    except RunFailed as error:
        complain(f"failed: {error}{GO_ON if isinstance(error, RunStopped) else ''}", error)
        return 1
    except KeyboardInterrupt:
        print(
            f"interrupted{GO_ON if args.run in (evaluate_command, prune_command) else '; nothing was written'}",
            file=sys.stderr,
        )
        return 1
    except BrokenPipeError:  # the reader of stdout has had enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (MemoryError, RuntimeError) as error:
        if not is_of_memory(error):
            raise
        reason = str(error).strip().splitlines()[0] if str(error).strip() else "MemoryError"
        print(
            f"failed: out of memory ({reason[:160]}); take a smaller --memory-budget-gib or --batch-size{GO_ON}",
            file=sys.stderr,
        )
        return 1
    return 0


def complain(line: str, error: Exception) -> None:
    """A line on stderr, unless another process of the job has said it."""
    if not getattr(error, "told", False):
        print(line, file=sys.stderr)


def is_of_memory(error: Exception) -> bool:
    """Whether an error says that there was not enough memory: Python's, torch's on a CPU, torch's on a device."""
    words = str(error)
    return (
        isinstance(error, MemoryError)
        or "can't allocate memory" in words
        or "out of memory" in words
    )


def hush() -> None:
    """The libraries' remarks on being imported are not about pruning."""
    for library in ("TRANSFORMERS", "DIFFUSERS"):
        os.environ.setdefault(f"{library}_VERBOSITY", "error")
    for name in ("torchao", "torch.utils._pytree"):
        logging.getLogger(name).setLevel(logging.ERROR)


def parser() -> Parser:
    top = Parser(
        prog="obsdiff",
        description="Prune text-to-image diffusion pipelines in one shot, without training.",
    )
    commands = top.add_subparsers(
        title="commands", required=True, parser_class=Parser, metavar="COMMAND"
    )

    p = commands.add_parser(
        "prune",
        help="prune a pipeline and save it",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add_model(p)
    p.add_argument(
        "--output",
        required=True,
        metavar="DIR",
        type=Path,
        help="folder to write; appears complete or not at all",
    )
    p.add_argument(
        "--resume",
        action="store_true",
        help="go on from a run that was killed; the result is the same",
    )
    p.add_argument(
        "--overwrite",
        action="store_true",
        help="replace an output folder that obsdiff wrote; any other stays",
    )
    p.add_argument("--json", action="store_true", help="print the record on stdout")
    p.add_argument(
        "--timeout-minutes",
        type=float,
        default=30.0,
        help="how long one of several processes (torchrun) waits for the others",
    )
    add_config(p, several=True)
    p.set_defaults(run=prune_command)

    p = commands.add_parser(
        "inspect",
        help="what would be pruned, packages, memory; for structured the parameters and MACs that would be left; nothing is run",
    )
    add_model(p)
    p.add_argument("--json", action="store_true", help="print the plan on stdout as JSON")
    p.add_argument(
        "--paper-count",
        action="store_true",
        help='with --pattern structured: count parameters and "TFLOPs" as the OBS-Diff paper does, too',
    )
    add_config(p)
    p.set_defaults(run=inspect_command)

    p = commands.add_parser(
        "evaluate",
        help="the same prompts and seeds through pruned pipelines and the dense one: pictures, results.json, a table",
    )
    p.add_argument("runs", metavar="DIR", nargs="+", type=Path, help="pruned pipelines")
    p.add_argument(
        "--against", required=True, metavar="MODEL", help=f"the dense pipeline: {MODEL_HELP}"
    )
    p.add_argument("--config", metavar="FOLDER", type=Path, help=CONFIG)
    p.add_argument(
        "--output",
        required=True,
        metavar="RUN",
        type=Path,
        help="folder to write; appears complete or not at all",
    )
    add_evaluation(p)
    p.set_defaults(run=evaluate_command)

    p = commands.add_parser("report", help="one self-contained HTML page of one or several runs")
    p.add_argument("runs", metavar="RUN", nargs="+", type=Path, help="folders with a results.json")
    p.add_argument("--output", required=True, metavar="PAGE.html", type=Path)
    p.add_argument(
        "--overwrite",
        action="store_true",
        help="replace a page that obsdiff wrote; any other file stays",
    )
    p.set_defaults(run=report_command)

    p = commands.add_parser(
        "verify", help="check a pruned folder against its record: hashes, shapes, zeros, pattern"
    )
    p.add_argument("folder", metavar="DIR", type=Path, help="folder that obsdiff prune wrote")
    p.set_defaults(run=verify_command)

    p = commands.add_parser("demo", help="the whole road on the built-in model; ends with the page")
    p.add_argument("--output", default=Path("obsdiff-demo"), metavar="DIR", type=Path)
    p.add_argument(
        "--overwrite",
        action="store_true",
        help="replace an output folder that obsdiff wrote; any other stays",
    )
    p.set_defaults(run=demo_command)
    return top


def add_model(p: argparse.ArgumentParser) -> None:
    """MODEL, and what it takes to open it."""
    p.add_argument("model", metavar="MODEL", help=MODEL_HELP)
    p.add_argument("--config", metavar="FOLDER", type=Path, help=CONFIG)


def add_evaluation(p: argparse.ArgumentParser) -> None:
    """How `evaluate` calls the pipelines. The settings of the pipeline call are described once, in PruningConfig."""
    p.add_argument(
        "--prompts",
        metavar="FILE",
        type=Path,
        help="prompts, UTF-8, one a line (default: a built-in's evaluation prompts, else the general captions)",
    )
    p.add_argument(
        "--num-prompts",
        type=int,
        default=64,
        metavar="PROMPTS",
        help="the first so many prompts (default %(default)s)",
    )
    p.add_argument(
        "--seed",
        type=int,
        default=1_000_000,
        help="prompt i starts from seed + i (default %(default)s, far from calibration's)",
    )
    p.add_argument(
        "--batch-size",
        type=int,
        default=4,
        metavar="SIZE",
        help="prompts in one pipeline call (default %(default)s)",
    )
    p.add_argument(
        "--rounds",
        type=int,
        default=5,
        help="timed pictures, dense and pruned in turn; 0 times nothing (default %(default)s)",
    )
    p.add_argument(
        "--component",
        help="pipeline component that was pruned (default: what the records of the pruned folders name, else as for prune)",
    )
    fields = {field.name: field for field in dataclasses.fields(PruningConfig)}
    for name in CALL:
        kind = float if name == "guidance_scale" else int
        flag, text = "--" + name.replace("_", "-"), fields[name].metadata["help"]
        p.add_argument(
            flag,
            type=kind,
            default=argparse.SUPPRESS,
            metavar=name.split("_")[-1].upper(),
            help=text,
        )
    add_judges(p)
    p.add_argument("--resume", action="store_true", help="go on from a run that was killed")
    p.add_argument(
        "--overwrite",
        action="store_true",
        help="replace a run that obsdiff wrote; any other folder stays",
    )
    p.add_argument("--json", action="store_true", help="print results.json on stdout")


def add_judges(p: argparse.ArgumentParser) -> None:
    """The metric models. They are files at hand, or hub ids that lie in the hub's cache; what is not given is reported as not run."""
    group = p.add_argument_group(
        "metric models",
        "paths, or ids that lie in the hub's cache; nothing is downloaded. A metric without its model is not run, and says so",
    )
    group.add_argument(
        "--clip",
        metavar="PATH",
        help="CLIPModel folder for CLIP score (default: for a built-in emoji-clip)",
    )
    group.add_argument(
        "--features",
        metavar="inception|PATH",
        help="extractor for FID and KID: inception (weights in torch's cache), a file of its weights, or a CLIP folder (default: for a built-in emoji-clip, else inception)",
    )
    group.add_argument(
        "--real",
        metavar="FOLDER|FILE",
        help="real pictures for FID and KID, or their saved features (.safetensors) (default: for a built-in what ships with it)",
    )
    group.add_argument(
        "--lpips",
        metavar="FILE",
        help="AlexNet's weights for LPIPS (default: torchvision's file in torch's cache)",
    )
    group.add_argument("--pickscore", metavar="PATH", help="PickScore folder (a CLIPModel)")
    group.add_argument(
        "--image-reward",
        metavar="FOLDER",
        help="ImageReward folder: its weights, med_config.json, BERT's tokenizer",
    )


def add_config(p: argparse.ArgumentParser, several: bool = False) -> None:
    """A flag for every field of PruningConfig, and --prompts. A flag left out is no attribute, so that defaults stay in one place."""
    p.add_argument(
        "--prompts",
        metavar="FILE",
        type=Path,
        help="calibration prompts, UTF-8, one a line (default: a built-in's own, else 120 general captions)",
    )
    kinds = typing.get_type_hints(PruningConfig)
    for field in dataclasses.fields(PruningConfig):
        flag = NEGATED.get(field.name, "--" + field.name.replace("_", "-"))
        text, choices, metavar = (field.metadata[key] for key in ("help", "choices", "metavar"))
        options: dict[str, Any] = {
            "dest": field.name,
            "default": argparse.SUPPRESS,
            "help": text.replace("%", "%%"),
        }
        if kinds[field.name] is bool:
            p.add_argument(flag, action="store_false", **options)
            continue
        if kinds[field.name] == bool | None:
            p.add_argument(flag, action=argparse.BooleanOptionalAction, **options)
            continue
        if field.default not in (None, ()):
            options["help"] += f" (default {field.default})"
        if kinds[field.name] == tuple[str, ...]:
            options["nargs"] = "+"
        elif field.name in SEVERAL and several:
            options["nargs"] = "+"
            options["help"] += SEVERAL[field.name]
        numeric = next(
            (
                t
                for t in (int, float)
                if t in (kinds[field.name], *typing.get_args(kinds[field.name]))
            ),
            str,
        )
        p.add_argument(
            flag,
            type=numeric,
            metavar=metavar
            or ("{" + ",".join(choices) + "}" if choices else field.name.split("_")[-1].upper()),
            **options,
        )
