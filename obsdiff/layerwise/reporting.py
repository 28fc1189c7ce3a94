"""The report of a run: its beginning, the time of each phase, and the warnings it records."""

import contextlib
import time
import warnings
from collections.abc import Generator, Iterator
from typing import Any, TypeVar

import torch

from ..calibration.plan import PruningPlan
from ..calibration.selection import narrow_ffns
from ..config import PruningConfig
from ..errors import CalibrationWarning
from ..models.discovery import uncovered
from ..pipelines.builtin import builtin_version
from ..pipelines.call import denoisers_besides, machine_of
from ..pipelines.denoisers import chosen_denoiser
from ..pipelines.prompt_records import described_prompts, prompts_hash
from ..pipelines.record import PruningReport
from ..runtime.display import current
from .bias_correction import has_bias

SHOWN = {"solve": "solving"}  # the names of phases on the display, if they differ
Item = TypeVar("Item")


@contextlib.contextmanager
def seconds(report: PruningReport, phase: str) -> Iterator[None]:
    """Add the seconds of the block to a phase of the report, and of the display.

    Args:
        report: the record of the run.
        phase: its key in `report.seconds`.
    """
    began = time.perf_counter()
    with current().within(SHOWN.get(phase, phase)):
        yield
    report.seconds[phase] = report.seconds.get(phase, 0.0) + time.perf_counter() - began


def timed(report: PruningReport, phase: str, items: Generator[Item, None, None]) -> Iterator[Item]:
    """Yield the items of a generator, and add the seconds of producing them to a phase.

    Args:
        report: the record of the run.
        phase: its key in `report.seconds`.
        items: the generator; closed at the end.
    """
    with contextlib.closing(items):
        while True:
            try:
                with seconds(report, phase):
                    item = next(items)
            except StopIteration:
                return
            yield item


def begin_report(pipe: Any, plan: PruningPlan, dense_seconds: float | None = None) -> PruningReport:
    """Return the report of a pruning that has not begun.

    Args:
        pipe: the dense pipeline.
        plan: the pruning.
        dense_seconds: the time of a dense pass made before, if there is one.
    """
    calibration_set = plan.calibration_set
    prompts, seeds = calibration_set.drawn
    report = PruningReport(
        plan.config.to_dict(),
        calibration_set.settings,
        described_prompts(prompts),
        seeds,
        plan.component,
        [list(p.layers) for p in plan.packages],
        given=plan.given.sha256 if plan.given else "",
    )
    report.versions |= builtin_version(getattr(pipe, "name_or_path", None) or "")
    report.threads = torch.get_num_threads()
    report.machine = machine_of(pipe, plan.component, plan.config.device)
    if dense_seconds is not None:
        report.seconds["shared dense pass"] = dense_seconds
    report.hashes["prompts"] = prompts_hash(report.prompts, seeds)
    report.parameters["before"] = sum(p.numel() for p in plan.denoiser.parameters())
    if plan.config.component is None and (others := denoisers_besides(pipe, plan.component)):
        warn_and_record(report, chosen_denoiser(type(pipe).__name__, plan.component, others))
    dense = uncovered(plan.shapes, plan.blocks, plan.config.target) if plan.packages else []
    for layer in dense:
        warn_and_record(report, f"{layer}: no table entry covers this layer; it stays dense")
    return report


def note_untouched(report: PruningReport, config: PruningConfig) -> None:
    """Record one warning for all groups that keep all items: few heads or neurons."""
    whole = [row for row in report.groups if row.kept == row.total]
    if whole and config.removed > 0:
        first = f"{whole[0].owner} keeps all its {whole[0].total} {whole[0].kind}"
        warn_and_record(
            report,
            f"{len(whole)} of {len(report.groups)} groups keep all items at sparsity "
            f"{config.removed:g} and round_to {config.round_to}: {first}",
        )


def warn_of(report: PruningReport, plan: PruningPlan) -> None:
    """Record the warnings of a finished run.

    Args:
        report: the record of the run.
        plan: the pruning, with the pruned denoiser.
    """
    config = plan.config
    if plan.groups and config.allocation == "uniform":  # else allocation chose the dense groups
        note_untouched(report, config)
    neurons = {row.owner: row.total for row in report.groups if row.kind == "neurons"}
    if note := narrow_ffns(neurons, config.round_to):
        warn_and_record(report, note)
    note_unrounded(report, config)
    note_few_tokens(report)
    note_unrepaired(report)
    layers = [plan.denoiser.get_submodule(row.name) for row in report.layers]
    if config.correct_bias and not any(has_bias(layer) for layer in layers):
        warn_and_record(report, "correct_bias: none of the pruned layers has a bias")


def note_unrounded(report: PruningReport, config: PruningConfig) -> None:
    """Record one warning for all layers that could not be rounded."""
    rows = [(row.name, row.bits) for row in report.layers]
    rows += [(row.name, row.bits) for row in report.rounded_too]
    left = [name for name, bits in rows if bits is None] if config.bits else []
    if left:
        warn_and_record(
            report,
            f"bits {config.bits}: {len(left)} of {len(rows)} layers are not rounded, "
            f"since group_size {config.group_size} does not divide their inputs, or they are no "
            f"torch.nn.Linear ({left[0]})",
        )


def note_few_tokens(report: PruningReport) -> None:
    """Record one warning for all layers with fewer distinct tokens than columns.

    Methods that read the diagonal alone need few tokens: no warning for them.
    """
    config = report.config
    if config["method"] not in ("obs", "alps") and config["refine"] == "none":
        return
    few = sorted(
        (row for row in report.layers if row.tokens_per_column < 1),
        key=lambda row: row.tokens_per_column,
    )
    if few:
        worst = f"{few[0].name} has {few[0].tokens_per_column:.2f}"
        warn_and_record(
            report,
            f"{len(few)} layers saw less than one distinct token per column ({worst}), "
            "where OBS can do worse than magnitude: use more prompts or steps",
        )


def note_unrepaired(report: PruningReport) -> None:
    """Record one warning for all layers that a repair made worse on the held-out prompts."""
    bare = [row for row in report.layers if row.repaired is False]
    if bare:
        worst = max(bare, key=lambda row: row.held_out_error or 0.0)
        warn_and_record(
            report,
            f"{len(bare)} of {len(report.layers)} layers keep their weights unrepaired, since the "
            f"repair made them worse on the held-out prompts (most is lost in {worst.name}, "
            f"held-out error {worst.held_out_error:.3g}): use more prompts or steps",
        )


def warn_and_record(report: PruningReport, text: str) -> None:
    """Warn, and add the warning to the record."""
    report.warnings.append(text)
    warnings.warn(text, CalibrationWarning, stacklevel=3)
