"""Which run the figures recommend, and why, in one or two sentences."""

import pytest

from obsdiff.evaluation.report.recommendation import recommend
from obsdiff.evaluation.report.verdict import NEARLY_THE_SAME, VISIBLE, verdicts

DENSE = {"parameters": 1000, "zeros": 0, "bytes_on_disk": 2000}


def results_of(ssim: dict[str, list[float]], configs=None, costs=None):
    """A results.json with the SSIM of every prompt of some runs."""
    prompts = [f"prompt {i}" for i in range(len(next(iter(ssim.values()))))]
    runs = [
        {
            "name": name,
            "config": (configs or {}).get(name, {}),
            "cost": DENSE | (costs or {}).get(name, {}),
            "layers": [],
            "metrics": {"ssim": {"per_prompt": values}},
        }
        for name, values in ssim.items()
    ]
    return {"prompts": prompts, "runs": runs, "dense_cost": DENSE}


def of_visible(count: int) -> list[float]:
    """The SSIM of ten prompts, some of which differ visibly."""
    return [0.5] * count + [0.99] * (10 - count)


CONFIGS = {
    f"0.{i}0": {"method": "obs", "pattern": "structured", "sparsity": i / 10} for i in range(1, 5)
}
COSTS = {f"0.{i}0": {"bytes_on_disk": 2000 - 200 * i} for i in range(1, 5)}


@pytest.mark.parametrize(
    ("visible", "name", "words"),
    [
        (
            [0, 1, 2, 6],
            "0.20",
            "Take obs structured 20 %: 1 of 10 prompts changes visibly, 20 % smaller on disk. "
            "It is the most you can take before prompts visibly change: "
            "with obs structured 30 %, 2 of 10 do.",
        ),
        (
            [0, 2, 1, 0],
            "0.10",
            "with obs structured 20 %, 2 of 10 do",
        ),  # a luckier larger one is not taken
        ([0, 0, 1, 1], "0.40", "It is the most that was tried; more may be possible."),
        (
            [3, 4, 5, 6],
            None,
            "None is recommended: even obs structured 10 % changes 3 of 10 prompts visibly",
        ),
    ],
)
def test_the_largest_before_prompts_change_is_recommended(visible, name, words):
    ssim = {n: of_visible(count) for n, count in zip(CONFIGS, visible, strict=True)}
    shuffled = dict(sorted(ssim.items(), key=lambda item: item[0][::-1], reverse=True))
    found = recommend(results_of(shuffled, CONFIGS, COSTS))
    assert found.name == name
    assert words in found.sentence
    assert len(found.lines) == 4


def test_of_several_groups_the_smaller_result_comes_first():
    configs = {
        "2-4": {"method": "obs", "pattern": "2:4", "sparsity": 0.5},
        "by magnitude": {"method": "magnitude", "pattern": "2:4", "sparsity": 0.5},
        "structured-0.20": CONFIGS["0.20"],
    }
    costs = {"structured-0.20": COSTS["0.20"], "2-4": {"zeros": 450}}
    ssim = {"by magnitude": of_visible(0), "2-4": of_visible(1), "structured-0.20": of_visible(1)}
    assert recommend(results_of(ssim, configs, costs)).name == "structured-0.20"
    ssim["structured-0.20"] = of_visible(5)
    found = recommend(results_of(ssim, configs, costs))
    assert found.name == "2-4"  # equally large, with more zeros
    assert "Take obs 2:4: 1 of 10 prompts changes visibly, 45 % of the parameters are zeros" in (
        found.sentence
    )


def test_runs_without_a_config_are_judged_by_themselves():
    ssim = {"a": of_visible(4), "b": of_visible(0)}
    costs = {"b": {"step": {"speedup": 1.5, "low": 1.4, "high": 1.6}}}
    found = recommend(results_of(ssim, costs=costs))
    assert found.name == "b"
    assert found.sentence == (
        "Take b: none of 10 prompts changes visibly, a step is 1.50 times as fast."
    )
    found = recommend(results_of({"a": of_visible(4)}))
    assert found.sentence.startswith("Not recommended: a changes 4 of 10 prompts visibly")


def test_a_verdict_counts_every_prompt_once():
    values = [1.0, NEARLY_THE_SAME, 0.87, VISIBLE, 0.79, 0.1]
    (found,) = verdicts(results_of({"a": values}))
    assert (found.same, found.small, found.visible) == (2, 2, 2)
    assert (found.worst, found.lowest) == ("prompt 5", 0.1)
    assert "2 nearly the same, 2 with small differences, 2 with visible ones" in str(found)


@pytest.mark.parametrize(
    ("ssim", "word"),
    [
        ([0.95] * 9 + [0.5], "same"),
        ([0.95] * 8 + [0.87, 0.5], "small"),
        ([0.95] * 8 + [0.5] * 2, "visible"),
    ],
)
def test_a_run_has_one_word(ssim, word):
    (found,) = verdicts(results_of({"a": ssim}))
    assert found.word == word


def test_without_figures_nothing_is_recommended():
    results = results_of({"a": [1.0]})
    results["runs"][0]["metrics"]["ssim"] = {"value": None, "per_prompt": None}
    found = recommend(results)
    assert (found.name, found.lines) == (None, [])


@pytest.mark.parametrize(
    ("cost", "claimed"),
    [
        ({"macs": {"total": 80}}, True),
        ({}, True),  # not counted
        ({"macs": {"total": 100}}, False),  # zeros
        ({"macs": {"total": 100}, "bytes_on_disk": 1000}, True),  # fewer bits
        ({"macs": {"total": 80}, "step": {"speedup": 1.2, "low": 0.9, "high": 1.4}}, False),
        ({"macs": {"total": 80}, "step": {"speedup": 1.02, "low": 1.01, "high": 1.03}}, False),
    ],
)
def test_a_speed_is_claimed_where_something_is_less_and_all_rounds_agree(cost, claimed):
    step = {"step": {"speedup": 1.2, "low": 1.1, "high": 1.3}}
    results = results_of({"a": of_visible(0)}, costs={"a": step | cost})
    results["dense_cost"] = DENSE | {"macs": {"total": 100}}
    assert ("a step is" in recommend(results).sentence) == claimed


def test_a_preset_is_called_by_its_name():
    configs = {"a": {"preset": "best", "method": "alps", "pattern": "2:4", "sparsity": 0.5}}
    found = recommend(results_of({"a": of_visible(0)}, configs, {"a": {"zeros": 450}}))
    assert found.sentence.startswith("Take best 2:4: none of 10 prompts changes visibly")
