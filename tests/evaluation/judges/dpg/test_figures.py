"""DPG-Bench's figure of pictures: scores of prompts, answers by category."""

import json
import shutil

import pytest
from PIL import Image

from obsdiff.cli.main import main
from obsdiff.errors import UserError
from obsdiff.evaluation.judges.dpg import figures
from obsdiff.evaluation.judges.dpg.figures import dpg_figures, figure_of
from obsdiff.evaluation.judges.dpg.questions import read_items
from obsdiff.evaluation.judges.files import Judges, find_judges
from obsdiff.evaluation.judges.scores import model_figures
from obsdiff.evaluation.judges.weights import MetricUnavailable
from obsdiff.evaluation.report.schema import check_results
from obsdiff.pipelines.prompt_files import read_prompts

BLANK = Image.new("RGB", (32, 32))


def test_scores_obey_the_dependencies_and_categories_do_not(prompts):
    items = [item for item in read_items(prompts) if item.name in ("1", "2")]
    figure = figure_of(items, [{1: False, 2: True, 3: True, 4: True}, {1: True, 2: True}])
    assert figure["per_prompt"] == [25.0, 100.0]
    assert figure["value"] == 62.5
    assert figure["parts"] == {
        "attribute": {"value": 100.0, "count": 2},
        "entity": {"value": pytest.approx(200 / 3), "count": 3},
        "relation": {"value": 100.0, "count": 1},
    }


def test_each_picture_is_asked_its_own_questions(prompts, monkeypatch):
    asked = []

    def says_yes(image, question):
        asked.append((image.getpixel((0, 0))[0], question))
        return "cats" in question

    monkeypatch.setattr(figures, "open_answers", lambda folder: says_yes)
    texts = read_prompts(prompts)[:2]
    drawn = {"dense": [Image.new("RGB", (2, 2), (i, 0, 0)) for i in range(2)]}
    found = dpg_figures(drawn, texts, prompts, prompts)["dense"]
    assert found["per_prompt"] == [100.0 * ("cats" in text) for text in texts]
    items = read_items(prompts)[:2]
    assert asked == [(i, q.text) for i, one in enumerate(items) for q in one.questions.values()]


def test_other_prompts_than_those_of_the_folder_are_refused(prompts):
    with pytest.raises(MetricUnavailable, match="expected the prompts of the run, found others"):
        dpg_figures({"dense": [BLANK]}, ["a cat"], prompts, prompts)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["blip", "vilt"])
def test_a_whole_road_with_tiny_models(kind, prompts, request):
    judges = Judges(dpg=request.getfixturevalue(kind), tasks=prompts)
    found = model_figures({"dense": [BLANK] * 3}, "dense", read_prompts(prompts), judges)["dense"]
    assert found["dpg"]["why_not"] is None
    assert len(found["dpg"]["per_prompt"]) == 3
    assert list(found["dpg"]["parts"]) == ["attribute", "entity", "other", "relation"]


def test_without_a_model_the_reason_has_the_command():
    why = model_figures({"dense": [BLANK] * 3}, "dense", ["a"] * 3, Judges())["dense"]["dpg"]
    assert why["why_not"] == (
        "no model that answers questions was given: --dpg Salesforce/blip-vqa-capfilt-large "
        "--download --prompts FOLDER of DPG-Bench"
    )


def test_models_and_prompts_are_checked_before_drawing(vilt, clip, prompts, tmp_path):
    assert find_judges({"dpg": vilt}, tmp_path, prompts=prompts) == Judges(dpg=vilt, tasks=prompts)
    with pytest.raises(UserError, match="dpg: expected DPG-Bench's folder of prompts"):
        find_judges({"dpg": vilt}, tmp_path)
    with pytest.raises(UserError, match="dpg: expected a model that answers questions"):
        find_judges({"dpg": clip}, tmp_path, prompts=prompts)
    bare = shutil.copytree(vilt, tmp_path / "bare")
    for name in ("preprocessor_config.json", "processor_config.json"):
        (bare / name).unlink(missing_ok=True)
    with pytest.raises(UserError, match=r"dpg: expected preprocessor_config\.json or processor"):
        find_judges({"dpg": bare}, tmp_path, prompts=prompts)


@pytest.mark.slow
def test_the_command_line_takes_the_folder(vilt, prompts, sd3_folder, tmp_path, capsys):
    half = str(shutil.copytree(sd3_folder, tmp_path / "half"))
    argv = ["evaluate", half, "--against", sd3_folder, "--output", str(tmp_path / "run")]
    sizes = ["--num-inference-steps", "1", "--height", "16", "--width", "16", "--rounds", "0"]
    assert main([*argv, *sizes, "--prompts", str(prompts), "--dpg", str(vilt)]) == 0
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    check_results(results)
    assert results["prompts"] == read_prompts(prompts)
    assert results["runs"][0]["metrics"]["dpg"]["value"] is not None
    assert "DPG-Bench of half: attribute" in capsys.readouterr().out
