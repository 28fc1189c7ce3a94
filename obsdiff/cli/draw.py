"""The command `obsdiff draw`: one picture of one prompt. No torch before the checks."""

import argparse
import dataclasses
import inspect
import os
import time
import typing
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..config import PruningConfig
from ..config.choices import CALL_SETTINGS
from ..config.values import whole
from ..errors import RunFailed, UserError
from ..pipelines.builtin import BUILTINS, builtin_info
from ..pipelines.folder import Folder
from ..pipelines.output_path import check_writable
from ..pipelines.prompt_files import unusable_character
from ..pipelines.record import RECORD, read_record
from ..pipelines.single_file import open_model
from ..runtime.progress import counting, say
from ..runtime.regular_files import is_special
from ..runtime.whole_files import write_whole
from .command_arguments import MODEL_HELP, add_loading
from .commands import config_of, quiet
from .flags import flag_of, flag_options
from .next_steps import after_drawing, suggest
from .parsing import whole_number

if TYPE_CHECKING:
    from PIL.Image import Image

PNG = b"\x89PNG\r\n\x1a\n"


def add_draw(p: argparse.ArgumentParser) -> None:
    """Add the arguments of draw."""
    group = p.add_argument_group("picture")
    group.add_argument("model", metavar="MODEL", help=f"a pruned folder, or any {MODEL_HELP}")
    group.add_argument("prompt", metavar="PROMPT", help="what to draw, in quotes")
    add_loading(group)
    group.add_argument(
        "--seed", type=whole_number, default=0, metavar="SEED", help="of the noise (default: 0)"
    )
    kinds = typing.get_type_hints(PruningConfig)
    for field in dataclasses.fields(PruningConfig):
        if field.name in CALL_SETTINGS:
            group.add_argument(flag_of(field.name), **flag_options(field, kinds[field.name]))
    group.add_argument(
        "--output",
        metavar="PICTURE.png",
        type=Path,
        default=Path("picture.png"),
        help="file to write (default: %(default)s)",
    )
    group.add_argument("--overwrite", action="store_true", help="replace a PNG picture")


def draw_command(args: argparse.Namespace) -> None:
    """Draw a picture and write it."""
    whole("seed", args.seed, 0)
    check_prompt(args.prompt)
    check_picture(args.output, args.overwrite)
    given = {name: getattr(args, name) for name in CALL_SETTINGS if hasattr(args, name)}
    config_of(argparse.Namespace(seed=args.seed, **given))
    folder = open_model(args.model, args.config, variant=args.variant)
    folder.require_text()
    settings = own_settings(folder) | given

    quiet()
    require_pictures(folder)
    began = time.perf_counter()
    picture = drawn(folder, args.prompt, args.seed, settings)
    write_picture(picture, args.output)
    known = ", ".join(f"{name} {value}" for name, value in settings.items())
    say(
        f"{args.output}: {picture.width} x {picture.height} pixels, seed {args.seed}"
        f"{', ' if known else ''}{known}, {time.perf_counter() - began:.0f} s"
    )
    pruned = (folder.path / RECORD).is_file()
    suggest(after_drawing(args, pruned, dense_of(folder) if pruned else ""))


def check_prompt(prompt: str) -> None:
    """Raise UserError for a prompt that is empty or that no tokenizer takes."""
    if not prompt.strip():
        raise UserError("prompt: expected words in quotes, found nothing")
    if wrong := unusable_character(prompt):
        raise UserError(f"prompt: it has {wrong}; remove it")


def check_picture(file: Path, overwrite: bool) -> None:
    """Check that a picture can be written.

    Args:
        file: the file.
        overwrite: whether a PNG picture may be replaced.

    Raises:
        UserError: it is no name of a PNG file, it exists, or it can't be written.
    """
    if file.suffix.lower() != ".png":
        raise UserError(f"output: expected a name that ends in .png, found {str(file)!r}")
    if os.path.lexists(file):
        if not overwrite:
            raise UserError(
                f"output: {file} exists already; choose another name, or pass --overwrite"
            )
        if file.is_symlink() or file.is_dir() or is_special(file) or not is_png(file):
            raise UserError(
                f"output: {file} is no PNG picture, and is not replaced; choose another name"
            )
    check_writable(file)


def is_png(file: Path) -> bool:
    """Return whether a file begins as a PNG picture does."""
    with file.open("rb") as opened:
        return opened.read(len(PNG)) == PNG


def own_settings(folder: Folder) -> dict[str, Any]:
    """Return the settings of the call that a folder recommends: a built-in's, or its record's.

    Args:
        folder: the model.

    Raises:
        UserError: a value in its record is wrong.
    """
    found = builtin_info(folder.path).get("settings", {})
    if not found and (folder.path / RECORD).is_file():
        found = read_record(folder.path).get("config", {})
    known = found if isinstance(found, dict) else {}
    given = {name: known[name] for name in CALL_SETTINGS if known.get(name) is not None}
    PruningConfig(**given)
    return given


def dense_of(folder: Folder) -> str:
    """Return the built-in model that a pruned folder was made of, by its record; "" for another."""
    versions = read_record(folder.path).get("versions")
    found = versions if isinstance(versions, dict) else {}
    return next((name for name in BUILTINS if name in found), "")


def require_pictures(folder: Folder) -> None:
    """Raise UserError unless the pipeline turns a prompt into single pictures with a VAE."""
    from .call_settings import pipeline_class

    known = inspect.signature(pipeline_class(folder).__call__).parameters
    if "prompt" not in known or "num_frames" in known or "vae" not in folder.components:
        raise UserError(
            f"draw: expected a pipeline that draws one picture of a prompt with a VAE, found "
            f"{folder.pipeline}; open {folder.source} in diffusers"
        )


def drawn(folder: Folder, prompt: str, seed: int, settings: dict[str, Any]) -> "Image":
    """Draw one picture, with the offload that fits on the device.

    Args:
        folder: the model.
        prompt: the prompt.
        seed: of the noise.
        settings: further arguments of the call.

    Raises:
        UserError: the pipeline refuses an argument.
        RunFailed: what it drew is no picture.
    """
    from ..evaluation.draw import draw_checked
    from ..evaluation.flaws import problem
    from ..pipelines.load import load_pipeline
    from ..pipelines.placement import placed
    from .device_memory import place_to_draw

    config = place_to_draw(folder, settings)
    with counting("drawing", 1, "pictures") as advance:
        pipe, _ = load_pipeline(folder, None, config.device, place=False)
        with placed(pipe, folder.denoiser(None, plain=False), config):
            found = draw_checked(pipe, [prompt], [seed], settings)
        advance(1)
    if why := problem(found.flaws()):
        raise RunFailed(f"{folder.source}: {why}; nothing was written")
    return found.images[0]


def write_picture(picture: "Image", file: Path) -> None:
    """Write a PNG file whole."""
    file.parent.mkdir(parents=True, exist_ok=True)
    content = BytesIO()
    picture.save(content, format="PNG")
    write_whole(file, content.getvalue())
