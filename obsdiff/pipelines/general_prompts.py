"""General captions, for models without prompts of their own."""

from pathlib import Path

from .prompt_files import read_prompts

CALIBRATION_FILE = Path(__file__).with_name("general_prompts.txt")
EVALUATION_FILE = Path(__file__).with_name("general_evaluation_prompts.txt")


def general_prompts() -> list[str]:
    """Return the captions that calibrate where no prompts are given."""
    return read_prompts(CALIBRATION_FILE)
