"""JSON files: whole or not at all, and checked against a schema by place."""

import math

import pytest

from obsdiff import UserError
from obsdiff.runtime.json_files import check_json, check_shapes, kept_json, read_json, write_json

SCHEMA = {
    "name": str,
    "size": int,
    "share?": float,
    "note?": (str,),
    "rows": [{"x": float}],
    "by": {"*": int},
}
GOOD = {"name": "a", "size": 2, "rows": [{"x": 1}, {"x": 0.5}], "by": {"k": 3}}


@pytest.mark.parametrize("more", [{}, {"share": 1, "note": None}, {"note": "b", "other": [1]}])
def test_a_value_of_the_schema_passes(more):
    check_json(GOOD | more, SCHEMA, "")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": 3}, r"^name: expected a text, found 3$"),
        ({"size": True}, "^size: expected a whole number, found True$"),
        ({"size": 2.0}, r"^size: expected a whole number, found 2\.0$"),
        ({"share": "1"}, "^share: expected a number, found '1'$"),
        ({"share": math.inf}, "^share: expected a number, found inf$"),
        ({"share": math.nan}, "^share: expected a number, found nan$"),
        ({"share": 1e31}, "^share: expected a number"),
        ({"note": 1}, "^note: expected a text, found 1$"),
        ({"rows": {}}, "^rows: expected a list, found {}$"),
        ({"rows": [{"x": 1}, {}]}, r"^rows\[1\]\.x is missing$"),
        ({"by": {"k": "v" * 99}}, r"^by\.k: expected a whole number, found 'v{56}\.\.\.$"),
        ({"by": None}, "^by: expected an object, found None$"),
    ],
)
def test_a_difference_is_named_with_its_place(change, message):
    with pytest.raises(ValueError, match=message):
        check_json(GOOD | change, SCHEMA, "")


def test_a_shape_has_two_numbers():
    check_shapes([{"shape": [2, 3]}], "layers")
    with pytest.raises(ValueError, match=r"layers\[1\]\.shape: expected two numbers, found \[2\]"):
        check_shapes([{"shape": [2, 3]}, {"shape": [2]}], "layers")


def test_a_value_that_json_lacks_leaves_the_old_file(tmp_path):
    file = tmp_path / "deep" / "x.json"
    write_json(file, {"a": 1})
    with pytest.raises(TypeError, match="not JSON serializable"):
        write_json(file, {"a": object()})
    assert read_json(file) == kept_json(file) == {"a": 1}


@pytest.mark.parametrize(
    ("text", "words"),
    [("{", "can't be read as JSON"), ("[1]", "expected a JSON object, found list"), (None, "miss")],
)
def test_an_unreadable_file_is_one_line(tmp_path, text, words):
    file = tmp_path / "x.json"
    if text is not None:
        file.write_text(text)
    with pytest.raises(UserError, match=words) as error:
        read_json(file)
    assert "\n" not in str(error.value)
    assert kept_json(file) is None
