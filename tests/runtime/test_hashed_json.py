"""JSON with the hash of its content: any change is found, another layout is none."""

import json
import math

import pytest

from obsdiff.runtime.hashed_json import content_hash, read_hashed, write_hashed

VALUE = {"shares": {"a": 0.5, "b": math.inf}, "rows": [1, 2, None], "text": "é", "none": {}}


def test_a_value_is_read_as_it_was_written(tmp_path):
    write_hashed(tmp_path / "deep" / "x.json", VALUE)
    assert read_hashed(tmp_path / "deep" / "x.json") == VALUE


def test_the_order_of_keys_does_not_count_and_everything_else_does():
    assert content_hash({"a": 1, "b": 2}) == content_hash({"b": 2, "a": 1})
    assert content_hash({10: 1, 9: 2}) == content_hash({"9": 2, "10": 1})
    values = [{"a": 1}, {"a": 1.5}, {"a": "1"}, {"a": [1]}, {"b": 1}, [1], 1, None, "", {}, []]
    assert len({content_hash(value) for value in values}) == len(values)


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"sha256": 3, "value": 4}', None])
def test_anything_else_is_no_value(tmp_path, text):
    if text is not None:
        (tmp_path / "x.json").write_text(text)
    assert read_hashed(tmp_path / "x.json") is None


def test_every_changed_character_of_the_content_is_found(tmp_path):
    file = tmp_path / "x.json"
    write_hashed(file, VALUE)
    text = file.read_text()
    for i, letter in enumerate(text):
        if letter.isalnum():
            file.write_text(text[:i] + ("7" if letter != "7" else "8") + text[i + 1 :])
            assert read_hashed(file) is None
    file.write_text(json.dumps(json.loads(text)))
    assert read_hashed(file) == VALUE
