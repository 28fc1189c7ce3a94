"""Which results are merged into one comparison, and which have a section of their own."""

import re

import pytest

from obsdiff.evaluation.report.configuration import group_names
from obsdiff.evaluation.report.merge import merge, unique_names
from obsdiff.evaluation.report.read_runs import read_results

from ...support.page_runs import another, change, figure, page_of, renamed


@pytest.mark.usefixtures("without_plots")
def test_comparable_runs_are_merged_under_unique_names(run):
    missing = {"value": None, "low": None, "high": None, "why_not": "no CLIP"}
    change(
        run,
        runs=[renamed(run, "0.50", path="models/obs/0.50"), renamed(run, "only")],
        dense_metrics={"clip_score": missing},
    )
    others = [
        renamed(run, "0.50", path="/models/wanda/0.50", metrics={"clip_score": figure(20.0)}),
        renamed(run, "third", images=["half/001.png"]),
    ]
    second = another(
        run, "second", runs=others, dense_metrics={"clip_score": figure(21.0)}, judges={"clip": "a"}
    )
    (one,) = merge([(folder, read_results(folder)) for folder in (run, second)])
    assert [entry["name"] for entry in one.results["runs"]] == [
        "obs/0.50",
        "only",
        "wanda/0.50",
        "third",
    ]
    assert one.homes == {"obs/0.50": run, "only": run, "wanda/0.50": second, "third": second}
    assert one.results["dense_metrics"]["clip_score"]["value"] == 21.0
    page = page_of(run, second)
    assert page.count("<section") == 1
    assert page.count("<h3>Quality</h3>") == 1
    assert "Merged from" in page
    assert "Not merged" not in page


def test_names_that_are_the_same_in_every_folder_still_differ(tmp_path):
    a, b = tmp_path / "x" / "run", tmp_path / "y" / "run"
    half = {"name": "half", "path": "models/half"}
    assert unique_names([(a, half), (b, half)]) == ["x/run/half", "y/run/half"]
    assert unique_names(
        [(a, half), (a, half), (a, {"name": "dense"}), (a, {"name": "quarter"})]
    ) == ["x/run/half", "x/run/half (2)", "run/dense", "quarter"]


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"dense": "other"}, "dense model other, not tiny"),
        (
            {"dense_cost": {"parameters": 2000, "zeros": 0, "bytes_on_disk": 2000}},
            "2,000 parameters in the dense model, not 1,000",
        ),
        (
            {"prompts": ["a fish", "sun"]},
            "other prompts: 2 of 2, the first is &#39;a fish&#39;, "
            "not &#39;a &lt;b&gt;fish&lt;/b&gt;&#39;",
        ),
        ({"prompts": ["a fish"], "seeds": [1]}, "1 prompts, not 2"),
        ({"seeds": [1, 3]}, "other seeds: 1 of 2, the first is 3, not 2"),
        ({"settings": {"num_inference_steps": 4}}, "num_inference_steps 4, not 2"),
        ({"judges": {"clip": "b"}}, "clip judged by b, not a"),
        ({"machine": {"device": "NVIDIA H200"}}, "computed with device NVIDIA H200, not cpu"),
    ],
)
@pytest.mark.usefixtures("without_plots")
def test_incomparable_runs_have_their_own_section_with_the_reason(run, changes, why):
    change(run, judges={"clip": "a"}, machine={"device": "cpu", "format": "float32"})
    page = page_of(
        run, another(run, "second", **changes), another(run, "third", versions={"torch": "3"})
    )
    assert page.count("<section") == 2  # the third one compares with the first
    assert "2 comparisons, since not all runs are comparable" in page
    assert f"Not merged with the runs of {run.name}: {why}." in page


@pytest.mark.parametrize(
    ("first", "second", "why"),
    [
        (("model", {"unet": "1", "vae": "2"}), ("./model/", {"unet": "1", "vae": "2"}), ""),
        (("a/model", {"unet": "1"}), ("/b/model", {"unet": "1"}), ""),
        (
            ("model", {"unet": "1", "vae": "2"}),
            ("model", {"unet": "3", "vae": "2"}),
            "dense model model: other weights of unet",
        ),
        (("model", {"unet": "1"}), ("m", {"unet": "3"}), "dense model m, not model: other weights"),
        (("model", {}), ("./model", {}), ""),
        (("model", {}), ("./model", {"unet": "1"}), ""),
        (("model", {"unet": "1"}), ("other", {}), "dense model other, not model"),
    ],
)
@pytest.mark.usefixtures("without_plots")
def test_a_dense_model_is_known_by_its_weights(run, first, second, why):
    change(run, dense=first[0], dense_weights=first[1])
    page = page_of(run, another(run, "second", dense=second[0], dense_weights=second[1]))
    assert page.count("<section") == (2 if why else 1)
    assert why in page


@pytest.mark.usefixtures("without_plots")
def test_a_result_without_hashes_compares_with_one_weight_only(run):
    change(run, dense_weights={})
    known, other = ({"dense_weights": {"unet": each}} for each in "12")
    page = page_of(run, another(run, "second", **known), another(run, "third", **other))
    assert page.count("<section") == 2


@pytest.mark.slow
def test_only_settings_that_differ_are_in_the_table(run):
    config = {
        "method": "obs",
        "pattern": "unstructured",
        "sparsity": 0.3,
        "damping": 0.01,
        "compensation": True,
    }
    change(
        run,
        runs=[
            renamed(run, "a", config=config),
            renamed(run, "b", config=config | {"sparsity": 0.5}),
            renamed(run, "foreign", config={}, layers=[]),
        ],
    )
    second = another(
        run,
        "second",
        runs=[renamed(run, "c", config=config | {"compensation": False})],
        versions={"torch": "3"},
        threads=4,
    )
    page = page_of(run, second)
    table = page[page.index("<h2>Configuration</h2>") :]
    assert re.findall(r'<th scope="col">([^<]*)</th>', table) == [
        "run",
        "sparsity",
        "compensation",
        "evaluated with torch",
        "evaluated with threads",
    ]
    assert '<td data-value="0.3">0.3</td>' in table
    assert "<td>no</td>" in table
    assert "All share: method obs, pattern unstructured, damping 0.01" in table
    assert "Not shown (no figure, or no record of its layers): foreign." in page


def test_a_line_of_a_plot_holds_runs_that_differ_in_sparsity_alone():
    obs = {"method": "obs", "pattern": "unstructured", "sparsity": 0.3, "compensation": True}
    configs = {
        "a": obs,
        "b": obs | {"sparsity": 0.5, "batch_size": 8},
        "c": obs | {"pattern": "2:4"},
        "foreign": {},
    }
    runs = [{"name": name, "config": config} for name, config in configs.items()]
    assert group_names(runs) == {
        "a": "obs unstructured",
        "b": "obs unstructured",
        "c": "obs 2:4",
        "foreign": "foreign",
    }
    runs.append({"name": "d", "config": obs | {"compensation": False}})
    assert group_names(runs)["a"] == group_names(runs)["b"] == "obs unstructured, compensation yes"
    assert group_names(runs)["d"] == "obs unstructured, compensation no"
