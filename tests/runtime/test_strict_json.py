"""Numbers that JSON lacks: written as strict JSON, and read as they were."""

import json
import math

import pytest

from obsdiff.runtime.json_files import read_json, write_json
from obsdiff.runtime.strict_json import TAG, as_written, json_text, parse_json


def strict(text: str):
    """Read JSON as a parser does that knows no Infinity and no NaN."""
    return json.loads(text, parse_constant=lambda word: pytest.fail(f"{word} is no JSON"))


@pytest.mark.parametrize(
    "value",
    [
        {"a": math.inf, "b": [-math.inf, {"c": math.inf}], "d": 1e308},
        {TAG: "inf"},
        {TAG: math.inf},
        {TAG: [math.inf]},
        {TAG: {TAG: [{TAG: -math.inf}]}},
        {TAG: "other", "b": math.inf},
        {"texts": ["inf", "-inf", "nan", "Infinity"], "none": None, "yes": True, "n": 3},
        [],
        {},
    ],
)
def test_a_value_is_read_as_it_was(value):
    text = json_text(value)
    strict(text)
    assert parse_json(text) == value
    assert parse_json(json_text(parse_json(text), None)) == value


def test_nan_is_read_as_nan():
    text = json_text({"a": math.nan})
    strict(text)
    assert math.isnan(parse_json(text)["a"])


def test_a_value_as_written_has_lists_and_text_keys():
    assert as_written({1: (2, math.inf)}) == {"1": [2, math.inf]}


@pytest.mark.parametrize("text", ['{"$float": "3"}', '{"$float": 3}', '{"$float": [1, 2]}'])
def test_an_object_of_somebody_else_is_left_alone(text):
    assert parse_json(text) == json.loads(text)


def test_a_file_with_infinity_is_strict_and_comes_back(tmp_path):
    value = {"lambda": -math.inf, "finite": 0.1}
    write_json(tmp_path / "x.json", value)
    strict((tmp_path / "x.json").read_text())
    assert read_json(tmp_path / "x.json") == value
