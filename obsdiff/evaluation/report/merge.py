"""Merge several results.json into as few comparisons as possible.

Two results belong to one comparison if they have the same dense model, prompts, seeds, settings
and judges. Otherwise they become separate comparisons, with the reason. A dense model is known by
the hashes of its weights; in results of older versions, which have none, by its path.
"""

import os
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .noise import DENSE_NAME

Results = dict[str, Any]
EVALUATED = "evaluated with "  # prefix of the settings of an evaluation
# what pictures depend on: other devices and number formats draw others from the same seed
MACHINE = {
    "device": "device",
    "format": "number format",
    "float32_products": "float32 products",
}


@dataclass
class Comparison:
    """Runs that are compared with one dense pipeline."""

    results: Results  # of the form of one results.json, with a unique name for each run
    folders: list[Path]  # of the merged results; the first one contains the dense pictures
    homes: dict[str, Path] = field(default_factory=dict)  # run -> folder of its pictures
    # run -> versions, threads and judges of its evaluation
    evaluated: dict[str, dict[str, Any]] = field(default_factory=dict)
    why: str = ""  # reason why it is not part of an earlier comparison


def merge(sets: list[tuple[Path, Results]]) -> list[Comparison]:
    """Merge results into comparisons, in their order.

    Args:
        sets: folder and content of each results.json.

    Returns:
        The comparisons; each one after the first states the first reason why it is separate.
    """
    bins: list[list[tuple[Path, Results]]] = []
    whys: list[str] = []
    for folder, results in sets:
        reasons = [setting_differences(union(members), results) for members in bins]
        if [] in reasons:
            bins[reasons.index([])].append((folder, results))
            continue
        nearest = min(range(len(bins)), key=lambda i: len(reasons[i]), default=None)
        why = ""
        if nearest is not None:
            other = bins[nearest][0][0].name
            why = f"Not merged with the runs of {other}: {reasons[nearest][0]}."
        whys.append(why)
        bins.append([(folder, results)])
    return [join_results(members, why) for members, why in zip(bins, whys, strict=True)]


def setting_differences(a: Results, b: Results) -> list[str]:
    """Return the differences that keep b from being compared with a, as texts."""
    found = model_differences(a, b)
    sizes = [results.get("dense_cost", {}) for results in (a, b)]
    for key in ("parameters", "zeros"):
        if all(sizes) and sizes[0][key] != sizes[1][key]:
            found.append(f"{sizes[1][key]:,} {key} in the dense model, not {sizes[0][key]:,}")
    found += [
        line for key in ("prompts", "seeds") if (line := list_difference(key, a[key], b[key]))
    ]
    settings = [results.get("settings", {}) for results in (a, b)]
    found += [
        f"{key} {settings[1].get(key)}, not {settings[0].get(key)}"
        for key in settings[0] | settings[1]
        if settings[0].get(key) != settings[1].get(key)
    ]
    machines = [results.get("machine", {}) for results in (a, b)]
    found += [
        f"computed with {MACHINE[key]} {machines[1][key]}, not {value}"
        for key, value in machines[0].items()
        if key in MACHINE and machines[1].get(key, value) != value
    ]
    judges = [results.get("judges", {}) for results in (a, b)]
    return found + [
        f"{key} judged by {judges[1][key]}, not {judges[0][key]}"
        for key in judges[0]
        if judges[1].get(key) not in (None, judges[0][key])
    ]


def model_differences(a: Results, b: Results) -> list[str]:
    """Return the differences of two dense models: of their weights, else of their paths."""
    paths = [os.path.normpath(results["dense"]) for results in (a, b)]
    names = f"dense model {b['dense']}" + (f", not {a['dense']}" if paths[0] != paths[1] else "")
    weights = [results.get("dense_weights", {}) for results in (a, b)]
    if not all(weights):
        return [names] if paths[0] != paths[1] else []
    keys = weights[0] | weights[1]
    other = [name for name in keys if weights[0].get(name) != weights[1].get(name)]
    return [f"{names}: other weights of {', '.join(other)}"] if other else []


