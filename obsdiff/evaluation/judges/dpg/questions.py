"""DPG-Bench's prompts and questions, checked before anything is drawn. Imports no torch.

The prompts are a folder of .txt files, one prompt each. The questions are in dpg_bench.csv, in that
folder or beside it: one a row, with the name of the prompt's file in item_id, the question's number
in proposition_id, and in dependency the numbers of those questions without whose yes it makes no
sense, 0 for none.
"""

import csv
import io
from dataclasses import dataclass
from pathlib import Path

from ....errors import UserError
from ....pipelines.prompt_files import prompts_in, read_text

FILE = "dpg_bench.csv"
KINDS = ("blip", "vilt")  # model_type of the models that answer
COLUMNS = (
    *("item_id", "proposition_id", "dependency"),
    *("category_broad", "question_natural_language"),
)
Row = dict[str, str]


@dataclass(frozen=True)
class Question:
    """A question about a picture, whose right answer is yes.

    Attributes:
        text: the question.
        category: entity, attribute, relation, global or other.
        needs: numbers of the questions without whose yes it does not count.
    """

    text: str
    category: str
    needs: tuple[int, ...] = ()


@dataclass(frozen=True)
class Item:
    """A prompt and the questions about its picture, by their numbers."""

    name: str
    prompt: str
    questions: dict[int, Question]


def read_items(folder: Path | None) -> list[Item]:
    """Read the prompts of a folder with their questions, in the order of the prompts.

    Args:
        folder: the value of --prompts; None for default prompts.

    Raises:
        UserError: there is no such folder or no dpg_bench.csv, a row is wrong, or a prompt has no
            questions.
    """
    if folder is None or not folder.is_dir():
        found = "no file of prompts" if folder is None else f"the file {folder}"
        raise UserError(f"dpg: expected DPG-Bench's folder of prompts as prompts, found {found}")
    file = questions_file(folder)
    known = read_questions(file)
    prompts = {Path(place).stem: prompt for place, prompt in prompts_in(folder)}
    if without := [name for name in prompts if name not in known]:
        raise UserError(
            f"dpg: expected questions about every prompt of {folder}, found none about "
            f"{len(without)} in item_id of {file}, such as {without[0]}"
        )
    return [Item(name, prompt, known[name]) for name, prompt in prompts.items()]


def questions_file(folder: Path) -> Path:
    """Return the dpg_bench.csv in a folder of prompts, or beside it; UserError if there is none."""
    for place in (folder / FILE, folder.absolute().parent / FILE):
        if place.is_file():
            return place
    raise UserError(f"dpg: expected {FILE} in {folder} or beside it, found none")


def read_questions(file: Path) -> dict[str, dict[int, Question]]:
    """Return the questions of each prompt, by the prompt's name and the question's number.

    Raises:
        UserError: a column is missing, a number is none, or a question needs one that is not there.
    """
    rows = csv.DictReader(io.StringIO(read_text(file)), strict=True)
    found: dict[str, dict[int, Question]] = {}
    try:
        if missing := [name for name in COLUMNS if name not in (rows.fieldnames or ())]:
            raise UserError(
                f"dpg: {file}: expected the columns {', '.join(COLUMNS)}, "
                f"found no {', '.join(missing)}"
            )
        for row in rows:
            place = f"dpg: {file}: line {rows.line_num}"
            own = found.setdefault(str(row["item_id"]).strip(), {})
            own[whole(row, "proposition_id", place)] = question_of(row, place)
    except csv.Error as error:
        raise UserError(f"dpg: {file}: line {rows.line_num} can't be read: {error}") from None
    for name, questions in found.items():
        for number, question in questions.items():
            if lost := [need for need in question.needs if need not in questions]:
                raise UserError(
                    f"dpg: {file}: question {number} of {name} depends on {lost[0]}: expected one "
                    f"of its questions, found {', '.join(map(str, questions))}"
                )
    return found


def question_of(row: Row, place: str) -> Question:
    """Return the question of a row.

    Args:
        row: the cells by column.
        place: of the row, for messages.

    Raises:
        UserError: a cell is empty, or dependency has no numbers.
    """
    text, category = (
        str(row[name] or "").strip() for name in ("question_natural_language", "category_broad")
    )
    if not text or not category:
        raise UserError(f"{place}: expected a question and its category, found an empty cell")
    parts = str(row["dependency"] or "").split(",")
    needs = [whole({"dependency": part}, "dependency", place) for part in parts]
    return Question(text, category, tuple(need for need in needs if need))


def whole(row: Row, column: str, place: str) -> int:
    """Return the whole number in a cell; UserError for another text."""
    try:
        return int(row[column])
    except (TypeError, ValueError):
        raise UserError(
            f"{place}: expected a whole number in {column}, found {row[column]!r}"
        ) from None
