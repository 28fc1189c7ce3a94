"""A card for each run: its verdict in words, and what it costs and saves."""

from dataclasses import dataclass
from typing import Any

from ...pipelines.removed import compressed_in_words
from .noise import DENSE_NAME, METRICS, figures_of
from .values import zero_share
from .verdict import WORDS, Verdict, verdict_of

# judges of a picture alone, best known first
QUALITY = ("clip_score", "pickscore", "image_reward", "hpsv3")
LEAST_ZEROS = 0.01  # share of zeros above which a card has it
SAME_SIZE = 0.005  # relative difference of two sizes below which they count as equal


@dataclass(frozen=True)
class Fact:
    """One line of a card.

    Attributes:
        title: what it is.
        value: as a text.
        beside: what to compare it with; may be empty.
    """

    title: str
    value: str
    beside: str = ""


@dataclass(frozen=True)
class Card:
    """What the first screen shows of a run.

    Attributes:
        name: of the run.
        chosen: whether it is the recommended one.
        level: a key of verdict.WORDS; "" without a verdict.
        word: the verdict in words, or why there is none.
        counts: prompts that are nearly the same, with small and with visible differences.
        total: number of prompts.
        worst: the prompt that differs most; "" without a verdict.
        lowest: its SSIM, as a text.
        facts: size, speed and so on.
    """

    name: str
    chosen: bool
    level: str
    word: str
    counts: dict[str, int]
    total: int
    worst: str
    lowest: str
    facts: list[Fact]


def cards(results: dict[str, Any], chosen: str | None) -> list[Card]:
    """Return a card for each run, in the order of the runs.

    Args:
        results: the content of a results.json, its runs with unique names.
        chosen: name of the recommended run.
    """
    return [
        card_of(run, results, run["name"] == chosen, verdict_of(run, results["prompts"]))
        for run in results["runs"]
    ]


def card_of(
    run: dict[str, Any], results: dict[str, Any], chosen: bool, verdict: Verdict | None
) -> Card:
    """Return the card of one run; see cards for the arguments."""
    facts = facts_of(run, results)
    if verdict is None:
        return Card(
            run["name"], chosen, "", "no verdict: no SSIM of each prompt", {}, 0, "", "", facts
        )
    counts = {"same": verdict.same, "small": verdict.small, "visible": verdict.visible}
    return Card(
        run["name"],
        chosen,
        verdict.word,
        WORDS[verdict.word],
        counts,
        verdict.prompts,
        str(verdict.worst),
        f"{verdict.lowest:.2f}",
        facts,
    )


def facts_of(run: dict[str, Any], results: dict[str, Any]) -> list[Fact]:
    """Return size, zeros, speed and quality of a run, without what was not measured."""
    cost = run["cost"]
    found = [size_fact(cost, results.get("dense_cost", {}))]
    zeros = zero_share(cost)
    if zeros is not None and zeros > LEAST_ZEROS:
        found.append(Fact("zeros", f"{100 * zeros:.0f} %", "of parameters"))
    if words := compressed_in_words(cost):
        found.append(Fact("also", words))
    found.append(speed_fact(cost))
    return [*found, *quality_fact(run, results)]


def size_fact(cost: dict[str, Any], dense: dict[str, Any]) -> Fact:
    """Return the size on disk, and what share of dense's it is."""
    own, whole = cost["bytes_on_disk"], dense.get("bytes_on_disk")
    beside = ""
    if whole:
        same = abs(own / whole - 1) < SAME_SIZE
        beside = "as dense" if same else f"{100 * own / whole:.0f} % of dense"
    return Fact("size", f"{own / 1e6:.1f} MB", beside)


def speed_fact(cost: dict[str, Any]) -> Fact:
    """Return the measured speed of a step and of a picture."""
    if not cost.get("step"):
        return Fact("speed", "not timed")
    picture = cost.get("picture")
    beside = f"{picture['speedup']:.2f}x a picture" if picture else ""
    return Fact("speed", f"{cost['step']['speedup']:.2f}x a step", beside)


def quality_fact(run: dict[str, Any], results: dict[str, Any]) -> list[Fact]:
    """Return the best known score of pictures by themselves beside dense's; none if not run."""
    for metric in QUALITY:
        figures, about = figures_of(results, metric), METRICS[metric]
        if run["name"] in figures:
            dense = figures.get(DENSE_NAME)
            value = f"{figures[run['name']]['value']:.{about.decimals}f}"
            beside = f"dense {dense['value']:.{about.decimals}f}" if dense else ""
            return [Fact(about.title, value, beside)]
    return []
