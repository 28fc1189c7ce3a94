"""What each command does. The checks come first, then the heavy imports."""

import argparse
import dataclasses
import json
import os
import warnings
from pathlib import Path
from typing import Any

from .builtin import builtin_info
from .checks import whole
from .config import PruningConfig
from .errors import UserError
from .folder import Folder, check_output, open_folder, read_prompts
from .judges.files import find_judges
from .progress import say
from .record import RECORD
from .replaceable import INDEX
from .single_file import open_model
from .stored import read_json

CALL = ("num_inference_steps", "guidance_scale", "height", "width")
JUDGES = ("clip", "features", "real", "lpips", "pickscore", "image_reward")
GENERAL_PROMPTS = Path(__file__).parent / "prompts.txt"


def config_of(args: argparse.Namespace, **changes: Any) -> PruningConfig:
    """The settings that were given on the command line."""
    names = {field.name for field in dataclasses.fields(PruningConfig)}
    given = {name: value for name, value in vars(args).items() if name in names}
    return PruningConfig(**(given | changes))


def show_json(value: Any) -> None:
    print(json.dumps(value, indent=1))


def quiet() -> None:
    """No progress bars of the libraries below: ours is the one display."""
    import diffusers
    import transformers

    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    for library in (diffusers, transformers):
        library.utils.logging.disable_progress_bar()
        library.utils.logging.set_verbosity_error()
    warnings.showwarning = lambda message, *_, **__: say(f"warning: {message}")


def with_recommended(
    config: PruningConfig, folder: Folder, args: argparse.Namespace
) -> PruningConfig:
    """The config, with a built-in's recommended settings for every flag that was not given."""
    info = builtin_info(folder.path)
    known = info.get("settings", {}) | info.get("calibration", {})
    return dataclasses.replace(
        config, **{name: value for name, value in known.items() if name not in args}
    )


def given_inputs(*places: str | Path | None) -> list[Path]:
    """The models that the command line names, as far as they are here: another complaint comes first for what is none."""
    models = [Path(place) for place in places if place is not None]
    return [model for model in models if model.is_file() or (model / INDEX).is_file()]


def inspect_(args: argparse.Namespace) -> None:
    config = config_of(args)
    if args.paper_count and config.pattern != "structured":
        raise UserError(
            f"paper-count goes with --pattern structured; found pattern {config.pattern}"
        )
    if config.target_latency is not None:
        raise UserError(
            f"target_latency is measured by obsdiff prune, inspect runs nothing; found {config.target_latency:g}, give a sparsity"
        )
    folder = open_model(args.model, args.config, weights=False)
    config = with_recommended(config, folder, args)
    prompts = len(read_prompts(args.prompts)) if args.prompts else config.num_prompts

    from .inspection import as_text, describe

    plan = describe(folder, config, min(prompts, config.num_prompts), args.paper_count)
    show_json(plan) if args.json else print(as_text(plan))


def evaluate(args: argparse.Namespace) -> None:
    for name, least in (("num_prompts", 1), ("batch_size", 1), ("seed", 0), ("rounds", 0)):
        whole(name, getattr(args, name), least)
    config = config_of(
        argparse.Namespace(
            seed=args.seed, **{name: getattr(args, name) for name in CALL if hasattr(args, name)}
        )
    )
    check_output(args.output, args.overwrite, given_inputs(args.against, args.config, *args.runs))
    dense = open_model(args.against, args.config)
    dense.require_text()
    runs = named_runs([open_folder(existing(path)) for path in args.runs])
    require_one_class(dense, runs)
    component = dense.denoiser(args.component or pruned_component(runs))
    prompts = evaluation_prompts(args.prompts, dense)[: args.num_prompts]
    config = with_recommended(config, dense, args)
    judges = find_judges({name: getattr(args, name) for name in JUDGES}, dense.path)

    from .evaluate import Job, check_comparable
    from .evaluate import evaluate as run_job
    from .table import results_table

    check_comparable(dense, runs, component)
    quiet()
    settings = {name: getattr(config, name) for name in CALL if getattr(config, name) is not None}
    seeds = [args.seed + i for i in range(len(prompts))]
    job = Job(
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
    results = run_job(job, args.output, args.resume, args.overwrite)
    show_json(results) if args.json else print(results_table(results))
    say(
        f"{args.output}: pictures and results.json; obsdiff report {args.output} --output page.html shows them"
    )


def existing(path: Path) -> Path:
    if not path.is_dir():
        raise UserError(
            f"evaluate: expected the folder of a pruned pipeline, found {str(path)!r}, which is none"
        )
    return path


def require_one_class(dense: Folder, runs: dict[str, Folder]) -> None:
    for folder in runs.values():
        if folder.pipeline != dense.pipeline:
            raise UserError(
                f"evaluate: {dense.source} is a {dense.pipeline}, {folder.path} is a {folder.pipeline}; compare pipelines of one class"
            )


def pruned_component(runs: dict[str, Folder]) -> str | None:
    """The component that the records of the pruned folders name; None if they have no record."""
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
            f"component: expected runs of one pruned component, found {' and '.join(found)}; evaluate them apart, or give --component"
        )
    return found[0] if found else None


def named_runs(folders: list[Folder]) -> dict[str, Folder]:
    """Run folders by their names; with their parent's where two would be called the same."""
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
            f"evaluate: the same folder, or the same name, twice: {', '.join(str(folder.path) for folder in folders)}"
        )
    return dict(zip(names, folders, strict=True))


def evaluation_prompts(file: Path | None, dense: Folder) -> list[str]:
    """The prompts of the file; else a built-in's own evaluation prompts; else general captions that ship with obsdiff, none of them
    among those that calibration takes."""
    own = dense.path if builtin_info(dense.path) else GENERAL_PROMPTS.parent
    return read_prompts(file or own / "evaluation_prompts.txt")


def report(args: argparse.Namespace) -> None:
    from .report import check_page, write_page

    check_page(args.output, args.overwrite)
    write_page(args.runs, args.output, args.overwrite)
    say(f"{args.output}: {args.output.stat().st_size / 1e6:.1f} MB")


def verify(args: argparse.Namespace) -> None:
    from .verify import verify_folder

    found = verify_folder(args.folder)
    print(f"{args.folder}: as recorded: {found.files} files, {found.layers} layers")


def demo(args: argparse.Namespace) -> None:
    check_output(args.output, args.overwrite)
    from .demo import run_demo

    quiet()
    run_demo(args.output, args.overwrite)
