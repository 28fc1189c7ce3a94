"""Which pruning a sweep recommends, and why, in one sentence."""

import pytest

from obsdiff.cli.recommendation import recommend
from obsdiff.evaluation.report.verdict import NEARLY_THE_SAME, VISIBLE, verdicts


def results_of(ssim: dict[str, list[float]]):
    """A results.json with the SSIM of every prompt of some runs."""
    prompts = [f"prompt {i}" for i in range(len(next(iter(ssim.values()))))]
    runs = [{"name": n, "metrics": {"ssim": {"per_prompt": v}}} for n, v in ssim.items()]
    return {"prompts": prompts, "runs": runs}


def of_visible(count: int) -> list[float]:
    """The SSIM of ten prompts, some of which differ visibly."""
    return [0.5] * count + [0.99] * (10 - count)


KINDS = {f"0.{i}0": ("structured", i / 10) for i in range(1, 5)}


@pytest.mark.parametrize(
    ("visible", "name", "words"),
    [
        ([0, 1, 2, 6], "0.20", "structured 20% is the most you can take"),
        ([0, 2, 1, 0], "0.10", "at 20% 2"),  # a luckier larger one is not trusted
        ([0, 0, 1, 1], "0.40", "more may be possible"),
        ([3, 4, 5, 6], None, "even structured 10% changes 3 of 10 prompts visibly"),
    ],
)
def test_the_largest_before_prompts_change_is_recommended(visible, name, words):
    ssim = {n: of_visible(count) for n, count in zip(KINDS, visible, strict=True)}
    shuffled = dict(sorted(ssim.items(), key=lambda item: item[0][::-1], reverse=True))
    found = recommend(results_of(shuffled), KINDS)
    assert found.name == name
    assert words in found.sentence
    assert len(found.lines) == 4


def test_of_several_patterns_the_smaller_result_comes_first():
    kinds = {"2-4": ("2:4", 0.5), "structured-0.20": ("structured", 0.2)}
    ssim = {"2-4": of_visible(0), "structured-0.20": of_visible(1)}
    assert recommend(results_of(ssim), kinds).name == "structured-0.20"
    ssim["structured-0.20"] = of_visible(5)
    found = recommend(results_of(ssim), kinds)
    assert found.name == "2-4"
    assert "even structured 20%" in found.sentence


def test_a_verdict_counts_every_prompt_once():
    values = [1.0, NEARLY_THE_SAME, 0.87, VISIBLE, 0.79, 0.1]
    (found,) = verdicts(results_of({"a": values}))
    assert (found.same, found.small, found.visible) == (2, 2, 2)
    assert (found.worst, found.lowest) == ("prompt 5", 0.1)
    assert "2 nearly the same, 2 with small differences, 2 with visible ones" in str(found)


def test_without_figures_nothing_is_recommended():
    results = results_of({"a": [1.0]})
    results["runs"][0]["metrics"]["ssim"] = {"value": None, "per_prompt": None}
    found = recommend(results, {"a": ("structured", 0.1)})
    assert (found.name, found.lines) == (None, [])
