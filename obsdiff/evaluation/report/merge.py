"""Several results.json -> as few comparisons as they allow. Pipelines compare only where they were drawn from one dense model, with the
same prompts, seeds and settings, and judged by the same models; what differs there becomes a comparison of its own, and says why.
"""

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .noise import DENSE_NAME

Results = dict[str, Any]
EVALUATED = "evaluated with "
ALONG_THE_LINE = (
    "sparsity",
    "batch_size",
    "device",
    "offload_device",
)  # what may differ between the runs of one line


@dataclass
class Comparison:
    """Runs that compare. `results` is shaped like one results.json, and every run has a name of its own in it."""

    results: Results
    folders: list[Path]  # the first one holds the dense pictures
    homes: dict[str, Path] = field(
        default_factory=dict
    )  # name of a run: the folder of its pictures
    evaluated: dict[str, dict[str, Any]] = field(
        default_factory=dict
    )  # name of a run: versions, threads and judges of its evaluation
    why: str = ""  # why it is not part of another one


def merge(sets: list[tuple[Path, Results]]) -> list[Comparison]:
    """The comparisons of some folders' results, in their order."""
    bins: list[list[tuple[Path, Results]]] = []
    whys: list[str] = []
    for folder, results in sets:
        reasons = [setting_differences(union(members), results) for members in bins]
        if [] in reasons:
            bins[reasons.index([])].append((folder, results))
            continue
        nearest = min(range(len(bins)), key=lambda i: len(reasons[i]), default=None)
        whys.append(
            ""
            if nearest is None
            else f"Not merged with the runs of {bins[nearest][0][0].name}: {'; '.join(reasons[nearest])}."
        )
        bins.append([(folder, results)])
    return [join_results(members, why) for members, why in zip(bins, whys, strict=True)]


def setting_differences(a: Results, b: Results) -> list[str]:
    """What keeps b from being compared with a, in words; empty if nothing does."""
    found = [] if a["dense"] == b["dense"] else [f"dense model {b['dense']}, not {a['dense']}"]
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
    judges = [results.get("judges", {}) for results in (a, b)]
    return found + [
        f"{key} judged by {judges[1][key]}, not {judges[0][key]}"
        for key in judges[0]
        if judges[1].get(key) not in (None, judges[0][key])
    ]


def list_difference(title: str, a: list[Any], b: list[Any]) -> str:
    if len(a) != len(b):
        return f"{len(b)} {title}, not {len(a)}"
    differ = [i for i, (x, y) in enumerate(zip(a, b, strict=True)) if x != y]
    return (
        f"other {title}: {len(differ)} of {len(a)}, the first is {short(b[differ[0]])}, not {short(a[differ[0]])}"
        if differ
        else ""
    )


def short(value: Any, longest: int = 60) -> str:
    return repr(value) if len(repr(value)) <= longest else repr(value)[:longest] + "…"


def union(members: list[tuple[Path, Results]]) -> Results:
    """One results.json of several that compare: all runs, and of what was said of the dense pipeline the first that says it."""
    first = members[0][1]
    merged = first | {"runs": [run for _, results in members for run in results["runs"]]}
    for key, is_there in (
        ("dense_metrics", is_measured),
        ("dense_cost", is_measured),
        ("judges", bool),
    ):
        merged[key] = {
            name: value
            for _, results in reversed(members)
            for name, value in results.get(key, {}).items()
            if is_there(value)
        }
    return merged


def is_measured(figure: Any) -> bool:
    """Whether a figure or cost of the dense pipeline is more than a reason why there is none."""
    return not (isinstance(figure, dict) and figure.get("why_not"))


def join_results(members: list[tuple[Path, Results]], why: str) -> Comparison:
    """The comparison of results that compare, every run under a name of its own."""
    owners = [(folder, results) for folder, results in members for _ in results["runs"]]
    merged = union(members)
    names = names_apart(
        [(folder, run) for (folder, _), run in zip(owners, merged["runs"], strict=True)]
    )
    merged["runs"] = [run | {"name": name} for name, run in zip(names, merged["runs"], strict=True)]
    evaluated = {
        name: circumstances(results) for name, (_, results) in zip(names, owners, strict=True)
    }
    return Comparison(
        merged,
        [folder for folder, _ in members],
        {name: folder for name, (folder, _) in zip(names, owners, strict=True)},
        evaluated,
        why,
    )


