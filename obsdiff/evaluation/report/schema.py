"""The schema of results.json, version 1, and its check; docs/results-schema.md has the meanings.

A dict is an object; a key that ends in "?" is optional, the key "*" matches every key. A list
contains any number of its one kind; a tuple of one kind is that kind or null. `float` is any finite
number.
"""

from typing import Any

from ...pipelines.removed import KINDS
from ...runtime.json_files import check_json, check_shapes
from .noise import METRICS

SCHEMA_VERSION = 1
NUMBER = (float,)  # or null
FIGURE = {
    "value": NUMBER,
    "low": NUMBER,
    "high": NUMBER,
    "why_not": (str,),
    "per_prompt?": ([float],),
    "parts?": {"*": {"value": float, "count": int}},
}
SPEED = {"speedup": float, "low": float, "high": float}
REMOVED_OF_TOTAL = {"removed": int, "total": int}
MEASURED = {
    "seconds?": {"*": float},
    **{f"{kind}?": REMOVED_OF_TOTAL for kind in KINDS},
    "rounded?": {"layers": int, "bits": int},
    "folded?": {"layers": int, "total": int},
    "macs?": {"total?": NUMBER, "why_not?": (str,)},
    "step?": SPEED,
    "picture?": SPEED,
    "memory?": {"peak_bytes?": NUMBER, "why_not?": (str,)},
}
COST = {"parameters": int, "zeros": int, "bytes_on_disk": int} | MEASURED
METRIC = {f"{name}?": FIGURE for name in METRICS}
LAYER_SCHEMA = {"shape": [int], "sparsity": float, "error": float, "held_out_error?": NUMBER}
FLAWED = [{"picture": int, "why": str}]
HASHES = {"*": str}
RUN = {
    "name": str,
    "path?": str,
    "config?": {"*": object},
    "cost": COST,
    "metrics": METRIC,
    "prompts_calibrated_on?": int,
    "layers": [LAYER_SCHEMA],
    "images": [str],
    "flawed?": FLAWED,
    "weights?": HASHES,
}
RESULTS_SCHEMA = {
    "schema": int,
    "dense": str,
    "dense_weights?": HASHES,
    "dense_images?": [str],
    "dense_flawed?": FLAWED,
    "dense_cost?": dict,
    "dense_metrics?": METRIC,
    "runs": [RUN],
    "prompts": [object],
    "seeds": [int],
    "settings?": {"*": object},
    "judges?": {"*": (str,)},
    "without?": [str],
    "threads?": NUMBER,
    "versions?": {"*": str},
    "machine?": {"*": str},
}


def check_results(results: dict[str, Any]) -> None:
    """Check the content of a results.json against the schema.

    Raises:
        ValueError: the place of the first wrong value, with the expected and the found value.
    """
    check_json(results, RESULTS_SCHEMA, "")
    if results.get("dense_cost"):
        check_json(results["dense_cost"], COST, "dense_cost")
    for key in ("prompts", "seeds"):
        if not results[key]:
            raise ValueError(f"{key}: expected at least one")
    if len(results["prompts"]) != len(results["seeds"]):
        raise ValueError(
            f"seeds: expected one a prompt, found {len(results['prompts'])} prompts and "
            f"{len(results['seeds'])} seeds"
        )
    for place, row in figures(results):
        ends = [row[key] for key in ("value", "low", "high")]
        if None in ends and ends != [None] * 3:
            raise ValueError(
                f"{place}: expected value, low and high, or none of them, found {ends}"
            )
    for i, run in enumerate(results["runs"]):
        check_shapes(run["layers"], f"runs[{i}].layers")


def figures(results: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """Return place and value of every figure."""
    rows = {
        "dense_metrics": results.get("dense_metrics", {}),
        **{f"runs[{i}].metrics": run["metrics"] for i, run in enumerate(results["runs"])},
    }
    return [
        (f"{place}.{metric}", row[metric])
        for place, row in rows.items()
        for metric in METRICS
        if metric in row
    ]
