"""The evaluate command: the same prompts with the same seeds through all pipelines."""

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..config.choices import CALL_SETTINGS
from ..config.values import whole
from ..errors import UserError
from ..evaluation.card_update import check_card, update_card
from ..evaluation.judges.files import find_judges
from ..pipelines.builtin import builtin_info
from ..pipelines.folder import Folder, open_folder
from ..pipelines.general_prompts import EVALUATION_FILE
from ..pipelines.output_path import absolute
from ..pipelines.partial_output import check_output, part_folder
from ..pipelines.prompt_files import prompts_line, read_prompts
from ..pipelines.record import RECORD
from ..pipelines.replaceable import RESULTS
from ..pipelines.single_file import open_model
from ..runtime.console import put
from ..runtime.extras import require_extra
from ..runtime.json_files import read_json
from ..runtime.progress import say
from .commands import (
    config_of,
    given_files,
    given_inputs,
    given_judges,
    quiet,
    show_json,
    with_recommended,
)
from .next_steps import after_evaluating, suggest

AMOUNTS = {"num_prompts": 64, "rounds": 5}
QUICK = {"num_prompts": 8, "rounds": 0}

if TYPE_CHECKING:
    from ..evaluation.inputs import Evaluation


def evaluate_command(args: argparse.Namespace) -> None:
    """Evaluate pruned pipelines against the dense one, and print the table or results.json."""
    require_extra("eval", "evaluate")
    fill_amounts(args)
    results = run_evaluation(args)

    from ..evaluation.report.text_table import results_table

    show_json(results) if args.json else put(results_table(results))
    say(f"{args.output}: pictures and results.json")
    suggest(after_evaluating(args.output, args.quick))


def run_evaluation(args: argparse.Namespace) -> dict[str, Any]:
    """Evaluate pruned pipelines against the dense one, and return the content of results.json."""
    for name, least in (("num_prompts", 1), ("batch_size", 1), ("seed", 0), ("rounds", 0)):
        whole(name, getattr(args, name), least)
    given = {name: getattr(args, name) for name in CALL_SETTINGS if hasattr(args, name)}
    config = config_of(argparse.Namespace(seed=args.seed, **given))
    finished = args.resume and is_in_place(args.output)
    if args.overwrite or not finished:
        check_place(args)
    dense = open_model(args.against, args.config, variant=args.variant)
    dense.require_text()
    runs = named_runs([open_folder(existing(path)) for path in args.runs])
    if args.update_card:
        for path in args.runs:
            check_card(path)
    require_one_class(dense, runs)
    component = dense.denoiser(args.component or pruned_component(runs))
    file = evaluation_file(args.prompts, dense)
    found = read_prompts(file)
    prompts = found[: args.num_prompts]
    config = with_recommended(config, dense, args)
    judges = find_judges(given_judges(args), dense.path, args.download, args.prompts)

    from ..evaluation.evaluate import Evaluation, check_comparable
    from ..evaluation.evaluate import evaluate as run_job

    check_comparable(dense, runs, component)
    quiet()
    known = {name: getattr(config, name) for name in CALL_SETTINGS}
    settings = {name: value for name, value in known.items() if value is not None}
    seeds = [args.seed + i for i in range(len(prompts))]
    job = Evaluation(
        dense,
        runs,
        prompts,
        seeds,
        settings,
        component,
        args.batch_size,
        args.rounds,
        args.against,
        judges=judges,
    )
    results = finished_already(job, args) if finished else None
    if results is None:
        line = prompts_line(file, len(found), args.num_prompts)
        fewer = len(prompts) < args.num_prompts
        if fewer:  # before the run, since it is not what was asked for
            say(line)
        results = run_job(job, args.output, args.resume, args.overwrite)
        if not fewer:
            say(line)
    if args.update_card:
        for path in args.runs:
            update_card(args.output, path)
            say(f"{path}: its card has the figures and pictures of this evaluation")
    return results


