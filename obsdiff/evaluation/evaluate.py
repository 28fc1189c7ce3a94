"""The same prompts and seeds through the dense and the pruned pipelines -> results.json.

    1. Draw the missing pictures, the dense pipeline first    evaluation/draw.py
    2. Score the pictures, and compare them with dense        evaluation/judges/scores.py
    3. Measure the cost of each pipeline                      evaluation/costs.py
    4. Write results.json and rename the folder               docs/results-schema.md

The run fills OUTPUT.part. A killed run resumes from it.
"""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from ..errors import UserError
from ..pipelines.builtin import builtin_version
from ..pipelines.folder import Folder
from ..pipelines.partial_output import check_output, finish, open_part
from ..pipelines.record import versions
from ..pipelines.replaceable import RESULTS
from ..runtime.display import current, watching
from ..runtime.json_files import read_json, write_json
from ..runtime.progress import counting, say
from .costs import record_of, resumable_cost
from .draw import LOADING, draw_missing, drawing_phase, load_drawn
from .flaws import flawed_pictures, problem
from .inputs import Evaluation
from .judges.scores import Scores, all_figures
from .metrics import Figure
from .picture_files import read_picture
from .report.noise import DENSE_NAME
from .report.schema import SCHEMA_VERSION
from .report.values import without_text
from .weights import weight_hashes

REDRAW = "remove it, then continue with --resume"  # about a damaged picture

MEASURING = "measuring"  # the name of a phase
# configuration that fixes the shape of the latents, and how many pixels a latent becomes
LATENT_KEYS = ("sample_size", "in_channels", "out_channels", "patch_size")
VAE_KEYS = ("latent_channels", "block_out_channels")


@dataclass(frozen=True)
class PipelineResult:
    """What was drawn with one pipeline and measured of it."""

    images: list[str]  # paths of its pictures, relative to the folder of the run
    cost: dict[str, Any]  # as costs.measured_cost returns it
    metrics: dict[str, Figure]  # by name of the metric
    flawed: list[dict[str, Any]]  # pictures that the denoiser did not draw
    weights: dict[str, str]  # SHA-256 of each component


def evaluate(
    evaluation: Evaluation, output: Path, resume: bool = False, overwrite: bool = False
) -> dict[str, Any]:
    """Run an evaluation and write its folder: pictures and results.json.

    Args:
        evaluation: the pipelines, and how they are called.
        output: the folder to write.
        resume: continue the killed run in OUTPUT.part.
        overwrite: replace an existing run.

    Returns:
        The content of results.json.

    Raises:
        UserError: the output cannot be written, or OUTPUT.part belongs to another run.
    """
    check_output(output, overwrite, evaluation.inputs)
    with (
        watching(),
        open_part(output, evaluation.fingerprint(), resume, overwrite) as part,
    ):
        results = run_stages(evaluation, part)
        write_json(part / RESULTS, results)
        finish(part, output, overwrite)
    return results


def run_stages(evaluation: Evaluation, part: Path) -> dict[str, Any]:
    """Draw and measure what `part` does not contain yet; return the content of results.json."""
    plan_phases(evaluation)
    if evaluation.checkers:
        say(f"{without_text(evaluation.checkers)}: every picture is the denoiser's own")
    images = {name: draw_missing(evaluation, name, part) for name in evaluation.folders}
    drawn = {name: load_drawn(evaluation, name, part) for name in evaluation.folders}
    with counting(MEASURING, 1 + len(evaluation.folders), unit="") as advance:
        metrics = score_pictures(evaluation, images, drawn, part)
        advance(1)
        costs = {}
        for name in evaluation.folders:
            costs[name] = resumable_cost(evaluation, name, part)
            advance(1)
    found = {
        name: PipelineResult(
            images[name],
            costs[name],
            metrics[name],
            flawed_pictures(drawn[name][1]),
            weight_hashes(folder),
        )
        for name, folder in evaluation.folders.items()
    }
    return results_of(evaluation, found, part.parent)


def plan_phases(evaluation: Evaluation) -> None:
    """Tell the display what an evaluation will do."""
    phases, dense = current(), drawing_phase(DENSE_NAME)
    phases.plan(LOADING, 1, repeats=len(evaluation.folders))
    for name in evaluation.folders:
        model = (dense, 1.0) if name != DENSE_NAME else None
        phases.plan(
            drawing_phase(name), len(evaluation.prompts), unit="pictures", model=model, repeats=1
        )
    phases.expect(MEASURING)