def circumstances(results: Results) -> dict[str, Any]:
    """What may differ between evaluations that compare."""
    versions = {EVALUATED + key: value for key, value in results.get("versions", {}).items()}
    judges = {f"{EVALUATED}{key} judge": value for key, value in results.get("judges", {}).items()}
    return versions | {f"{EVALUATED}threads": results.get("threads")} | judges


def names_apart(runs: list[tuple[Path, dict[str, Any]]]) -> list[str]:
    """A name for each run of a folder: its own, with the folder of its pipeline or of its run before it where two would be called the same."""
    names = [run["name"] for _, run in runs]
    for longer in (of_pipeline, of_run, of_run_in_its_place):
        taken = Counter([DENSE_NAME, *names])
        names = [
            longer(home, run) if taken[name] > 1 else name
            for name, (home, run) in zip(names, runs, strict=True)
        ]
    return numbered(names)


def of_pipeline(home: Path, run: dict[str, Any]) -> str:
    parent = Path(run.get("path", "")).parent.name
    return f"{parent}/{run['name']}" if parent else run["name"]


def of_run(home: Path, run: dict[str, Any]) -> str:
    return f"{home.resolve().name}/{run['name']}"


def of_run_in_its_place(home: Path, run: dict[str, Any]) -> str:
    return f"{home.resolve().parent.name}/{of_run(home, run)}"


def numbered(names: list[str]) -> list[str]:
    """Names of which no two are the same, and none is that of the dense pipeline."""
    found: list[str] = []
    for name in names:
        number, own = 2, name
        while own in (DENSE_NAME, *found):
            number, own = number + 1, f"{name} ({number})"
        found.append(own)
    return found


def group_names(runs: list[dict[str, Any]]) -> dict[str, str]:
    """Name of a run -> of the group it is a point of: its method and pattern, and what else was set differently among the runs of both.
    A run without a config is a group of its own."""
    groups = {}
    for run in runs:
        config = run.get("config", {})
        peers = [
            other["config"] for other in runs if other.get("config") and base(other) == base(run)
        ]
        further = [
            key
            for key in config
            if key not in ALONG_THE_LINE and any(peer.get(key) != config[key] for peer in peers)
        ]
        groups[run["name"]] = (
            ", ".join([base(run), *(f"{key} {shown(config[key])}" for key in further)])
            if config
            else run["name"]
        )
    return groups


def base(run: dict[str, Any]) -> str:
    return " ".join(
        str(run.get("config", {}).get(key, "")) for key in ("method", "pattern")
    ).strip()


def configuration(
    comparison: Comparison,
) -> tuple[list[str], dict[str, dict[str, Any]], dict[str, str]]:
    """The settings in which the runs differ; name of a run -> its values of them; and what all share, in words. A run that has no config of
    obsdiff's has no value, and differs in nothing."""
    runs = comparison.results["runs"]
    settings = {
        run["name"]: run.get("config", {}) | comparison.evaluated[run["name"]] for run in runs
    }
    of_obsdiff = {run["name"] for run in runs if run.get("config")}
    keys = list(dict.fromkeys(key for row in settings.values() for key in row))
    evaluation = set(comparison.evaluated[runs[0]["name"]]) if runs else set()
    values = {
        key: [
            row.get(key)
            for name, row in settings.items()
            if key in row or key in evaluation or name in of_obsdiff
        ]
        for key in keys
    }
    differ = [key for key in keys if any(value != values[key][0] for value in values[key])]
    shared = {
        key: shown(values[key][0])
        for key in keys
        if key not in differ and values[key][0] not in (None, [])
    }
    return differ, settings, shared


def shown(value: Any) -> str:
    """A setting's value for people."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "none"
    return "default" if value is None else str(value)