def fill_amounts(args: argparse.Namespace) -> None:
    """Set the numbers of prompts and of timed pictures, unless they were given."""
    for name, value in (QUICK if args.quick else AMOUNTS).items():
        if getattr(args, name) is None:
            setattr(args, name, value)


def is_in_place(output: Path) -> bool:
    """Return whether an output holds the results of a run, and no part of a run lies beside it.

    Raises:
        UserError: the output is no name of a folder.
    """
    output = absolute(output)
    return os.path.isfile(output / RESULTS) and not os.path.lexists(part_folder(output))


def finished_already(job: "Evaluation", args: argparse.Namespace) -> dict[str, Any] | None:
    """Return the results of a finished run, and say so; None for another's that is replaced.

    Raises:
        UserError: the output is of another evaluation, and may not be replaced.
    """
    from ..evaluation.finished_run import finished_results

    try:
        results = finished_results(job, args.output)
    except UserError:
        if args.overwrite:
            return None
        raise
    say(f"{args.output}: was finished already")
    return results


def check_place(args: argparse.Namespace) -> None:
    """Check that the output can be written, and overlaps nothing that is read."""
    check_output(args.output, args.overwrite, given_inputs(args.against, args.config, *args.runs))
    others = given_files(args.prompts, *given_judges(args).values())
    check_output(args.output, args.overwrite, others)


def existing(path: Path) -> Path:
    """Return the path of a folder; raise UserError if it is none."""
    if not path.is_dir():
        raise UserError(
            "evaluate: expected the folder of a pruned pipeline, "
            f"found {str(path)!r}, which is no folder"
        )
    return path


def require_one_class(dense: Folder, runs: dict[str, Folder]) -> None:
    """Raise UserError unless all pipelines have the class of the dense one."""
    for folder in runs.values():
        if folder.pipeline != dense.pipeline:
            raise UserError(
                f"evaluate: expected pipelines of one class, found {dense.pipeline} in "
                f"{dense.source} and {folder.pipeline} in {folder.path}; evaluate them apart"
            )


def pruned_component(runs: dict[str, Folder]) -> str | None:
    """Return the component that the records of the pruned folders name.

    Args:
        runs: name -> pruned folder.

    Returns:
        The component; None if no folder has a record.

    Raises:
        UserError: they name several.
    """
    records = [folder.path / RECORD for folder in runs.values()]
    found = sorted(
        {
            str(component)
            for file in records
            if file.is_file() and (component := read_json(file).get("component"))
        }
    )
    if len(found) > 1:
        raise UserError(
            f"component: expected runs of one pruned component, found {' and '.join(found)}; "
            "evaluate them apart, or pass --component"
        )
    return found[0] if found else None


def named_runs(folders: list[Folder]) -> dict[str, Folder]:
    """Return the folders by their names; with the parent's name if two have the same."""
    short = [folder.path.resolve().name for folder in folders]
    long = [
        f"{folder.path.resolve().parent.name}-{name}"
        for folder, name in zip(folders, short, strict=True)
    ]
    names = [
        b if short.count(a) > 1 or a == "dense" else a for a, b in zip(short, long, strict=True)
    ]
    if len(set(names)) < len(names):
        raise UserError(
            "evaluate: expected folders with different names, found the same folder or name twice: "
            f"{', '.join(str(folder.path) for folder in folders)}"
        )
    return dict(zip(names, folders, strict=True))


def evaluation_file(given: Path | None, dense: Folder) -> Path:
    """Return the file of the evaluation prompts.

    No prompt of a built-in or of the general captions is a calibration prompt of the same source.

    Args:
        given: the value of --prompts; None for a built-in's own, else general captions.
        dense: the dense pipeline.
    """
    own = dense.path / "evaluation_prompts.txt" if builtin_info(dense.path) else EVALUATION_FILE
    return given or own
