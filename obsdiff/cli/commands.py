"""Functions of all commands but prune and evaluate, and what all commands share.

Every function checks its input first, then imports torch and diffusers.
"""

import argparse
import dataclasses
import os
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

from ..config import PruningConfig
from ..errors import UserError
from ..evaluation.judges.files import JUDGES
from ..pipelines.builtin import BUILTINS, builtin_info, builtin_path
from ..pipelines.folder import Folder
from ..pipelines.general_prompts import CALIBRATION_FILE
from ..pipelines.partial_output import check_output
from ..pipelines.prompt_files import prompts_line, read_prompts
from ..pipelines.replaceable import INDEX
from ..pipelines.single_file import open_model
from ..runtime.console import put, shown
from ..runtime.extras import require_extra
from ..runtime.progress import say
from ..runtime.strict_json import json_text
from .next_steps import after_inspecting, in_browser, suggest, typed

if TYPE_CHECKING:
    from .inspection_plan import InspectionPlan


def config_of(args: argparse.Namespace, **changes: object) -> PruningConfig:
    """Return the settings that were given on the command line, with some changes."""
    names = {field.name for field in dataclasses.fields(PruningConfig)}
    given = {name: value for name, value in vars(args).items() if name in names}
    return PruningConfig(**(given | changes))


def show_json(value: object) -> None:
    """Print a JSON value on stdout."""
    put(json_text(value))


def quiet() -> None:
    """Silence the progress bars and remarks of diffusers and transformers; obsdiff has its own."""
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
    """Return the config with a built-in's recommended settings.

    Flags that were given, and what the preset sets, stay.
    """
    info = builtin_info(folder.path)
    known = info.get("settings", {}) | info.get("calibration", {})
    kept = {*vars(args), *config.from_preset}
    return dataclasses.replace(
        config, **{name: value for name, value in known.items() if name not in kept}
    )


def given_inputs(*places: str | Path | None) -> list[Path]:
    """Return the models of the command line that are local files or pipeline folders.

    Any other place is left to the check of the model, whose message is better.
    """
    models = [Path(place) for place in places if place is not None]
    return [model for model in models if model.is_file() or (model / INDEX).is_file()]


def given_files(*places: str | Path | None) -> list[Path]:
    """Return the paths among prompts and judges that exist: what else is read, and not replaced."""
    return [Path(place) for place in places if place is not None and os.path.lexists(place)]


def given_judges(args: argparse.Namespace) -> dict[str, str | None]:
    """Return the value of each flag of a metric model, by field of Judges; None if not passed."""
    return {name: getattr(args, name) for name in JUDGES}


def calibration_prompts(args: argparse.Namespace, folder: Folder) -> tuple[Path, list[str]]:
    """Return the calibration prompts and their file.

    They are those of --prompts, else of the record of --from, else a built-in's own, else the
    captions of obsdiff.

    Args:
        args: the arguments of a command with settings.
        folder: the model.

    Raises:
        UserError: the file has no prompts.
    """
    if args.prompts is None and args.recorded_prompts:
        return args.from_file, args.recorded_prompts
    own = folder.path / "calibration_prompts.txt" if builtin_info(folder.path) else CALIBRATION_FILE
    file = args.prompts or own
    return file, read_prompts(file)


def inspect_command(args: argparse.Namespace) -> None:
    """Print the plan of a pruning, as text or as JSON."""
    plan = planned(args)
    if args.json:
        show_json(plan.to_dict())
    else:
        from .inspect_text import as_text

        put(as_text(plan))
    suggest(after_inspecting(args.words))


def planned(args: argparse.Namespace) -> "InspectionPlan":
    """Return the plan of a pruning, and say which prompts it counts.

    Raises:
        UserError: a run would refuse the model or the settings.
    """
    config = config_of(args)
    if args.paper_count and config.pattern != "structured":
        raise UserError(f"paper-count needs --pattern structured; found pattern {config.pattern}")
    if config.target_latency is not None:
        raise UserError(
            "target_latency is measured by obsdiff prune, and inspect runs nothing; "
            f"found {config.target_latency:g}; pass a sparsity"
        )
    folder = open_model(args.model, args.config, weights=False, variant=args.variant)
    folder.require_unpacked()
    config = with_recommended(config, folder, args)
    file, found = calibration_prompts(args, folder)
    prompts = len(found)

    from .device_memory import device_plan, device_row, device_to_plan_for
    from .inspect import describe

    plan = describe(folder, config, min(prompts, config.num_prompts), args.paper_count)
    if memory := device_to_plan_for(args.vram):
        needed = device_plan(folder, plan.config)
        plan = dataclasses.replace(plan, device=device_row(needed, memory, config.offload))
    say(prompts_line(file, prompts, config.num_prompts))
    return plan


def report_command(args: argparse.Namespace) -> None:
    """Write the page."""
    require_extra("report", "report")
    from ..evaluation.report.page import check_page, write_page
    from ..evaluation.report.strip import check_strip, write_strip

    check_page(args.output, args.overwrite)
    if args.strip is not None:
        check_strip(args.strip, args.overwrite)
        write_strip(args.runs, args.strip, args.overwrite)
    write_page(args.runs, args.output, args.overwrite)
    say(f"{args.output}: {args.output.stat().st_size / 1e6:.1f} MB")
    suggest(in_browser(args.output))


def verify_command(args: argparse.Namespace) -> None:
    """Check a pruned folder and print the number of files and layers."""
    from ..pipelines.verify import verify_folder

    found = verify_folder(args.folder)
    if not found.sealed:
        say(f"{args.folder}: its record is of an older version, and has no hash of its own content")
    put(f"{shown(str(args.folder))}: as recorded: {found.files} files, {found.layers} layers")
    if found.packed:
        suggest(typed("unpack", args.folder, "--output", "OUT"))
    else:
        suggest(typed("draw", args.folder, "a red apple"))


def demo_command(args: argparse.Namespace) -> None:
    """Run the demo."""
    require_extra("demo", "demo")
    check_output(args.output, args.overwrite, [builtin_path(BUILTINS[0]).parent])
    from .demo import run_demo

    quiet()
    run_demo(args.output, args.overwrite)
    suggest(in_browser(args.output / "demo.html"))
