"""Which pruning of a sweep to take: the largest before prompts change visibly."""

from dataclasses import dataclass
from typing import Any

from ..evaluation.report.verdict import Verdict, verdicts


@dataclass(frozen=True)
class Recommendation:
    """What a sweep recommends.

    Attributes:
        name: of the pruning to take; None if there is none.
        sentence: the recommendation in words.
        lines: one line for each pruning.
    """

    name: str | None
    sentence: str
    lines: list[str]


def recommend(results: dict[str, Any], kinds: dict[str, tuple[str, float]]) -> Recommendation:
    """Return the recommendation of a sweep.

    For each pattern it is the largest sparsity up to which at most one prompt in ten differs
    visibly; of several patterns the structured one, which is smaller and faster, comes first.

    Args:
        results: the content of results.json.
        kinds: name of each pruning -> its pattern and the share that it removes.
    """
    found = verdicts(results)
    lines = [f"{verdict.name}: {verdict}" for verdict in found]
    if not found:
        return Recommendation(None, "no pictures could be compared, so none is recommended", lines)
    patterns = sorted({kinds[v.name][0] for v in found}, key=lambda name: name != "structured")
    chosen: list[str] = []
    sentences = []
    for pattern in patterns:
        rows = sorted(
            (v for v in found if kinds[v.name][0] == pattern), key=lambda v: kinds[v.name]
        )
        good = acceptable_up_to(rows)
        if good:
            chosen.append(good[-1].name)
        sentences.append(sentence_of(pattern, rows, good, kinds))
    return Recommendation(chosen[0] if chosen else None, "; ".join(sentences), lines)


def acceptable_up_to(rows: list[Verdict]) -> list[Verdict]:
    """Return the first verdicts, by their sparsity, up to the first that is not acceptable."""
    bad = next((i for i, row in enumerate(rows) if not row.acceptable), len(rows))
    return rows[:bad]


def sentence_of(
    pattern: str, rows: list[Verdict], good: list[Verdict], kinds: dict[str, tuple[str, float]]
) -> str:
    """Return the sentence about one pattern.

    Args:
        pattern: the pattern.
        rows: its verdicts, by their sparsity.
        good: those that are acceptable.
        kinds: name of each pruning -> its pattern and the share that it removes.
    """

    def share(row: Verdict) -> str:
        return f"{kinds[row.name][1]:.0%}"

    if not good:
        first = rows[0]
        return (
            f"even {pattern} {share(first)} changes {first.visible} of {first.prompts} prompts "
            "visibly; try less, or --preset best"
        )
    if len(good) == len(rows):
        last = rows[-1]
        return (
            f"{pattern} {share(last)}, the most that was tried, changes {last.visible} of "
            f"{last.prompts} prompts visibly; more may be possible"
        )
    last, after = good[-1], rows[len(good)]
    return (
        f"{pattern} {share(last)} is the most you can take before prompts visibly change: there "
        f"{last.visible} of {last.prompts} do, at {share(after)} {after.visible}"
    )
