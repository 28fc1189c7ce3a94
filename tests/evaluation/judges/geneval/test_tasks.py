"""Lines of evaluation_metadata.jsonl, right and wrong."""

import json

import pytest

from obsdiff.errors import UserError
from obsdiff.evaluation.judges.geneval.tasks import (
    Task,
    Wanted,
    geneval_name,
    missing_classes,
    read_tasks,
)
from obsdiff.pipelines.prompt_files import read_prompts

from .lines import LINES


def test_every_kind_of_task_is_read(metadata):
    single, two, counting, colour, position, attribution = read_tasks(metadata)
    assert single == Task("single_object", "a photo of a bench", (Wanted("bench", 1),))
    assert [one.name for one in two.include] == ["bench", "tv remote"]
    assert counting.include == (Wanted("clock", 2),)
    assert counting.exclude == (Wanted("clock", 3),)
    assert colour.include == (Wanted("car", 1, "blue"),)
    assert position.include == (Wanted("cup", 1), Wanted("dog", 1, position="right of", of=0))
    assert [one.colour for one in attribution.include] == ["red", "white"]
    assert [task.has_colours for task in (single, colour, attribution)] == [False, True, True]


def test_tasks_are_in_step_with_the_prompts(metadata):
    metadata.write_text(metadata.read_text().replace("\n", "\n\n", 1))
    assert [task.prompt for task in read_tasks(metadata)] == read_prompts(metadata)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"tag": 3}, "expected a tag, found 3"),
        ({"prompt": " "}, "expected a prompt"),
        ({"include": []}, "expected a list of objects in include, found []"),
        ({"include": [{"class": "cup"}]}, "expected a count of at least 1, found null"),
        ({"include": [{"class": "cup", "count": True}]}, "a count of at least 1, found true"),
        ({"include": [{"class": "", "count": 1}]}, "the name of a class"),
        ({"include": [{"class": "cup", "count": 1, "color": "teal"}]}, 'found "teal"'),
        ({"include": [{"class": "a", "count": 1, "position": ["left of", 0]}]}, "earlier entry"),
        ({"include": [{"class": "a", "count": 1, "position": "left of"}]}, "a position such as"),
        ({"exclude": 1}, "in exclude, found 1"),
    ],
)
def test_a_wrong_line_is_named(change, words, tmp_path):
    file = tmp_path / "evaluation_metadata.jsonl"
    file.write_text("\n" + json.dumps(LINES[0] | change))
    with pytest.raises(UserError) as caught:
        read_tasks(file)
    assert f"{file}: line 2 is no task of GenEval's evaluation_metadata.jsonl" in str(caught.value)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_prompts_alone_are_no_tasks(tmp_path):
    (tmp_path / "prompts.txt").write_text("a cat\n")
    with pytest.raises(UserError, match=r"line 1 is no task"):
        read_tasks(tmp_path / "prompts.txt")
    (tmp_path / "empty.jsonl").write_text("\n")
    with pytest.raises(UserError, match="has no tasks"):
        read_tasks(tmp_path / "empty.jsonl")


def test_classes_that_a_detector_lacks(metadata):
    labels = ["bench", "remote", "clock", "car", "cup", "dog", "horse"]
    known = {str(i): name for i, name in enumerate(labels)}
    assert geneval_name("remote") == "tv remote"
    assert missing_classes(read_tasks(metadata), known) == []
    del known["5"], known["1"]
    assert missing_classes(read_tasks(metadata), known) == ["dog", "tv remote"]
