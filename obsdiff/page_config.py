"""How the runs of a comparison were made: which of them belong on one line of a plot, and in which settings they differ."""

from typing import Any

from .page_merge import Comparison

ALONG_THE_LINE = (
    "sparsity",
    "batch_size",
    "device",
    "offload_device",
)  # what may differ between the runs of one line


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
