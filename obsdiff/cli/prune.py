"""The command `prune`: checks first, then one pruning after the other, all from one calibration where that is possible."""

import argparse
import contextlib
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any

from ..calibration.packages import Package, plan_packages
from ..config import PruningConfig
from ..errors import RunFailed, RunStopped, UserError
from ..models.discovery import require_blocks
from ..pipelines.builtin import builtin_info
from ..pipelines.folder import Folder, read_prompts
from ..pipelines.partial_output import (
    FINISHED,
    check_output,
    is_placed,
    open_part,
    put_in_place,
    remove,
)
from ..pipelines.record import RECORD
from ..pipelines.replaceable import WORK
from ..pipelines.single_file import open_model
from ..runtime.json_files import read_json
from ..runtime.progress import say
from ..runtime.scratch import disk_errors
from .commands import GENERAL_PROMPTS, config_of, given_inputs, quiet, show_json, with_recommended


def prune_command(args: argparse.Namespace) -> None:
    configs = all_configs(args)
    names = folder_names(configs)
    placed = args.resume and is_placed(args.output)
    if not placed:
        check_output(args.output, args.overwrite, given_inputs(args.model, args.config))
    folder = open_model(args.model, args.config)
    if not placed:
        check_output(args.output, args.overwrite, [folder.path, folder.source])
    folder.require_text()
    configs = [with_recommended(c, folder, args) for c in configs]
    prompts = calibration_prompts(args.prompts, folder)
    for config in configs:
        make_plan(folder, config)

    from ..pipelines.call import check_devices
    from ..runtime.distributed import process_group

    check_devices(configs[0])
    quiet()
    with process_group(args.timeout_minutes) as ranks, contextlib.ExitStack() as held:
        job = {"command": "prune", "outputs": names}
        part = ranks.from_rank_zero(
            lambda: held.enter_context(open_part(args.output, job, args.resume, args.overwrite))
        )
        if ranks.from_rank_zero(lambda: is_placed(args.output)):  # and not killed a moment later
            if ranks.rank == 0:
                put_in_place(part, args.output, args.overwrite)
                say(f"{args.output}: was finished already")
            return
        with cleared_if_in_vain(part, args.resume or ranks.rank > 0):
            prune_all(folder, prompts, configs, names, part, args.output, ranks)
        if ranks.rank == 0:
            records = [read_json(target / RECORD) for target in targets(part, names)]
            put_in_place(part, args.output, args.overwrite)
            if args.json:
                show_json(records[0] if len(records) == 1 else records)


@contextlib.contextmanager
def cleared_if_in_vain(part: Path, resumed: bool) -> Iterator[None]:
    """A new run that would fail again just so leaves nothing behind."""
    try:
        yield
    except (UserError, RunFailed) as error:
        if not resumed and not isinstance(error, RunStopped):
            remove(part)
        raise


def targets(part: Path, names: list[str]) -> list[Path]:
    """Where the finished prunings lie until all are."""
    return [part / FINISHED / name for name in names] if len(names) > 1 else [part / FINISHED]


def all_configs(args: argparse.Namespace) -> list[PruningConfig]:
    """One config for each pattern and sparsity that was given; an n:m pattern has its own."""
    sparsities, patterns = (getattr(args, name, None) or [None] for name in ("sparsity", "pattern"))
    for name, values in (("sparsity", sparsities), ("pattern", patterns)):
        if len(set(values)) < len(values):
            raise UserError(f"{name}: the same value twice: {' '.join(map(str, values))}")
    given = [{} if pattern is None else {"pattern": pattern} for pattern in patterns]
    mixed = len(patterns) > 1
    return [
        config_of(args, **one, sparsity=s)
        for one in given
        for s in ([None] if mixed and ":" in one["pattern"] else sparsities)
    ]


def folder_names(configs: list[PruningConfig]) -> list[str]:
    """0.30, or with several patterns unstructured-0.30 and 2-4; UserError for two of the same name."""
    mixed = len({config.pattern for config in configs}) > 1
    names = [f"{config.removed:.2f}" for config in configs]
    if mixed:
        names = [
            c.pattern.replace(":", "-") if c.group else f"{c.pattern}-{name}"
            for c, name in zip(configs, names, strict=True)
        ]
    if len(set(names)) < len(names):
        found = " ".join(f"{config.removed:g}" for config in configs)
        raise UserError(
            f"sparsity: several values are written into folders of two decimals, so they have to differ there; found {found}"
        )
    return names