def score_pictures(
    evaluation: Evaluation,
    images: dict[str, list[str]],
    drawn: dict[str, tuple[Tensor, Tensor]],
    part: Path,
) -> Scores:
    """Return the figures of every pipeline, computed from the saved pictures.

    Args:
        evaluation: prompts and judges.
        images: paths of each pipeline's pictures.
        drawn: latents and flaws of each pipeline.
        part: the folder that the run fills.
    """
    latents = {name: each for name, (each, _) in drawn.items()}
    flaws = {name: each for name, (_, each) in drawn.items()}
    for name, each in flaws.items():
        if why := problem(each):
            say(f"{name}: {why}: figures of them are not computed")
    say(f"measuring the pictures of {len(images)} pipelines")
    pictures = {
        name: [read_picture(part / file, REDRAW) for file in files]
        for name, files in images.items()
    }
    return all_figures(pictures, latents, DENSE_NAME, evaluation.prompts, evaluation.judges, flaws)


def results_of(
    evaluation: Evaluation, found: dict[str, PipelineResult], near: Path
) -> dict[str, Any]:
    """Return results.json of the results by pipeline; `near` as in run_entry."""
    dense = found[DENSE_NAME]
    return {
        "schema": SCHEMA_VERSION,
        "dense": evaluation.label or str(evaluation.dense.source),
        "dense_weights": dense.weights,
        "dense_images": dense.images,
        "dense_flawed": dense.flawed,
        "dense_cost": dense.cost,
        "dense_metrics": dense.metrics,
        "runs": [run_entry(evaluation, name, found[name], near) for name in evaluation.runs],
        "prompts": evaluation.prompts,
        "seeds": evaluation.seeds,
        "settings": evaluation.settings,
        "without": evaluation.checkers,
        "judges": evaluation.judges.record(),
        "threads": evaluation.threads,
        "versions": versions() | builtin_version(evaluation.dense.path),
        "machine": evaluation.machine(),
    }


def run_entry(
    evaluation: Evaluation, name: str, found: PipelineResult, near: Path
) -> dict[str, Any]:
    """Return the element of `runs` in results.json for one pruned pipeline.

    Args:
        evaluation: the pipelines and prompts.
        name: of the pruned pipeline.
        found: its pictures, cost and metrics.
        near: parent folder of the run; a pipeline below it is recorded by its relative path.
    """
    folder, record = evaluation.runs[name].path, record_of(evaluation.runs[name])
    real = Path(os.path.realpath(folder))
    calibrated_on = {prompt for prompt in record.get("prompts", []) if isinstance(prompt, str)}
    return {
        "name": name,
        "path": str(real.relative_to(near) if real.is_relative_to(near) else folder),
        "config": record.get("config", {}),
        "cost": found.cost,
        "metrics": found.metrics,
        "prompts_calibrated_on": len(set(evaluation.prompts) & calibrated_on),
        "layers": record.get("layers", []),
        "images": found.images,
        "flawed": found.flawed,
        "weights": found.weights,
    }


def check_comparable(dense: Folder, runs: dict[str, Folder], component: str) -> None:
    """Check that all pipelines draw pictures of one size with the same scheduler.

    Args:
        dense: the dense pipeline.
        runs: the pruned pipelines by name, of the same class.
        component: name of the denoiser.

    Raises:
        UserError: a setting differs; the message names it.
    """
    expected = drawing_settings(dense, component)
    for folder in runs.values():
        found = drawing_settings(folder, component)
        for part, key in ((part, key) for part, settings in expected.items() for key in settings):
            if expected[part][key] != found[part].get(key):
                raise UserError(
                    f"evaluate: {part} of {dense.source} has {key} {expected[part][key]}, that of "
                    f"{folder.path} has {found[part].get(key)}: their pictures can't be compared"
                )


def drawing_settings(folder: Folder, component: str) -> dict[str, dict[str, Any]]:
    """Return the settings that two comparable pipelines share, by component and name."""
    denoiser = folder.config(folder.denoiser(component, plain=False))
    vae = folder.config("vae") if "vae" in folder.components else {}
    return {
        "vae": {key: vae.get(key) for key in VAE_KEYS},
        component: {key: denoiser.get(key) for key in LATENT_KEYS},
        "scheduler": scheduler_settings(folder),
    }


def scheduler_settings(folder: Folder) -> dict[str, Any]:
    """Return class and settings of a pipeline's scheduler.

    Settings that its file omits, because an older diffusers wrote it, have their defaults.

    Raises:
        UserError: the scheduler is none of diffusers, or diffusers refuses its settings.
    """
    import diffusers

    name = (read_json(folder.path / "model_index.json").get("scheduler") or [None])[-1]
    kind = getattr(diffusers, str(name), None)
    if kind is None:
        raise UserError(
            f"{folder.path}: expected a scheduler of diffusers in model_index.json, found {name!r}"
        )
    file = folder.path / "scheduler" / "scheduler_config.json"
    config = read_json(file)
    try:
        settings = kind.from_config(config).config
    except (TypeError, ValueError, AttributeError, RuntimeError) as error:
        raise UserError(f"{file}: diffusers can't make a {name} of it: {error}") from error
    public = {key: value for key, value in settings.items() if not key.startswith("_")}
    return {"class": name} | public
