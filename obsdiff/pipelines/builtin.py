"""The built-in pipelines: trained models of a separate package, obsdiff-emoji.

Each folder is a plain diffusers pipeline with five more files: builtin.json (version of the model,
recommended settings of the pipeline's call, number of calibration prompts) and four sets of prompts
that share none: calibration_prompts.txt, tuning_prompts.txt for choosing settings,
evaluation_prompts.txt for reporting, and held_out_prompts.txt, of names that the model was not
trained on.

The package holds data alone. It is located on the import path and never imported; a checkout of
the repository uses its own copy. The working folder, which `python -m` puts on the import path, is
not searched, because anyone may have written a folder obsdiff_emoji there.
"""

import json
import sys
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Any

from ..config.values import one_of
from ..errors import UserError

PACKAGE = "obsdiff_emoji"
CHECKOUT = Path(__file__).parents[2] / "obsdiff-emoji"  # absent in an installed obsdiff
BUILTINS = ("emoji-sd3", "emoji-unet")
EMOJI_CLIP = "emoji-clip"  # the CLIP that scores their pictures


def find_models() -> Path | None:
    """Return the folder of the built-in models; None if obsdiff-emoji is not installed."""
    here = Path.cwd()
    installed = [place for place in sys.path if Path(place).resolve() != here]
    spec = PathFinder.find_spec(PACKAGE, [str(CHECKOUT), *installed])
    return Path(spec.origin).parent if spec and spec.origin else None


def builtin_path(name: str) -> Path:
    """Return the folder of a built-in model.

    Args:
        name: emoji-sd3, emoji-unet or emoji-clip.

    Raises:
        UserError: the name is unknown, or obsdiff-emoji is not installed.
    """
    known = (*BUILTINS, EMOJI_CLIP)
    one_of("built-in model", name, known)
    folder = find_models()
    if folder is None:
        raise UserError(
            f"built-in model: {name} is part of obsdiff-emoji, not installed here; "
            "pip install 'obsdiff[demo]'"
        )
    return folder / name


def builtin_info(path: Path) -> dict[str, Any]:
    """Read builtin.json of a built-in model's folder.

    Returns:
        {"version": of the model, "settings": arguments of the pipeline's call,
        "calibration": {"num_prompts"}}; {} for other folders.
    """
    file = path / "builtin.json"
    return json.loads(file.read_text()) if file.is_file() and path.parent == find_models() else {}


def builtin_version(place: str | Path) -> dict[str, str]:
    """Return the version of a built-in model, as records name it.

    Args:
        place: a pipeline's folder, or where it was loaded from.

    Returns:
        {"emoji-sd3": "2"}; {} for any other place. The first versions do not name theirs.
    """
    path = Path(place).absolute()
    info = builtin_info(path)
    return {path.name: str(info.get("version", 1))} if info else {}
