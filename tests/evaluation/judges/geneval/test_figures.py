"""GenEval's figure of pictures: shares by tag, and what is refused."""

import json
import shutil

import numpy as np
import pytest
from PIL import Image

from obsdiff.cli.main import main
from obsdiff.evaluation.judges.files import Judges
from obsdiff.evaluation.judges.geneval import figures
from obsdiff.evaluation.judges.geneval.figures import figure_of, geneval_figures
from obsdiff.evaluation.judges.geneval.rule import Found
from obsdiff.evaluation.judges.geneval.tasks import task_of
from obsdiff.evaluation.judges.scores import model_figures
from obsdiff.evaluation.judges.weights import MetricUnavailable
from obsdiff.evaluation.report.schema import check_results

from .lines import LINES

PROMPTS = [line["prompt"] for line in LINES]


def pictures(n: int = 6, seed: int = 0) -> list[Image.Image]:
    rng = np.random.default_rng(seed)
    return [Image.fromarray(rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)) for _ in range(n)]


def test_the_value_is_the_share_of_right_pictures_and_each_tag_has_its_own():
    tasks = [task_of(LINES[i]) for i in (0, 0, 0, 2)]
    figure = figure_of(tasks, [True, False, True, False])
    assert figure["value"] == 0.5
    assert figure["per_prompt"] == [1.0, 0.0, 1.0, 0.0]
    assert figure["parts"] == {
        "single_object": {"value": pytest.approx(2 / 3), "count": 3},
        "counting": {"value": 0.0, "count": 1},
    }


def test_each_picture_is_judged_by_its_own_task(metadata, monkeypatch):
    """A detector that finds what the first pixel says: the number of a class."""
    names = ["bench", "clock", "dog"]

    def detect(image):
        name = names[image.getpixel((0, 0))[0]]
        return [Found(name, 0.95, (0, 0, 1, 1))] * 2

    monkeypatch.setattr(figures, "open_detector", lambda folder: detect)
    drawn = {
        "dense": [Image.new("RGB", (2, 2), (i, 0, 0)) for i in (0, 0, 1)],
        "half": [Image.new("RGB", (2, 2), (i, 0, 0)) for i in (2, 0, 1)],
    }
    found = geneval_figures(drawn, PROMPTS[:3], metadata, metadata, None)
    assert found["dense"]["per_prompt"] == [1, 0, 1]  # no remote beside the bench, two clocks
    assert found["half"]["per_prompt"] == [0, 0, 1]


def test_other_prompts_than_those_of_the_file_are_refused(metadata):
    with pytest.raises(MetricUnavailable, match="found other prompts"):
        geneval_figures({"dense": pictures(2)}, ["a cat", "a dog"], metadata, metadata, None)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["mask_detector", "box_detector"])
def test_a_whole_road_with_tiny_models(kind, clip, metadata, request):
    judges = Judges(clip=clip, geneval=request.getfixturevalue(kind), tasks=metadata)
    drawn = {"dense": pictures(seed=1), "half": pictures(seed=2)}
    for found in model_figures(drawn, "dense", PROMPTS, judges).values():
        assert found["geneval"]["why_not"] is None
        assert set(found["geneval"]["per_prompt"]) <= {0.0, 1.0}
        assert list(found["geneval"]["parts"]) == [line["tag"] for line in LINES]
        json.dumps(found["geneval"])


def test_without_a_detector_the_reason_has_the_command():
    why = model_figures({"dense": pictures(3)}, "dense", PROMPTS[:3], Judges())["dense"]
    assert why["geneval"]["why_not"] == (
        "no detector was given: --geneval facebook/mask2former-swin-small-coco-instance "
        "--clip openai/clip-vit-large-patch14 --download "
        "--prompts evaluation_metadata.jsonl of GenEval"
    )


@pytest.mark.slow
def test_the_command_line_prints_and_stores_every_tag(
    box_detector, clip, metadata, sd3_folder, tmp_path, capsys
):
    half = str(shutil.copytree(sd3_folder, tmp_path / "half"))
    argv = ["evaluate", half, "--against", sd3_folder, "--output", str(tmp_path / "run")]
    sizes = ["--num-inference-steps", "1", "--height", "16", "--width", "16", "--rounds", "0"]
    judges = ["--prompts", str(metadata), "--geneval", str(box_detector)]
    assert main([*argv, *sizes, *judges]) == 2
    assert "pass --clip openai/clip-vit-large-patch14" in capsys.readouterr().err
    assert main([*argv, *sizes, *judges, "--clip", str(clip)]) == 0
    table = capsys.readouterr().out
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    check_results(results)
    assert set(results["dense_metrics"]["geneval"]["parts"]) == {line["tag"] for line in LINES}
    results["dense_metrics"]["geneval"]["parts"]["counting"]["count"] = "one"
    with pytest.raises(ValueError, match=r"dense_metrics\.geneval\.parts\.counting\.count"):
        check_results(results)
    assert "GenEval of half: single object 0.000 (1), two object 0.000 (1), counting" in table
    assert "; mean of these (of all 553 prompts: the papers' score) 0.000" in table
