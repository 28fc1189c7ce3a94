"""The published texts of HPSv3, from the file of its package that has them. Imports no torch.

obsdiff does not ship them. The file is parsed, never run: two names at its top level have to be
plain literal strings.
"""

import ast
import warnings
from dataclasses import dataclass
from pathlib import Path

from ....errors import UserError
from ....runtime.regular_files import require_regular

FILE = "data_collator_qwen.py"
PUBLISHED = f"hpsv3/dataset/{FILE} of github.com/MizzenAI/HPSv3 or of PyPI's hpsv3 1.0.0"
INSTRUCTION = "INSTRUCTION"  # the names of the texts in the file
QUESTION = "prompt_with_special_token"
PROMPT = "{text_prompt}"  # where the instruction has the prompt
REWARD = "<|Reward|>"  # the token whose hidden state is scored
LARGEST_FILE = 1_000_000  # bytes


@dataclass(frozen=True)
class Texts:
    """What the model reads with a picture.

    Attributes:
        instruction: how to judge, with PROMPT once.
        question: what follows it, with the reward token once.
    """

    instruction: str
    question: str

    def of(self, prompt: str) -> str:
        """Return the text for one prompt."""
        return self.instruction.replace(PROMPT, prompt) + self.question


def read_texts(folder: Path) -> Texts:
    """Read the texts in a folder of HPSv3.

    Raises:
        UserError: the file is missing or no Python file, or a text is missing or not as published.
    """
    file = folder / FILE
    if not file.exists():
        raise UserError(
            f"hpsv3: expected {FILE}, which has the instruction text, in {folder}, found none; "
            f"copy it from {PUBLISHED}"
        )
    found = literal_strings(file)
    if missing := [name for name in (INSTRUCTION, QUESTION) if name not in found]:
        raise UserError(
            f"hpsv3: {file}: expected {missing[0]} as a literal string, found none; copy the file "
            f"from {PUBLISHED}"
        )
    instruction, question = found[INSTRUCTION], found[QUESTION]
    places, braces = instruction.count(PROMPT), instruction.count("{") + instruction.count("}")
    if (places, braces) != (1, 2):
        raise UserError(
            f"hpsv3: {file}: expected {PROMPT} once in {INSTRUCTION}, and no other braces, found "
            f"it {places} times, and {braces} braces"
        )
    if (instruction + question).count(REWARD) != 1 or REWARD in instruction:
        raise UserError(
            f"hpsv3: {file}: expected {REWARD} once, in {QUESTION}, found "
            f"{question.count(REWARD)} there and {instruction.count(REWARD)} in {INSTRUCTION}"
        )
    return Texts(instruction, question)


def literal_strings(file: Path) -> dict[str, str]:
    """Return the literal strings at the top level of a Python file, by name; nothing is run.

    Raises:
        UserError: the file is too large, can't be read, or is no Python file.
    """
    if require_regular(file).st_size > LARGEST_FILE:
        raise UserError(
            f"hpsv3: {file}: expected at most {LARGEST_FILE} bytes, found a larger file"
        )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about its escapes
            tree = ast.parse(file.read_text(encoding="utf-8-sig"))
    except (SyntaxError, ValueError, RecursionError, MemoryError, OSError) as error:
        raise UserError(
            f"hpsv3: {file} can't be read as Python: {type(error).__name__}; copy it from "
            f"{PUBLISHED}"
        ) from None
    return {
        line.targets[0].id: line.value.value
        for line in tree.body
        if isinstance(line, ast.Assign)
        and isinstance(line.targets[0], ast.Name)
        and isinstance(line.value, ast.Constant)
        and isinstance(line.value.value, str)
    }