def prune_all(
    folder: Folder,
    prompts: list[str],
    configs: list[PruningConfig],
    names: list[str],
    part: Path,
    output: Path,
    ranks: Any,
) -> None:
    """Prune the model with each config and write it into OUTPUT.part/new; several configs share one dense pass where there is one. What
    a killed run had finished is left as it is."""
    from ..calibration.dense_pass import dense_pass
    from ..layerwise.journal import JournalPlace
    from ..pipelines.load import load_pipeline
    from ..prune import prune_
    from ..runtime.hashing import model_hashes

    every = list(zip(names, configs, targets(part, names), strict=True))
    missing = [
        every[i]
        for i in ranks.from_rank_zero(
            lambda: [i for i, (_, _, target) in enumerate(every) if not (target / RECORD).is_file()]
        )
    ]
    notes, model, dense = iter(folder.notes() if ranks.rank == 0 else ()), None, None
    with contextlib.ExitStack() as stack:
        for name, config, target in missing:
            began = time.perf_counter()
            pipe, formats = load_pipeline(folder, config.dtype, config.device)
            for line in (
                notes
            ):  # once, and not before the model is open: one that can't be is one line, and no more
                say(line)
            if model is None and ranks.rank == 0 and emulated(pipe, formats, config):
                say(
                    "computing in float32, since a CPU only emulates the stored half precision; the result is saved as stored"
                )
            loaded = time.perf_counter() - began
            model = model or model_hashes(pipe)
            if len(missing) > 1 and dense is None and config.calibrating != "live":
                dense = stack.enter_context(
                    dense_pass(pipe, prompts, [config for _, config, _ in missing])
                )
            pieces = part / WORK / "pieces" / name
            journal = JournalPlace(pieces, model)
            report = prune_(pipe, prompts, config, dense=dense, journal=journal)
            report.seconds = {"load": loaded} | report.seconds
            if ranks.rank == 0:
                write_whole(pipe, formats, report, part / WORK / "writing", target)
                shutil.rmtree(pieces)
                say(
                    summary(
                        output / name if len(names) > 1 else output,
                        report,
                        time.perf_counter() - began,
                    )
                )


def emulated(pipe: Any, formats: dict[str, str], config: PruningConfig) -> bool:
    """Whether a CPU computes in float32 what is stored in half precision."""
    return (
        pipe.device.type == "cpu"
        and config.dtype is None
        and bool(set(formats.values()) & {"float16", "bfloat16"})
    )


def write_whole(
    pipe: Any, formats: dict[str, str], report: Any, beside: Path, target: Path
) -> None:
    """Write a pruned pipeline beside its target, and give it its name when it is whole."""
    from ..pipelines.save import cast_, write_pruned

    cast_(pipe, formats)
    with disk_errors(beside):
        shutil.rmtree(beside, ignore_errors=True)
        write_pruned(pipe, beside, report)
        target.parent.mkdir(exist_ok=True)
        beside.rename(target)


def summary(output: Path, report: Any, seconds: float) -> str:
    errors = sorted(row.error for row in report.layers)
    done = (
        report.gone()
        if report.groups
        else f"{report.sparsity:.2%} zeros in {len(report.layers)} layers"
    )
    if met := report.latency:
        done += f" (sparsity {met['sparsity']:g}: a step takes {met['measured']:.2f} of dense's time, asked for {met['target']:g})"
    if met := report.budget:
        done += f" ({met['share']:.4f} of dense's {met['unit']}, asked for {met['target']:g})"
    apart = sorted(row.held_out_error for row in report.layers if row.held_out_error is not None)
    held_out = f" (held out {median(apart):.4f} and {apart[-1]:.4f})" if apart else ""
    return f"{output}: {done}, layer error median {median(errors):.4f} largest {errors[-1]:.4f}{held_out}, {seconds:.0f} s"


def calibration_prompts(file: Path | None, folder: Folder) -> list[str]:
    """The prompts of the file; else a built-in's own; else the general captions that ship with obsdiff."""
    own = folder.path / "calibration_prompts.txt" if builtin_info(folder.path) else GENERAL_PROMPTS
    return read_prompts(file or own)


def make_plan(folder: Folder, config: PruningConfig) -> tuple[str, list[Package]]:
    """Name of the denoiser and its packages, from the files' headers, or for a single file from its config; every complaint about the target comes here."""
    name = folder.denoiser(config.component)
    shapes = folder.components[name].layers(config.target)
    if not shapes:  # a single file's names are not those of the layers
        from ..models.meta_device import layers_of_config

        shapes = layers_of_config(folder.config(name), config.target)
    return name, plan_packages(
        require_blocks(shapes, f"{folder.path}/{name}", config.target), shapes, config
    )
