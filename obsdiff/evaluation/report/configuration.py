"""Settings of the runs of a comparison: which differ, which all share, and which form groups."""

from typing import Any

from .merge import Comparison

# settings that may differ between the runs of one group, which a plot joins by a line
ALONG_THE_LINE = ("sparsity", "batch_size", "device", "offload_device")


def group_names(runs: list[dict[str, Any]]) -> dict[str, str]:
    """Return the group of each run by name: method, pattern, and further settings that differ.

    A further setting is one that differs among the runs of the same method and pattern, but for
    those of ALONG_THE_LINE. A run without a config is a group of its own.

    Args:
        runs: of results.json.
    """
    groups = {}
    for run in runs:
        config = run.get("config", {})
        method = method_and_pattern(run)
        peers = [
            other["config"]
            for other in runs
            if other.get("config") and method_and_pattern(other) == method
        ]
        further = [
            f"{key} {setting_text(config[key])}"
            for key in config
            if key not in ALONG_THE_LINE and any(peer.get(key) != config[key] for peer in peers)
        ]
        groups[run["name"]] = ", ".join([method, *further]) if config else run["name"]
    return groups


def method_and_pattern(run: dict[str, Any]) -> str:
    """Return preset, else method, and pattern of a run; "" for a run without a config."""
    config = run.get("config", {})
    how = config.get("preset") or config.get("method", "")
    return f"{how} {config.get('pattern', '')}".strip()


def configuration(
    comparison: Comparison,
) -> tuple[list[str], dict[str, dict[str, Any]], dict[str, str]]:
    """Compare the settings of a comparison's runs.

    A run that obsdiff did not prune has no config; it is left out of the comparison of configs.

    Args:
        comparison: runs with a config each, and the settings of each run's evaluation.

    Returns:
        The names of the settings that differ; all settings of each run, by its name; the settings
        that are shared, as texts.
    """
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
        key: setting_text(values[key][0])
        for key in keys
        if key not in differ and values[key][0] not in (None, [])
    }
    return differ, settings, shared


def setting_text(value: Any) -> str:
    """Return the value of a setting as the page shows it."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "none"
    return "default" if value is None else str(value)
