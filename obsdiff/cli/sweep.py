"""The command `obsdiff sweep`: several prunings, their evaluation, the page, a recommendation.

OUTPUT/models has the pruned pipelines, OUTPUT/run the evaluation, OUTPUT/sweep.html the page. They
are written into OUTPUT.part/new, where --resume continues whatever a killed sweep has begun.
"""

import argparse
import os
import shlex
from pathlib import Path
from typing import Any

from ..config.choices import CALL_SETTINGS
from ..errors import UserError
from ..evaluation.judges.files import find_judges
from ..pipelines.builtin import BUILTINS, builtin_path
from ..pipelines.output_path import absolute
from ..pipelines.partial_output import (
    FINISHED,
    check_output,
    is_placed,
    open_part,
    part_folder,
    put_in_place,
)
from ..pipelines.replaceable import RESULTS, SWEEP_PAGE
from ..runtime.console import put
from ..runtime.extras import require_extra
from ..runtime.json_files import read_json
from ..runtime.launcher import is_one_of_several
from ..runtime.progress import say
from .command_arguments import add_display, add_judges, add_model, add_output
from .commands import given_files, given_inputs, given_judges, show_json
from .evaluate import AMOUNTS, QUICK, run_evaluation
from .flags import add_settings
from .next_steps import suggest
from .parsing import whole_number
from .prune import cleared_if_in_vain, run_prunings
from .targets import PruneTarget, prune_targets

MODELS, RUN = "models", "run"
SPARSITIES = [0.1, 0.2, 0.3, 0.4]
PROMPTS = 24
FIRST_SEED = 1_000_000  # as evaluate's


def add_sweep(p: argparse.ArgumentParser) -> None:
    """Add the arguments of sweep."""
    add_model(p)
    add_settings(p, several=True)
    group = p.add_argument_group("evaluation")
    group.add_argument(
        "--evaluation-prompts",
        metavar="FILE",
        type=Path,
        help="prompts that no pruning is calibrated on "
        "(default: a built-in's evaluation prompts, else general captions of obsdiff)",
    )
    group.add_argument(
        "--evaluation-num-prompts",
        metavar="N",
        type=whole_number,
        default=None,
        help=f"number of these prompts, the first ones (default: {PROMPTS}; --quick: "
        f"{QUICK['num_prompts']})",
    )
    group.add_argument(
        "--quick", action="store_true", help="a first look: few prompts, no time is measured"
    )
    add_judges(p)
    group = add_output(p, "DIR")
    group.add_argument("--json", action="store_true", help="print results.json and more on stdout")
    add_display(group)


def sweep_command(args: argparse.Namespace) -> None:
    """Prune to every pattern and sparsity, evaluate, write the page, and recommend one."""
    for extra in ("eval", "report"):
        require_extra(extra, "sweep")
    targets = sweep_targets(args)
    placed = args.resume and is_placed(args.output)
    if args.resume and not placed and is_complete(args.output):
        say(f"{args.output}: was finished already")
        show(args)
        return
    if not placed:
        check_output(args.output, args.overwrite, given_inputs(args.model, args.config))
        files = given_files(
            args.prompts,
            args.from_file,
            args.evaluation_prompts,
            *given_judges(args).values(),
        )
        check_output(args.output, args.overwrite, files)
    job = {"command": "sweep", "outputs": [target.name for target in targets]}
    with open_part(args.output, job, args.resume, args.overwrite) as part:
        if not is_placed(args.output):
            with cleared_if_in_vain(part, args.resume):
                fill(args, part / FINISHED, targets)
        put_in_place(part, args.output, args.overwrite)
    show(args)


def sweep_targets(args: argparse.Namespace) -> list[PruneTarget]:
    """Return the prunings of a sweep; without a pattern structured, at four sparsities.

    Raises:
        UserError: a setting is wrong, there is one pruning only, or several processes.
    """
    given = vars(args)
    if not {"pattern", "preset"} & given.keys():
        args.pattern = ["structured"]
    if "sparsity" not in given and all(":" not in one for one in given.get("pattern", [])):
        args.sparsity = SPARSITIES
    targets = prune_targets(args)
    if len(targets) < 2:
        raise UserError(
            "sweep: expected several values of --sparsity or --pattern, found one; "
            "obsdiff prune does one"
        )
    if is_one_of_several():
        raise UserError(
            "sweep: expected one process; prune with torchrun, then evaluate with one process"
        )
    return targets


