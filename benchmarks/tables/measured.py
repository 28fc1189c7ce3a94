"""docs/measured.md: every run that was sent in, a row for each pruned pipeline."""

from pathlib import Path
from typing import Any

from obsdiff import UserError
from obsdiff.evaluation.report.schema import SCHEMA_VERSION, check_results
from obsdiff.runtime.json_files import read_json

from .demo import megabytes
from .markdown import grid, interval
from .stored import Kept, NotMeasured

FOLDER = "measured"  # in benchmarks/results
COMMAND = "obsdiff evaluate, and put its results.json there (docs/community.md)"
HEAD = [
    "model",
    "pruning",
    "latent error",
    "CLIP score of dense",
    "on disk of dense",
    "speed of a step",
    "prompts, steps",
    "device",
    "obsdiff",
    "file",
]


def measured(folder: Path) -> str:
    """The block of docs/measured.md; `folder`: benchmarks/results.

    Raises:
        UserError: a file does not follow the schema of results.json.
        NotMeasured: there is no file.
    """
    files = sorted((folder / FOLDER).glob("*.json"))
    if not files:
        raise NotMeasured(COMMAND)
    return grid(HEAD, [line for file in files for line in lines_of(file)])


def lines_of(file: Path) -> list[list[str]]:
    """The rows of a file."""
    results = sent_in(file)
    return [cells(results, run, file.name) for run in results["runs"]]


def sent_in(file: Path) -> Kept:
    """A results.json that was sent in, checked.

    Raises:
        UserError: it is of another schema, or does not follow it, or names a folder of a machine.
    """
    results = read_json(file)
    if results.get("schema") != SCHEMA_VERSION:
        raise UserError(
            f"{file.name}: expected schema {SCHEMA_VERSION}, found {results.get('schema')!r}"
        )
    try:
        check_results(results)
    except ValueError as error:
        raise UserError(f"{file.name} does not follow schema {SCHEMA_VERSION}: {error}") from None
    for name in (results["dense"], *(run.get("path", "") for run in results["runs"])):
        if Path(name).is_absolute():
            raise UserError(f"{file.name}: expected no folder of a machine, found {name!r}")
    for key in ("machine", "versions", "settings"):
        if not results.get(key):
            raise UserError(f"{file.name}: expected {key!r}, which this obsdiff writes; found none")
    return results


def cells(results: Kept, run: Kept, file: str) -> list[str]:
    """The row of a pruned pipeline."""
    cost, dense = run["cost"], results.get("dense_cost")
    version = results["versions"].get(results["dense"])
    steps = results["settings"].get("num_inference_steps", "its own")
    return [
        results["dense"] + (f", version {version}" if version else ""),
        pruning(run),
        figure(run["metrics"], "relative_latent_error", 3),
        of_dense(*(score(m, "clip_score") for m in (run["metrics"], results["dense_metrics"]))),
        of_dense(megabytes(cost), megabytes(dense) if dense else None),
        interval(cost["step"], "speedup", 2) if "step" in cost else "not timed",
        f"{len(results['prompts'])}, {steps}",
        f"{results['machine']['device']}, {results['machine']['format']}",
        results["versions"]["obsdiff"],
        f"[{Path(file).stem}](../benchmarks/results/{FOLDER}/{file})",
    ]


def pruning(run: Kept) -> str:
    """What was done, such as "structured 30 %, preset best, 100 prompts"."""
    config = run.get("config") or {}
    pattern, sparsity = config.get("pattern"), config.get("sparsity")
    if pattern is None:
        return run["name"]
    amount = f" {100 * sparsity:g} %" if isinstance(sparsity, float) and ":" not in pattern else ""
    named = [f"preset {config['preset']}"] if config.get("preset") else [config["method"]]
    return ", ".join([pattern + amount, *named, f"{config['num_prompts']} prompts"])


def figure(metrics: dict[str, Any], name: str, decimals: int) -> str:
    """A figure with its interval."""
    row = metrics.get(name)
    return interval(row, "value", decimals) if row and row["value"] is not None else "not measured"


def score(metrics: dict[str, Any], name: str) -> str | None:
    """A figure alone, None if it was not measured."""
    row = metrics.get(name)
    return None if row is None or row["value"] is None else f"{row['value']:.1f}"


def of_dense(ours: str | None, dense: str | None) -> str:
    """Both in one cell."""
    if ours is None:
        return "not measured"
    return ours if dense is None else f"{ours} of {dense}"
