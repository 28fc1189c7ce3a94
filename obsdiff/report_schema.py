"""results.json, schema 1, as a table of what has to be where (docs/results-schema.md says what it means), and its check.

A dict is an object: a key that ends in "?" may be missing, "*" stands for every key. A list holds any number of its one kind, a tuple
of one kind may be null. `float` is any number but NaN and infinity.
"""

from typing import Any

from .comparison import METRICS
from .record import KINDS

LARGEST = 1e30  # what plots can show
NUMBER = (float,)  # or null
FIGURE = {
    "value": NUMBER,
    "low": NUMBER,
    "high": NUMBER,
    "why_not": (str,),
    "per_prompt?": ([float],),
}
SPEED = {"speedup": float, "low": float, "high": float}
COUNTS = {"removed": int, "total": int}
MEASURED = {
    "seconds?": {"*": float},
    **{f"{kind}?": COUNTS for kind in KINDS},
    "macs?": {"total?": NUMBER, "why_not?": (str,)},
    "step?": SPEED,
    "picture?": SPEED,
    "memory?": {"peak_bytes?": NUMBER, "why_not?": (str,)},
}
COST = {"parameters": int, "zeros": int, "bytes_on_disk": int} | MEASURED
METRIC = {f"{name}?": FIGURE for name in METRICS}
LAYER = {"shape": [int], "sparsity": float, "error": float, "held_out_error?": NUMBER}
RUN = {
    "name": str,
    "path?": str,
    "config?": {"*": object},
    "cost": COST,
    "metrics": METRIC,
    "prompts_calibrated_on?": int,
    "layers": [LAYER],
    "images": [str],
}
RESULTS = {
    "schema": int,
    "dense": str,
    "dense_images?": [str],
    "dense_cost?": dict,
    "dense_metrics?": METRIC,
    "runs": [RUN],
    "prompts": [object],
    "seeds": [int],
    "settings?": {"*": object},
    "judges?": {"*": (str,)},
    "threads?": NUMBER,
    "versions?": {"*": str},
}
WORDS = {str: "a text", int: "a whole number", float: "a number", dict: "an object", list: "a list"}


def check_results(results: dict[str, Any]) -> None:
    """ValueError that names the place of the first value that is not as the schema says."""
    check(results, RESULTS, "")
    if results.get("dense_cost"):
        check(results["dense_cost"], COST, "dense_cost")
    for key in ("prompts", "seeds"):
        if not results[key]:
            raise ValueError(f"{key}: expected at least one")
    if len(results["prompts"]) != len(results["seeds"]):
        raise ValueError(f"{len(results['prompts'])} prompts and {len(results['seeds'])} seeds")
    for place, row in figures(results):
        ends = [row[key] for key in ("value", "low", "high")]
        if None in ends and ends != [None] * 3:
            raise ValueError(
                f"{place}: expected value, low and high, or none of them; found {ends}"
            )
    for i, run in enumerate(results["runs"]):
        check_shapes(run["layers"], f"runs[{i}].layers")


def check_shapes(layers: list[dict[str, Any]], place: str) -> None:
    """ValueError for the first layer whose shape is not that of a matrix."""
    for i, layer in enumerate(layers):
        if len(layer["shape"]) != 2:
            raise ValueError(f"{place}[{i}].shape: expected two numbers, found {layer['shape']}")


def figures(results: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """Place and value of every figure."""
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


def check(value: Any, wanted: Any, place: str) -> None:
    """ValueError unless a value is what is wanted at its place."""
    if isinstance(wanted, tuple):
        if value is not None:
            check(value, wanted[0], place)
    elif isinstance(wanted, dict):
        expect(value, dict, place)
        check_keys(value, wanted, place)
    elif isinstance(wanted, list):
        expect(value, list, place)
        for i, element in enumerate(value):
            check(element, wanted[0], f"{place}[{i}]")
    else:
        expect(value, wanted, place)


def check_keys(value: dict[str, Any], wanted: dict[str, Any], place: str) -> None:
    for key, inner in wanted.items():
        name = key.removesuffix("?")
        if key == "*":
            for any_key, element in value.items():
                check(element, inner, within(place, any_key))
        elif name in value:
            check(value[name], inner, within(place, name))
        elif name == key:
            raise ValueError(f"{within(place, name)} is missing")


def within(place: str, key: str) -> str:
    return f"{place}.{key}" if place else key


def expect(value: Any, kind: type, place: str) -> None:
    """ValueError unless a value is of a kind; yes and no are no numbers, infinite ones neither."""
    kinds = (int, float) if kind is float else kind
    is_number = kind in (int, float)
    if not isinstance(value, kinds) or (
        is_number and (isinstance(value, bool) or not abs(value) <= LARGEST)
    ):
        found = repr(value)
        raise ValueError(
            f"{place}: expected {WORDS[kind]}, found {found if len(found) <= 60 else found[:57] + '...'}"
        )