def is_complete(output: Path) -> bool:
    """Return whether a sweep is in its place, and no part of one lies beside it."""
    output = absolute(output)
    return (output / RUN / RESULTS).is_file() and not os.path.lexists(part_folder(output))


def fill(args: argparse.Namespace, inside: Path, targets: list[PruneTarget]) -> None:
    """Write what is missing of a sweep: the pruned pipelines, the evaluation, the page.

    Args:
        args: the arguments of sweep.
        inside: the folder that becomes the output.
        targets: the prunings.
    """
    dense = builtin_path(args.model) if args.model in BUILTINS else Path(args.model)
    judges = given_judges(args)  # wrong or missing ones are found before hours of pruning
    find_judges(judges, dense, args.download, args.evaluation_prompts)
    inside.mkdir(exist_ok=True)
    run_prunings(pruning_arguments(args, inside / MODELS))
    run_evaluation(evaluation_arguments(args, inside, targets))

    from ..evaluation.report.page import write_page

    write_page([inside / RUN], inside / SWEEP_PAGE)


def begun(output: Path) -> bool:
    """Return whether an output, or a part of it, is there."""
    return os.path.lexists(output) or os.path.lexists(part_folder(output))


def pruning_arguments(args: argparse.Namespace, output: Path) -> argparse.Namespace:
    """Return the arguments of the prunings, which continue what is there."""
    return argparse.Namespace(
        **vars(args)
        | {
            "output": output,
            "shown_output": args.output / MODELS,  # where it will be
            "resume": begun(output),
            "overwrite": False,
            "json": False,
            "timeout_minutes": 30.0,
        }
    )


def evaluation_arguments(
    args: argparse.Namespace, inside: Path, targets: list[PruneTarget]
) -> argparse.Namespace:
    """Return the arguments of the evaluation, which continues what is there."""
    settings = {name: getattr(args, name) for name in CALL_SETTINGS if hasattr(args, name)}
    amounts = QUICK if args.quick else AMOUNTS | {"num_prompts": PROMPTS}
    number = args.evaluation_num_prompts
    return argparse.Namespace(
        runs=[inside / MODELS / target.folder for target in targets],
        against=args.model,
        config=args.config,
        variant=args.variant,
        component=getattr(args, "component", None),
        prompts=args.evaluation_prompts,
        num_prompts=amounts["num_prompts"] if number is None else number,
        rounds=amounts["rounds"],
        seed=FIRST_SEED,
        batch_size=getattr(args, "batch_size", 4),
        quick=args.quick,
        output=inside / RUN,
        resume=begun(inside / RUN),
        overwrite=False,
        update_card=False,
        download=args.download,
        **given_judges(args),
        **settings,
    )


def show(args: argparse.Namespace) -> None:
    """Print the table and the recommendation, or JSON, and what to do next."""
    from ..evaluation.report.recommendation import recommend
    from ..evaluation.report.text_table import results_table

    results: dict[str, Any] = read_json(args.output / RUN / RESULTS)
    found = recommend(results)
    if args.json:
        advice = {"name": found.name, "sentence": found.sentence, "prunings": found.lines}
        show_json({"recommendation": advice, "results": results})
    else:
        put("\n".join([results_table(results), "", *found.lines, "", found.sentence]))
    say(f"{args.output / SWEEP_PAGE}: the page; {args.output / MODELS}: the pruned pipelines")
    page = f"open {args.output / SWEEP_PAGE} in a browser"
    if found.name is None:
        suggest(page)
        return
    keep = shlex.join(["cp", "-r", str(args.output / MODELS / found.name), "kept"])
    suggest(f"{page}; {keep} keeps the recommended one")
