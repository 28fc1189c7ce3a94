"""The prune command: all checks, then the prunings, from one calibration if possible."""

import argparse
import contextlib
import shutil
import time
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from ..calibration.depth_selection import select_depth
from ..calibration.modulation_selection import select_modulation
from ..calibration.packages import plan_packages
from ..config import PruningConfig
from ..errors import RunFailed, RunStopped, UserError
from ..models.discovery import require_blocks
from ..pipelines.folder import Folder
from ..pipelines.partial_output import (
    FINISHED,
    check_output,
    is_placed,
    open_part,
    part_folder,
    put_in_place,
    remove,
)
from ..pipelines.prompt_files import prompts_line
from ..pipelines.record import RECORD, PruningReport
from ..pipelines.record_words import effect_in_words, folded_in_words
from ..pipelines.replaceable import WORK
from ..pipelines.single_file import open_model
from ..runtime.display import current
from ..runtime.extras import require_extra
from ..runtime.json_files import read_json
from ..runtime.launcher import is_one_of_several
from ..runtime.progress import say
from ..runtime.scratch import disk_errors
from ..runtime.whole_files import sync_folder, sync_tree
from .commands import (
    calibration_prompts,
    given_files,
    given_inputs,
    quiet,
    show_json,
    with_recommended,
)
from .disk_room import require_room
from .next_steps import after_pruning, suggest
from .resume import Records, finished_already, finished_records, is_complete, unfinished
from .targets import PruneTarget, prune_targets

if TYPE_CHECKING:
    from ..runtime.distributed import Ranks


Finished = tuple[
    "PruneTarget", PruningReport, float
]  # and the seconds of the pruning, loading included
LOADING, SAVING = "loading", "saving"  # the names of phases
IN_FLOAT32 = (
    "computing in float32, since a CPU only emulates the stored half precision; "
    "the result is saved as stored"
)

AS_STORED = (
    "computing in float32, as stored; --dtype bfloat16 takes half the memory and computes several "
    "times as fast on most GPUs, and the result is saved in it"
)


def prune_command(args: argparse.Namespace) -> None:
    """Prune MODEL to every pattern and sparsity that was given, and write OUTPUT."""
    if folders := run_prunings(args):
        suggest(after_pruning(args, folders))


def run_prunings(args: argparse.Namespace) -> list[Path]:
    """Prune MODEL to every target, and print the records if they were asked for.

    Returns:
        The folders of the results; none in a process that is not the first of several.
    """
    targets = prune_targets(args)
    is_one_of_several()
    complete = args.resume and is_complete(args.output, targets)
    placed = (args.resume and is_placed(args.output)) or (complete and not args.overwrite)
    if not placed:
        check_output(args.output, args.overwrite, given_inputs(args.model, args.config))
    folder = open_model(args.model, args.config, variant=args.variant)
    folder.require_unpacked()
    if not placed:
        part = part_folder(args.output) / FINISHED
        left = [t.config for t in targets if not (t.folder.name and (part / t.folder).is_dir())]
        require_room(args.output, folder, left)
        inputs = [folder.path, folder.source, *given_files(args.prompts, args.from_file)]
        check_output(args.output, args.overwrite, inputs)
    folder.require_text()
    targets = [replace(t, config=with_recommended(t.config, folder, args)) for t in targets]
    file, prompts = calibration_prompts(args, folder)
    known = prompts_line(file, len(prompts), targets[0].config.num_prompts)
    for target in targets:
        check_plan(folder, target.config)

    phases = current()
    phases.repeats = len(targets)
    phases.expect(*phase_names(targets[0].config))
    with phases.within(LOADING, measured=False):  # imports happen once
        from ..pipelines.call import check_devices
        from ..runtime.distributed import process_group
        from .device_memory import placed_config

        check_devices(targets[0].config)
        quiet()
        check_config(folder, targets[0].config)
    with process_group(args.timeout_minutes) as ranks, contextlib.ExitStack() as held:
        placed = ranks.from_rank_zero(
            lambda: [placed_config(folder, target.config) for target in targets]
        )
        targets = [replace(t, config=c) for t, (c, _) in zip(targets, placed, strict=True)]
        notes = [*dict.fromkeys(line for _, lines in placed for line in lines)]
        if ranks.from_rank_zero(lambda: complete) and (
            records := ranks.from_rank_zero(
                lambda: finished_already(folder, prompts, targets, args.output, args.overwrite)
            )
        ):
            if ranks.rank == 0:
                show_finished(args, records)
            return results_of(args, targets, ranks)
        job = {"command": "prune", "outputs": [target.name for target in targets]}
        part = ranks.from_rank_zero(
            lambda: held.enter_context(open_part(args.output, job, args.resume, args.overwrite))
        )
        # a run can be killed after its output got its name
        if ranks.from_rank_zero(lambda: is_placed(args.output)):
            records = ranks.from_rank_zero(
                lambda: finished_records(folder, prompts, targets, args.output)
            )
            if ranks.rank == 0:
                put_in_place(part, args.output, args.overwrite)
                show_finished(args, records)
            return results_of(args, targets, ranks)
        with cleared_if_in_vain(part, args.resume or ranks.rank > 0):
            for target, report, seconds in prune_all(folder, prompts, targets, part, ranks):
                if ranks.rank == 0:
                    # not before a pruning is done: prompts that are refused are one line
                    say_all([known, *notes] if target == targets[0] else [])
                    shown = getattr(args, "shown_output", args.output) / target.folder
                    say(summary(shown, report, seconds))
        if ranks.rank == 0:
            records = [read_json(part / FINISHED / t.folder / RECORD) for t in targets]
            put_in_place(part, args.output, args.overwrite)
            show_records(args, records)
        return results_of(args, targets, ranks)