def list_difference(title: str, a: list[Any], b: list[Any]) -> str:
    """Return the first difference of two lists as a text; "" if they are equal."""
    if len(a) != len(b):
        return f"{len(b)} {title}, not {len(a)}"
    differ = [i for i, (x, y) in enumerate(zip(a, b, strict=True)) if x != y]
    if not differ:
        return ""
    first = f"{short(b[differ[0]])}, not {short(a[differ[0]])}"
    return f"other {title}: {len(differ)} of {len(a)}, the first is {first}"


def short(value: Any, longest: int = 60) -> str:
    """Return the repr of a value, cut after `longest` characters."""
    return repr(value) if len(repr(value)) <= longest else repr(value)[:longest] + "…"


def union(members: list[tuple[Path, Results]]) -> Results:
    """Return one results.json of several: all runs, and the first measurements of dense."""
    first = members[0][1]
    merged = first | {"runs": [run for _, results in members for run in results["runs"]]}
    known = [results["dense_weights"] for _, results in members if results.get("dense_weights")]
    merged["dense_weights"] = known[0] if known else {}
    for key in ("dense_metrics", "dense_cost", "judges"):
        merged[key] = {
            name: value
            for _, results in reversed(members)
            for name, value in results.get(key, {}).items()
            if (value if key == "judges" else is_measured(value))
        }
    return merged


def is_measured(figure: Any) -> bool:
    """Return whether a figure or cost was measured, and is not only the reason why not."""
    return not (isinstance(figure, dict) and figure.get("why_not"))


def join_results(members: list[tuple[Path, Results]], why: str) -> Comparison:
    """Return the comparison of some results, with a unique name for each run."""
    owners = [(folder, results) for folder, results in members for _ in results["runs"]]
    merged = union(members)
    homes = [folder for folder, _ in owners]
    names = unique_names(list(zip(homes, merged["runs"], strict=True)))
    merged["runs"] = [run | {"name": name} for name, run in zip(names, merged["runs"], strict=True)]
    evaluations = [evaluation_settings(results) for _, results in owners]
    return Comparison(
        merged,
        [folder for folder, _ in members],
        dict(zip(names, homes, strict=True)),
        dict(zip(names, evaluations, strict=True)),
        why,
    )


def evaluation_settings(results: Results) -> dict[str, Any]:
    """Return the settings of an evaluation that may differ within a comparison."""
    versions = {EVALUATED + key: value for key, value in results.get("versions", {}).items()}
    judges = {f"{EVALUATED}{key} judge": value for key, value in results.get("judges", {}).items()}
    return versions | {f"{EVALUATED}threads": results.get("threads")} | judges


def unique_names(runs: list[tuple[Path, dict[str, Any]]]) -> list[str]:
    """Return a unique name for each run.

    Where two have the same name, the folder of the pipeline precedes it, then that of the run.

    Args:
        runs: folder of the results.json, and entry of the run.
    """
    names = [run["name"] for _, run in runs]
    for longer in (with_pipeline_folder, with_run_folder, with_two_run_folders):
        taken = Counter([DENSE_NAME, *names])
        names = [
            longer(home, run) if taken[name] > 1 else name
            for name, (home, run) in zip(names, runs, strict=True)
        ]
    return numbered(names)


def with_pipeline_folder(home: Path, run: dict[str, Any]) -> str:
    """Return the run's name after the folder in which its pipeline is."""
    parent = Path(run.get("path", "")).parent.name
    return f"{parent}/{run['name']}" if parent else run["name"]


def with_run_folder(home: Path, run: dict[str, Any]) -> str:
    """Return the run's name after the folder of its results.json."""
    return f"{home.resolve().name}/{run['name']}"


def with_two_run_folders(home: Path, run: dict[str, Any]) -> str:
    """Return the run's name after the folder of its results.json and that one's parent."""
    return f"{home.resolve().parent.name}/{with_run_folder(home, run)}"


def numbered(names: list[str]) -> list[str]:
    """Number equal names, and names equal to the dense pipeline's, to make them unique."""
    found: list[str] = []
    for name in names:
        number, own = 2, name
        while own in (DENSE_NAME, *found):
            number, own = number + 1, f"{name} ({number})"
        found.append(own)
    return found
