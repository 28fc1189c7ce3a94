"""The folder of HPSv3, checked before anything is drawn. Imports no torch.

HPSv3.safetensors                    of MizzenAI/HPSv3: all tensors
config.json, tokenizer.json          of Qwen/Qwen2-VL-7B-Instruct
data_collator_qwen.py                of github.com/MizzenAI/HPSv3: the instruction, not run
"""

from pathlib import Path

from ....errors import UserError
from ....pipelines.headers import read_header
from ....pipelines.own_code import require_own_code_files
from ....pipelines.weight_files import PICKLED
from ....runtime.json_files import read_json
from ....runtime.regular_files import require_regular_inside
from .tensors import check_tensors
from .texts import FILE, read_texts

WEIGHTS = "HPSv3.safetensors"
BASE = "Qwen/Qwen2-VL-7B-Instruct"
KIND = "qwen2_vl"
PARTS = (
    f"{WEIGHTS} of MizzenAI/HPSv3, config.json and tokenizer.json of {BASE}, and {FILE} of "
    "github.com/MizzenAI/HPSv3"
)


def find_hpsv3(value: str) -> Path:
    """Return the folder of HPSv3.

    Args:
        value: of the flag; a hub id is refused, since no hub has all of its files.

    Raises:
        UserError: it is no folder, or a file is missing or none of HPSv3's.
    """
    folder = Path(value)
    if not folder.is_dir():
        raise UserError(
            f"hpsv3: expected a folder with {PARTS}, found no folder {value!r}; make one, since "
            "--download can't"
        )
    require_regular_inside(folder)
    require_own_code_files([folder])
    config = read_json(folder / "config.json")
    if config.get("model_type") != KIND:
        raise UserError(
            f"hpsv3: expected the config.json of {BASE} (model_type {KIND}), found "
            f"{config.get('model_type')!r} in {folder / 'config.json'}"
        )
    if not (folder / "tokenizer.json").is_file():
        raise UserError(f"hpsv3: expected tokenizer.json of {BASE} in {folder}, found no tokenizer")
    read_texts(folder)
    file = weights_file(folder)
    check_tensors(read_header(file), config, file)
    return folder


def weights_file(folder: Path) -> Path:
    """Return the file with all tensors; UserError if there is none."""
    file = folder / WEIGHTS
    if not file.is_file():
        pickled = sorted(path.name for path in folder.iterdir() if path.suffix in PICKLED)
        found = f"{pickled[0]}, which may hold code and is not read" if pickled else "no weights"
        raise UserError(f"hpsv3: expected {WEIGHTS} in {folder}, found {found}")
    return file
