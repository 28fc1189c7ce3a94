"""The trained pipelines that ship inside the package, so that every claim can be checked on any machine.

Each folder is a plain diffusers pipeline, with builtin.json (recommended settings of the pipeline's call and number of
calibration prompts), calibration_prompts.txt and, apart
from them, evaluation_prompts.txt beside it.
"""

import json
from pathlib import Path
from typing import Any

from ..errors import UserError

HERE = Path(__file__).parents[1] / "builtin"
BUILTINS = ("emoji-sd3", "emoji-unet")


def builtin_path(name: str) -> Path:
    """The folder of a built-in pipeline. UserError for an unknown name."""
    if name not in BUILTINS:
        raise UserError(f"built-in model: expected one of {', '.join(BUILTINS)}; found {name!r}")
    return HERE / name


def builtin_info(path: Path) -> dict[str, Any]:
    """{"settings": of the pipeline's call, "calibration": {"num_prompts"}} of a built-in's folder; {} for other folders."""
    file = path / "builtin.json"
    return json.loads(file.read_text()) if file.is_file() and path.parent == HERE else {}
