"""Prompts from files: lines, captions by their column, and what is refused by its name."""

import json

import pytest

from obsdiff import UserError
from obsdiff.pipelines.prompt_files import prompts_in, prompts_line, read_prompts

TWO = ["a red apple", "a blue bird"]
ROWS = [{"id": 1, "caption": TWO[0]}, {"id": 2, "caption": TWO[1]}]


def written(tmp_path, name, content):
    """The path of a file with this content: bytes, text, or a value that becomes JSON."""
    file = tmp_path / name
    if isinstance(content, bytes):
        file.write_bytes(content)
    else:
        text = content if isinstance(content, str) else json.dumps(content)
        file.write_text(text, encoding="utf-8", newline="")
    return file


def refusal(tmp_path, name, content):
    """The message with which a file is refused, which names the file."""
    file = written(tmp_path, name, content)
    with pytest.raises(UserError) as caught:
        read_prompts(file)
    assert name in str(caught.value)
    return str(caught.value)


def test_one_a_line(tmp_path):
    file = written(tmp_path, "p.txt", "one\n\n  två \r\nthree\rfour")
    assert read_prompts(file) == ["one", "två", "three", "four"]
    assert read_prompts(written(tmp_path, "p", b"\xef\xbb\xbfone\n")) == ["one"]


def test_one_a_file_of_a_folder(tmp_path):
    for name, text in {"b": "a red\r\n  apple\n", "a": "a blue bird", "c": " \n"}.items():
        written(tmp_path, f"{name}.txt", text)
    written(tmp_path, "table.csv", "no prompt")
    assert prompts_in(tmp_path) == [("a.txt", "a blue bird"), ("b.txt", "a red apple")]
    assert read_prompts(tmp_path) == ["a blue bird", "a red apple"]
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"or a folder of \.txt files with one prompt each"):
        read_prompts(tmp_path / "empty")
    written(tmp_path, "d.txt", b"caf\xe9")
    with pytest.raises(UserError, match=r"d\.txt is not UTF-8"):
        read_prompts(tmp_path)


@pytest.mark.parametrize("inside", ["\u2028", "\u2029", "\x0b", "\x0c", "\x1c", "\x1e", "\x85"])
def test_a_line_ends_at_line_feeds_and_carriage_returns_alone(tmp_path, inside):
    text = f"an apple{inside}on a table\r\na bird\n"
    assert read_prompts(written(tmp_path, "p.txt", text)) == [
        f"an apple{inside}on a table",
        "a bird",
    ]


def test_what_is_no_text_is_refused(tmp_path):
    assert "no prompt" in refusal(tmp_path, "p.txt", "\n \n")
    assert "not UTF-8: byte 3 is 0xe9" in refusal(tmp_path, "p.txt", b"caf\xe9\n")
    assert "line 2 has a NUL" in refusal(tmp_path, "p.txt", "one\nt\0wo\n")
    assert "[1] has half of a surrogate pair" in refusal(tmp_path, "p.json", '["a", "b\\ud800"]')
    with pytest.raises(UserError, match="No such file"):
        read_prompts(tmp_path / "nowhere")


@pytest.mark.parametrize(
    "value",
    [
        TWO,
        ROWS,
        {"caption": TWO, "id": [1, 2]},
        {"caption": {"0": TWO[0], "1": TWO[1]}, "id": {"0": 1, "1": 2}},
        {"prompts": TWO},
        {"prompts": [{"prompt": TWO[0]}, {"prompt": TWO[1]}]},
        {"info": {}, "images": [{"file_name": "a.jpg"}, {}], "annotations": ROWS},
        {"0001": {"prompt": TWO[0], "category": "x"}, "0002": {"prompt": TWO[1]}},
        [{"TEXT": TWO[0], "URL": "u"}, {"TEXT": TWO[1], "URL": "u"}],
    ],
    ids=["texts", "objects", "columns", "pandas", "named", "nested", "coco", "by id", "laion"],
)
@pytest.mark.parametrize("name", ["captions.json", "captions.txt"])
def test_json(tmp_path, value, name):
    assert read_prompts(written(tmp_path, name, json.dumps(value, indent=1))) == TWO


@pytest.mark.parametrize("name", ["c.jsonl", "c.ndjson", "c.json", "c.txt"])
def test_json_lines(tmp_path, name):
    text = "".join(json.dumps(row) + "\r\n" for row in ROWS) + "\n"
    assert read_prompts(written(tmp_path, name, text)) == TWO


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("c.csv", 'id,caption\n1,"a red apple, shiny"\n2,a blue bird\n'),
        ("c.csv", '\ufeffCaption;Id\r\n"a red apple, shiny";1\r\na blue bird;2\r\n'),
        ("c.tsv", "Prompt\tCategory\na red apple, shiny\tx\n\na blue bird\ty\n"),
        ("c.csv", 'caption\n"a red apple, shiny"\na blue bird\n'),
    ],
)
def test_tables(tmp_path, name, text):
    assert read_prompts(written(tmp_path, name, text)) == ["a red apple, shiny", "a blue bird"]


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("c.csv", "id,caption,text\n1,a,b\n", "'caption' and 'text'"),
        ("c.csv", "caption,caption\na,b\n", "'caption' and 'caption'"),
        ("c.csv", "id,title\n1,a\n", "'id', 'title'"),
        ("c.csv", "id,caption\n1,a red apple, shiny\n", "line 2 has 3 cells"),
        ("c.tsv", 'caption\tid\n"open\t1\n', "line 2"),
        ("c.csv", "id,caption\n", "no prompt"),
        ("c.json", {"text": TWO, "prompt": TWO}, "'text' and 'prompt'"),
        ("c.json", [{"id": 1}], "[0]: expected a column named caption"),
        ("c.json", {"version": 1}, "'version'"),
        ("c.json", [{"caption": "a"}, {"title": "b"}], "[1]"),
        ("c.json", ["a", None], "[1]: expected a text, found null"),
        ("c.json", [{"caption": "a"}, {"caption": 3}], "[1].caption: expected a text, found 3"),
        ("c.json", [{"caption": "a"}, "b"], "[1]: expected an object"),
        ("c.json", '["a", ', "can't be read as JSON"),
        ("c.json", "[" * 100_000, "can't be read as JSON"),
        ("c.json", "3", "expected a text, found 3"),
        ("c.jsonl", '{"caption": "a"}\na dog\n', "line 2"),
        ("c.txt", '[\n "a",\n', "looks like JSON"),
        ("c.txt", "id,caption\n1,a\n", "rename it to .csv"),
        ("c.txt", "Prompt\tCategory\na\tb\n", "rename it to .tsv"),
        ("c.parquet", b"PAR1...", ".parquet"),
        ("c.txt", b"PAR1...", "Parquet"),
        ("c.json.gz", b"\x1f\x8b\x08", ".gz"),
        ("c.yaml", "- a cat\n", ".yaml"),
    ],
)
def test_refused_by_name(tmp_path, name, content, words):
    assert words in refusal(tmp_path, name, content)


def test_prompts_that_begin_like_json_are_prompts(tmp_path):
    lines = ["[masterpiece] a cat, text", "{red|blue} bird", "a dog"]
    assert read_prompts(written(tmp_path, "p.txt", "\n".join(lines))) == lines
    assert read_prompts(written(tmp_path, "p.txt", "red apple, noto style\n")) == [
        "red apple, noto style"
    ]


def test_the_line_about_their_number():
    assert prompts_line("f", 9, 8) == "prompts: 9 read from f, 8 asked for (--num-prompts)"
    assert prompts_line("f", 2, 8).endswith("; all are used")
