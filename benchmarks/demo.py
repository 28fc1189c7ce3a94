"""The figures of the demo that the tables of README.md and docs/measurements.md show.

    obsdiff demo --output DIR       # or make demo
    python -m benchmarks.demo DIR

Reads DIR/run/results.json, which is checked, and writes benchmarks/results/demo.json. Run it with
the built-in models of the demo: the version of the model is that of the installed one.
"""

import argparse
from pathlib import Path
from typing import Any

from obsdiff import UserError, builtin_path
from obsdiff.cli.demo import DEMO_MODEL, VARIANTS
from obsdiff.evaluation.report.schema import check_results
from obsdiff.pipelines.prompt_files import read_prompts
from obsdiff.runtime.json_files import read_json, write_json

from .conditions import RESULTS, model_version

ERROR = "relative_latent_error"
COSTS = ("parameters", "zeros", "bytes_on_disk", "macs", "heads", "neurons", "step", "picture")


def figures_of(results: dict[str, Any], prompts: list[str], version: int) -> dict[str, Any]:
    """The content of demo.json.

    Args:
        results: the content of the demo's results.json.
        prompts: the evaluation prompts of the built-in model.
        version: of the built-in model.

    Raises:
        UserError: the results are not the demo's, or those of another version of the model.
    """
    check_results(results)
    names = [run["name"] for run in results["runs"]]
    if (results["dense"], names) != (DEMO_MODEL, list(VARIANTS)):
        raise UserError(f"expected the prunings of the demo, found {results['dense']}: {names}")
    if results["prompts"] != prompts[: len(results["prompts"])]:
        raise UserError(f"expected the prompts of {DEMO_MODEL}, found others; run the demo again")
    return {
        "command": "obsdiff demo",
        "model": DEMO_MODEL,
        "model_version": version,
        "settings": results["settings"],
        "prompts": {"evaluation": len(results["prompts"])},
        "threads": results["threads"],
        "versions": results["versions"],
        "dense": cost_of(results["dense_cost"]),
        "rows": {run["name"]: row_of(run) for run in results["runs"]},
    }


def row_of(run: dict[str, Any]) -> dict[str, Any]:
    """What is kept of one pruning."""
    return {
        "way": run["name"].partition(" ")[0],
        "pattern": run["config"]["pattern"],
        "num_prompts": run["config"]["num_prompts"],
        "error": run["metrics"][ERROR],
        "cost": cost_of(run["cost"]),
    }


def cost_of(cost: dict[str, Any]) -> dict[str, Any]:
    """What is kept of the cost of a pipeline."""
    return {key: cost[key] for key in COSTS if key in cost}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, metavar="DIR", help="output of obsdiff demo")
    file = parser.parse_args().folder / "run" / "results.json"
    prompts = read_prompts(builtin_path(DEMO_MODEL) / "evaluation_prompts.txt")
    try:
        found = figures_of(read_json(file), prompts, model_version(DEMO_MODEL))
    except UserError as error:
        parser.error(str(error))
    except ValueError as error:  # a wrong value, by its place in the file
        parser.error(f"{file}: {error}")
    write_json(RESULTS / "demo.json", found)
    print(RESULTS / "demo.json")


if __name__ == "__main__":
    main()
