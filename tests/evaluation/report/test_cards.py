"""The first screen: a card for each run."""

from obsdiff.evaluation.report.cards import cards

DENSE = {"parameters": 1000, "zeros": 0, "bytes_on_disk": 2_000_000}


def run(name: str, ssim: list[float] | None, **cost):
    metrics = {"clip_score": {"value": 81.234}}
    if ssim is not None:
        metrics["ssim"] = {"value": sum(ssim) / len(ssim), "per_prompt": ssim}
    return {"name": name, "cost": DENSE | cost, "metrics": metrics, "layers": []}


def found_for(*runs):
    results = {
        "prompts": ["a fish", "a moon"],
        "runs": list(runs),
        "dense_cost": DENSE,
        "dense_metrics": {"clip_score": {"value": 82.5}},
    }
    return cards(results, "small")


def test_a_card_says_how_many_prompts_change_and_what_is_saved():
    speed = {"speedup": 1.25, "low": 1.2, "high": 1.3}
    small = run("small", [0.95, 0.87], bytes_on_disk=1_500_000, step=speed, picture=speed)
    zeros = run("zeros", [0.4, 0.95], zeros=450)
    first, second = found_for(small, zeros)
    assert (first.chosen, first.word, first.counts["same"], first.total) == (
        True,
        "small differences",
        1,
        2,
    )
    assert (first.worst, first.lowest) == ("a moon", "0.87")
    assert [(fact.title, fact.value, fact.beside) for fact in first.facts] == [
        ("size", "1.5 MB", "75 % of dense"),
        ("speed", "1.25x a step", "1.25x a picture"),
        ("CLIP score", "81.23", "dense 82.50"),
    ]
    assert (second.chosen, second.word, second.worst) == (False, "visible differences", "a fish")
    assert [(fact.value, fact.beside) for fact in second.facts[:3]] == [
        ("2.0 MB", "as dense"),
        ("45 %", "of parameters"),
        ("not timed", ""),
    ]


def test_without_ssim_a_card_has_no_verdict():
    (card,) = found_for(run("bare", None))
    assert (card.level, card.total, card.worst) == ("", 0, "")
    assert "no verdict" in card.word
