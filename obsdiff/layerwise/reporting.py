"""The report as a run begins, and the warnings it collects."""

import contextlib
import time
import warnings
from collections.abc import Iterator
from typing import Any

import torch

from ..calibration.plan import PruningPlan
from ..config import PruningConfig
from ..errors import CalibrationWarning
from ..models.discovery import uncovered
from ..pipelines.call import denoisers_besides
from ..pipelines.denoisers import chosen_denoiser
from ..pipelines.prompt_records import described_prompts, prompts_hash
from ..pipelines.record import PruningReport


@contextlib.contextmanager
def seconds(report: PruningReport, phase: str) -> Iterator[None]:
    """Add the seconds of the block to a phase of the report."""
    began = time.perf_counter()
    yield
    report.seconds[phase] = report.seconds.get(phase, 0.0) + time.perf_counter() - began


def begin_report(pipe: Any, plan: PruningPlan) -> PruningReport:
    """The report as it is before anything is pruned."""
    calibration_set = plan.calibration_set
    prompts, seeds = calibration_set.drawn
    report = PruningReport(
        plan.config.to_dict(),
        calibration_set.settings,
        described_prompts(prompts),
        seeds,
        plan.component,
        [list(p.layers) for p in plan.packages],
    )
    report.threads = torch.get_num_threads()
    report.hashes["prompts"] = prompts_hash(
        report.prompts, seeds
    )  # what is described is not hashed again
    report.parameters["before"] = sum(p.numel() for p in plan.denoiser.parameters())
    if plan.config.component is None and (others := denoisers_besides(pipe, plan.component)):
        warn_and_record(report, chosen_denoiser(type(pipe).__name__, plan.component, others))
    for layer in uncovered(plan.shapes, plan.blocks, plan.config.target):
        warn_and_record(report, f"{layer}: no table entry covers this layer; it stays dense")
    return report


def note_untouched(report: PruningReport, config: PruningConfig) -> None:
    """One warning for all groups that lost nothing, because they have few heads, or fewer neurons than round_to lets go."""
    whole = [row for row in report.groups if row.kept == row.total]
    if whole and config.removed > 0:
        first = f"{whole[0].owner} keeps all its {whole[0].total} {whole[0].kind}"
        warn_and_record(
            report,
            f"{len(whole)} of {len(report.groups)} groups lost nothing at sparsity {config.removed:g} and round_to {config.round_to}: {first}",
        )


def note_few_tokens(report: PruningReport) -> None:
    """One warning for all layers that saw fewer distinct tokens than they have columns."""
    few = sorted(
        (row for row in report.layers if row.tokens_per_column < 1),
        key=lambda row: row.tokens_per_column,
    )
    if few:
        worst = f"{few[0].name} has {few[0].tokens_per_column:.2f}"
        warn_and_record(
            report,
            f"{len(few)} layers saw less than one distinct token per column ({worst}), where OBS can do worse than magnitude: take more prompts or steps",
        )


def note_unrepaired(report: PruningReport) -> None:
    """One warning for all layers whose repair the held-out prompts refused."""
    bare = [row for row in report.layers if row.repaired is False]
    if bare:
        worst = max(bare, key=lambda row: row.held_out_error)
        warn_and_record(
            report,
            f"{len(bare)} of {len(report.layers)} layers keep their weights unrepaired, since the repair made them worse on the held-out prompts "
            f"(most is lost in {worst.name}, held-out error {worst.held_out_error:.3g}): take more prompts or steps",
        )


def warn_and_record(report: PruningReport, text: str) -> None:
    """Warn, and keep the warning in the record."""
    report.warnings.append(text)
    warnings.warn(text, CalibrationWarning, stacklevel=3)
