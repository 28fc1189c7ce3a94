"""DPG-Bench's folder of prompts and table of questions, right and wrong."""

import shutil

import pytest

from obsdiff.errors import UserError
from obsdiff.evaluation.judges.dpg.questions import Question, read_items
from obsdiff.pipelines.prompt_files import read_prompts

from .conftest import PROMPTS, QUESTIONS


def test_every_prompt_has_its_questions_in_the_order_of_the_prompts(prompts):
    items = read_items(prompts)
    assert [item.prompt for item in items] == read_prompts(prompts)
    assert {item.name: item.prompt for item in items} == PROMPTS
    assert sum(len(item.questions) for item in items) == len(QUESTIONS)  # the first one, too
    dog = next(item for item in items if item.name == "1")
    assert dog.questions[2] == Question("Is the dog brown?", "attribute", (1,))
    assert dog.questions[4].needs == (1, 3)
    assert dog.questions[1].needs == ()


def test_the_table_may_be_in_the_folder(prompts):
    shutil.move(prompts.parent / "dpg_bench.csv", prompts / "dpg_bench.csv")
    assert len(read_items(prompts)) == 3
    (prompts / "dpg_bench.csv").unlink()
    with pytest.raises(UserError, match=r"expected dpg_bench\.csv in .* or beside it"):
        read_items(prompts)


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("dependency,", "depends,", "expected the columns .*, found no dependency"),
        (",4,", ",four,", "line 5: expected a whole number in proposition_id, found 'four'"),
        ('"1, 3"', '"1, 8"', "question 4 of 1 depends on 8: expected one of its questions"),
        ('"1, 3"', "one", "line 5: expected a whole number in dependency, found 'one'"),
        ("Is there a cup?", " ", "line 6: expected a question and its category, found an empty"),
        ("\n10,", "\n11,", "found none about 1 in item_id of .*, such as 10"),
        ("\n10,", '\n"10"x,', "can't be read"),
    ],
)
def test_a_wrong_table_is_one_line(prompts, old, new, words):
    table = prompts.parent / "dpg_bench.csv"
    text = table.read_text()
    assert old in text
    table.write_text(text.replace(old, new))
    with pytest.raises(UserError, match=words) as caught:
        read_items(prompts)
    assert "\n" not in str(caught.value)


def test_prompts_have_to_be_the_folder(prompts):
    for wrong in (None, prompts / "1.txt"):
        with pytest.raises(UserError, match="dpg: expected DPG-Bench's folder of prompts"):
            read_items(wrong)
