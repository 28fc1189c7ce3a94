"""How much the pictures of a pruned pipeline differ, in words; reads results.json only.

Each prompt is judged by the SSIM of its picture to the dense pipeline's from the same seed. The two
borders were set by looking at pairs of pictures of emoji-sd3, sorted by their SSIM
(docs/metrics.md): above the upper one hardly a difference is seen, below the lower one something
else is drawn.
"""

from dataclasses import dataclass
from typing import Any

NEARLY_THE_SAME, VISIBLE = 0.9, 0.85  # SSIM: at least, below
MOST_VISIBLE = 0.1  # share of the prompts that may differ visibly in a pruning that is recommended
WORDS = {
    "same": "nearly the same",
    "small": "small differences",
    "visible": "visible differences",
}


@dataclass(frozen=True)
class Verdict:
    """The prompts of one pruned pipeline, counted by how much their pictures differ.

    Attributes:
        name: of the pipeline.
        prompts: number of prompts.
        same: prompts whose pictures are nearly the same.
        visible: prompts whose pictures differ visibly.
        worst: the prompt with the lowest SSIM.
        lowest: its SSIM.
    """

    name: str
    prompts: int
    same: int
    visible: int
    worst: str
    lowest: float

    @property
    def small(self) -> int:
        """Prompts with small differences."""
        return self.prompts - self.same - self.visible

    @property
    def acceptable(self) -> bool:
        """Whether at most one prompt in ten differs visibly."""
        return self.visible <= MOST_VISIBLE * self.prompts

    @property
    def word(self) -> str:
        """The verdict on the pipeline as a whole: a key of WORDS."""
        if not self.acceptable:
            return "visible"
        return "same" if self.same >= (1 - MOST_VISIBLE) * self.prompts else "small"

    def __str__(self) -> str:
        """Return the counts in words."""
        return (
            f"of {self.prompts} prompts {self.same} nearly the same, {self.small} with small "
            f"differences, {self.visible} with visible ones (worst: {self.worst!r}, SSIM "
            f"{self.lowest:.2f})"
        )


def verdict_of(run: dict[str, Any], prompts: list[str]) -> Verdict | None:
    """Return the verdict on one run of results.json; None without SSIM of each prompt.

    Args:
        run: an element of `runs`.
        prompts: the prompts.
    """
    figures = run["metrics"].get("ssim") or {}
    found = figures.get("per_prompt")
    if not found or len(found) != len(prompts):
        return None
    lowest = min(range(len(found)), key=found.__getitem__)
    return Verdict(
        run["name"],
        len(found),
        sum(value >= NEARLY_THE_SAME for value in found),
        sum(value < VISIBLE for value in found),
        prompts[lowest],
        found[lowest],
    )


def verdicts(results: dict[str, Any]) -> list[Verdict]:
    """Return the verdicts on the runs of a results.json that have one, in their order."""
    found = (verdict_of(run, results["prompts"]) for run in results["runs"])
    return [verdict for verdict in found if verdict]