def results_of(args: argparse.Namespace, targets: list[PruneTarget], ranks: "Ranks") -> list[Path]:
    """Return the folders of the results; none in a process that is not the first of several."""
    return [] if ranks.rank else [args.output / target.folder for target in targets]


def show_records(args: argparse.Namespace, records: Records) -> None:
    """Print the record of each target as JSON, if that was asked for."""
    if args.json:
        show_json(records[0] if len(records) == 1 else records)


def show_finished(args: argparse.Namespace, records: Records) -> None:
    """Say that an earlier run has written the output, and print its records."""
    say(f"{args.output}: was finished already")
    show_records(args, records)


@contextlib.contextmanager
def cleared_if_in_vain(part: Path, resumed: bool) -> Iterator[None]:
    """Remove the part of a new run that failed, unless it can be resumed: it would fail again."""
    try:
        yield
    except (UserError, RunFailed) as error:
        if not resumed and not isinstance(error, RunStopped):
            remove(part)
        raise


def prune_all(
    folder: Folder, prompts: list[str], targets: list[PruneTarget], part: Path, ranks: "Ranks"
) -> Iterator[Finished]:
    """Prune the model to each target, and write it into the part.

    Several targets share one dense pass if their calibration has one. Targets that a killed run
    finished are skipped.

    Args:
        folder: the model.
        prompts: the calibration prompts to choose from.
        targets: the prunings.
        part: OUTPUT.part.
        ranks: the processes of this run.

    Yields:
        Each target when it is written, with its report and seconds.
    """
    from ..calibration.dense_pass import dense_pass
    from ..layerwise.journal import JournalPlace
    from ..pipelines.load import load_pipeline
    from ..pipelines.stored_formats import saved_as_stored
    from ..prune import prune_
    from ..runtime.hashing import model_hashes

    left = ranks.from_rank_zero(lambda: unfinished(folder, prompts, targets, part))
    missing = [targets[i] for i in left]
    model, dense, phases = None, None, current()
    phases.repeats = len(missing)
    phases.plan(LOADING, 1)
    phases.plan(SAVING, 1, model=(LOADING, 1.0))
    with contextlib.ExitStack() as stack:
        for target in missing:
            config = target.config
            began = time.perf_counter()
            pipe = None  # the pruned one of the last target, before the next is loaded
            with phases.within(LOADING):
                pipe, formats = load_pipeline(folder, config.dtype, config.device, place=False)
            phases.advance(LOADING)
            loaded = time.perf_counter() - began
            if model is None:
                # not before the model is open: a model that can't be opened is one line
                if ranks.rank == 0:
                    say_all(folder.notes() + format_notes(config.device, formats, config.dtype))
                model = model_hashes(pipe)
            sharing = [t.config for t in missing if t.config.layerwise]
            shares = config.layerwise and config.calibrating != "live"
            if shares and len(sharing) > 1 and not dense:
                dense = stack.enter_context(dense_pass(pipe, prompts, sharing))
            pieces = part / WORK / "pieces" / target.name
            journal = JournalPlace(pieces, model)
            shared = dense if config.layerwise else None
            report = prune_(pipe, prompts, config, dense=shared, journal=journal)
            report.seconds = {"load": loaded} | report.seconds
            if ranks.rank == 0:
                finished = part / FINISHED / target.folder
                stored = saved_as_stored(pipe, folder, config.dtype, [report.component], formats)
                with phases.within(SAVING), stored:
                    others = [part / FINISHED / t.folder for t in targets if t is not target]
                    write_whole(pipe, report, part / WORK / "writing", finished, others)
                phases.advance(SAVING)
                shutil.rmtree(pieces)
            yield target, report, time.perf_counter() - began


