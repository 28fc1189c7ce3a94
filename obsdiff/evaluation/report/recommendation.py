"""Which of the pruned pipelines to take: the smallest whose pictures do not change visibly."""

from dataclasses import dataclass
from typing import Any

from .configuration import group_names, method_and_pattern
from .tables import removed_share
from .verdict import Verdict, verdicts

Run = dict[str, Any]
LEAST_GAIN = 0.005  # share of bytes below which a result counts as no smaller
LEAST_SPEED = 1.03  # speed-up below which it counts as no faster


@dataclass(frozen=True)
class Recommendation:
    """What the figures recommend.

    Attributes:
        name: of the run to take; None if there is none.
        sentence: the recommendation in words.
        lines: one line for each run.
    """

    name: str | None
    sentence: str
    lines: list[str]


def recommend(results: dict[str, Any]) -> Recommendation:
    """Return the recommendation of an evaluation.

    Runs that differ in sparsity alone form a ladder. Of each ladder the largest sparsity counts
    up to which at most one prompt in ten differs visibly. Of these runs the smallest on disk is
    recommended; among equally small ones the one with the fewest parameters that are not zero,
    then the one with the fewest visible differences.

    Args:
        results: the content of a results.json, its runs with unique names.
    """
    found = {verdict.name: verdict for verdict in verdicts(results)}
    lines = [f"{name}: {verdict}" for name, verdict in found.items()]
    if not found:
        why = "No pictures could be compared, so none is recommended."
        return Recommendation(None, why, lines)
    runs = {run["name"]: run for run in results["runs"] if run["name"] in found}
    label = labels(list(runs.values()))
    good: dict[str, tuple[list[Run], int]] = {}  # last acceptable one -> its ladder, its place
    for rows in ladders(list(runs.values())):
        up_to = acceptable_up_to([found[row["name"]] for row in rows])
        if up_to:
            good[rows[up_to - 1]["name"]] = rows, up_to
    if not good:
        return Recommendation(None, none_of(found, label), lines)
    name = min(good, key=lambda one: preference(runs[one], found[one]))
    parts = [changes(found[name]), *gains(runs[name], results.get("dense_cost", {}))]
    rest = beyond(*good[name], found, label)
    return Recommendation(name, f"Take {label[name]}: {', '.join(parts)}.{rest}", lines)


def ladders(runs: list[Run]) -> list[list[Run]]:
    """Return the runs of each group by the share that they remove.

    A run whose share is not known is a ladder of its own.
    """
    groups = group_names(runs)
    found: dict[str, list[Run]] = {}
    for run in runs:
        alone = share_of(run) is None
        found.setdefault(f"alone: {run['name']}" if alone else groups[run["name"]], []).append(run)
    return [sorted(rows, key=lambda run: share_of(run) or 0.0) for rows in found.values()]


def share_of(run: Run) -> float | None:
    """Return the share that a run removes, 0 to 1: as asked for, else as recorded; None if unknown.

    Args:
        run: an element of `runs`.
    """
    config = run.get("config", {})
    kept, colon, group = str(config.get("pattern", "")).partition(":")
    if colon and kept.isdigit() and group.isdigit() and int(group):
        return 1 - int(kept) / int(group)
    asked = config.get("sparsity")
    if isinstance(asked, int | float) and not isinstance(asked, bool):
        return float(asked)
    return removed_share(run)


def labels(runs: list[Run]) -> dict[str, str]:
    """Return what the sentence calls each run: method, pattern and share, if these are unique."""
    texts = {}
    for run in runs:
        share, kind = share_of(run), method_and_pattern(run)
        pattern = str(run.get("config", {}).get("pattern", ""))
        if kind and share is not None:
            texts[run["name"]] = kind if ":" in pattern else f"{kind} {100 * share:.0f} %"
    return {
        run["name"]: text
        if (text := texts.get(run["name"])) and list(texts.values()).count(text) == 1
        else run["name"]
        for run in runs
    }


def acceptable_up_to(rows: list[Verdict]) -> int:
    """Return how many verdicts come before the first that is not acceptable."""
    return next((i for i, row in enumerate(rows) if not row.acceptable), len(rows))


def preference(run: Run, verdict: Verdict) -> tuple[float, ...]:
    """Return the key by which the run to take comes first."""
    cost = run["cost"]
    used = cost["parameters"] - cost["zeros"]
    return cost["bytes_on_disk"], used, verdict.visible, -verdict.same, -verdict.lowest


def changes(verdict: Verdict) -> str:
    """Return how many prompts change visibly, in words."""
    if not verdict.visible:
        return f"none of {verdict.prompts} prompts changes visibly"
    verb = "changes" if verdict.visible == 1 else "change"
    return f"{verdict.visible} of {verdict.prompts} prompts {verb} visibly"


def gains(run: Run, dense: dict[str, Any]) -> list[str]:
    """Return what a run gains over dense: bytes and speed, else zeros.

    Args:
        run: an element of `runs`.
        dense: the cost of the dense pipeline; may be empty.
    """
    cost = run["cost"]
    found = []
    whole = dense.get("bytes_on_disk")
    saved = 1 - cost["bytes_on_disk"] / whole if whole else 0.0
    if saved > LEAST_GAIN:
        found.append(f"{100 * saved:.0f} % smaller on disk")
    smaller = saved > LEAST_GAIN or fewer_operations(cost, dense)
    if smaller and faster(cost.get("step", {})):
        found.append(f"a step is {cost['step']['speedup']:.2f} times as fast")
    if not found and cost["parameters"] and cost["zeros"]:
        zeros = cost["zeros"] / cost["parameters"]
        found.append(
            f"{100 * zeros:.0f} % of the parameters are zeros, "
            "which alone saves neither bytes nor time"
        )
    return found


def fewer_operations(cost: dict[str, Any], dense: dict[str, Any]) -> bool:
    """Return whether a run has fewer multiply-accumulates; True where they were not counted.

    Zeros are multiplied like other numbers: where nothing else is less, a speed is noise.
    """
    left, whole = ((side.get("macs") or {}).get("total") for side in (cost, dense))
    return left is None or whole is None or left < whole


def faster(step: dict[str, Any]) -> bool:
    """Return whether a step is faster than dense's by its whole interval."""
    least = step.get("low", 1.0)
    return step.get("speedup", 1.0) > LEAST_SPEED and least > 1


def beyond(rows: list[Run], up_to: int, found: dict[str, Verdict], label: dict[str, str]) -> str:
    """Return the sentence on what comes after a run in its ladder; "" for a ladder of one.

    Args:
        rows: the ladder.
        up_to: number of acceptable runs.
        found: the verdicts by name.
        label: what to call each run.
    """
    if len(rows) == 1:
        return ""
    if up_to == len(rows):
        return " It is the most that was tried; more may be possible."
    after = rows[up_to]["name"]
    return (
        " It is the most you can take before prompts visibly change: "
        f"with {label[after]}, {found[after].visible} of {found[after].prompts} do."
    )


def none_of(found: dict[str, Verdict], label: dict[str, str]) -> str:
    """Return the sentence that recommends nothing, with the run that comes closest."""
    name = min(found, key=lambda one: (found[one].visible, -found[one].same))
    text = f"{label[name]} changes {found[name].visible} of {found[name].prompts} prompts visibly"
    if len(found) == 1:
        return f"Not recommended: {text}; prune less, or try --preset best."
    return f"None is recommended: even {text}; prune less, or try --preset best."