def phase_names(config: PruningConfig) -> list[str]:
    """Return the names of the phases of a pruning, in their order, for the display."""
    if config.depth:
        budget, repair = config.budget is not None, config.compensation
        return [LOADING, *["budget"] * budget, "allocation", *["repair"] * repair, SAVING]
    if not config.layerwise:
        return [LOADING, "modulation", SAVING]
    found = {
        LOADING: True,
        "modulation": config.modulation is not None,
        "budget": bool(config.budget),
        "latency": config.target_latency is not None and not config.budget,
        "dense pass": config.calibrating != "live",
        "calibration": config.calibrating != "single",
        "allocation": config.allocation != "uniform",
        "permutation": config.permute,
        "solving": True,
        SAVING: True,
    }
    return [name for name, runs in found.items() if runs]


def say_all(lines: Iterable[str]) -> None:
    """Print lines on the display."""
    for line in lines:
        say(line)


def format_notes(device: str | None, formats: dict[str, str], dtype: str | None) -> list[str]:
    """Return a line if the model computes in float32 where it could do otherwise.

    Args:
        device: torch name of the device; None for a CPU.
        formats: component -> the number format of its stored weights.
        dtype: the number format that was asked for.
    """
    stored = set(formats.values())
    if dtype is not None:
        return []
    if device in (None, "cpu"):
        return [IN_FLOAT32] if stored & {"float16", "bfloat16"} else []
    return [AS_STORED] if stored == {"float32"} else []


def write_whole(
    pipe: Any, report: PruningReport, beside: Path, target: Path, others: list[Path]
) -> None:
    """Write a pruned pipeline into the folder `beside`, then rename that to `target`.

    Args:
        pipe: the pruned pipeline.
        report: its report.
        beside: a folder on the same disk.
        target: the folder of the result.
        others: folders of other results of this run; those that are there share equal files.
    """
    from ..pipelines.save import write_pruned
    from ..pipelines.shared_files import share_files

    with disk_errors(beside):
        shutil.rmtree(beside, ignore_errors=True)
        write_pruned(pipe, beside, report)
        share_files(beside, report.hashes["files"], filter(Path.is_dir, others))
        sync_tree(beside)
        target.parent.mkdir(exist_ok=True)
        beside.rename(target)
        sync_folder(target.parent)


def summary(output: Path, report: PruningReport, seconds: float) -> str:
    """Return the line about a finished pruning: sparsity, target, layer errors, seconds."""
    if report.depth:
        target = f" ({target_in_words(report.budget)})" if report.budget else ""
        return (
            f"{output}: {report.gone()}{target}, {effect_in_words(report.depth)}, {seconds:.0f} s"
        )
    also = f"; {folded_in_words(report.modulation)}" if report.modulation else ""
    if not report.layers:
        return f"{output}{also.replace(';', ':', 1)}, {seconds:.0f} s"
    errors = sorted(row.error for row in report.layers)
    zeros = f"{report.sparsity:.2%} zeros in {len(report.layers)} layers"
    done = report.gone() if report.groups else zeros
    if met := report.latency:
        done += (
            f" (sparsity {met['sparsity']:g}: a step takes {met['measured']:.2f} of dense's time, "
            f"target {met['target']:g})"
        )
    if met := report.budget:
        done += f" ({target_in_words(met)})"
    apart = sorted(row.held_out_error for row in report.layers if row.held_out_error is not None)
    held_out = f" (held out {median(apart):.4f} and {apart[-1]:.4f})" if apart else ""
    return (
        f"{output}: {done}, layer error median {median(errors):.4f} largest {errors[-1]:.4f}"
        f"{held_out}{also}, {seconds:.0f} s"
    )


def target_in_words(met: dict[str, Any]) -> str:
    """Return what a run with a target of parameters, operations or bytes left of them."""
    return f"{met['share']:.4f} of dense's {met['unit']}, target {met['target']:g}"


def check_config(folder: Folder, config: PruningConfig) -> None:
    """Check that the denoiser's config.json describes its weights; not those of a single file.

    Args:
        folder: the model.
        config: the settings of the pruning.

    Raises:
        UserError: they contradict each other.
    """
    from ..models.meta_device import require_fitting

    name = folder.denoiser(config.component)
    tensors = folder.components[name]
    if not tensors.original:
        require_fitting(folder.config(name), tensors.shapes, str(folder.path / name))


def check_plan(folder: Folder, config: PruningConfig) -> None:
    """Plan a pruning by the headers of the files, or for a single file by its config.

    Args:
        folder: the model.
        config: the settings of the pruning.

    Raises:
        UserError: the model has no such component, blocks, layers or packages.
    """
    name = folder.denoiser(config.component)
    if config.bits is not None:
        require_extra("torchao", "bits")
    shapes = folder.components[name].layers(config.target)
    if not shapes:  # the names in a single file are not those of the layers
        from ..models.meta_device import layers_of_config

        shapes = layers_of_config(folder.config(name), config.target)
    blocks = require_blocks(shapes, f"{folder.path}/{name}", config.target)
    cls = str(folder.config(name).get("_class_name"))
    select_modulation(cls, shapes, config)
    if config.depth:
        select_depth(cls, blocks, config)
    elif config.layerwise:
        plan_packages(blocks, shapes, config)
