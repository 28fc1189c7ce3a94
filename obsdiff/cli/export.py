"""The command `obsdiff export`: a pruned folder in another form. No torch before the checks."""

import argparse
import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from ..config.values import one_of
from ..errors import UserError
from ..pipelines.folder import Folder, open_folder
from ..pipelines.partial_output import check_output
from ..runtime.extras import require_extra
from ..runtime.progress import say
from .commands import quiet
from .next_steps import suggest, typed

PADDED, WITH_CODE, NUNCHAKU_LITE = "padded", "with-code", "nunchaku-lite"
FOLDERS = (PADDED, WITH_CODE, NUNCHAKU_LITE)  # the formats that are a folder
SINGLE_FILE, GGUF, COMFYUI = "single-file", "gguf", "comfyui"
SUFFIXES = {  # of the formats that are one file
    SINGLE_FILE: ".safetensors",
    GGUF: ".gguf",
    COMFYUI: ".safetensors",
}
TYPES = ("f16", "bf16", "q8_0")  # of the matrices in a GGUF file
FLAGS = {  # of export, with the formats in which they mean something
    "component": (SINGLE_FILE, GGUF, COMFYUI),
    "pad": (SINGLE_FILE, GGUF),
    "type": (GGUF,),
}
KEEPS_CODES = (NUNCHAKU_LITE, GGUF)  # the formats that take rounded weights
FORMATS = (*FOLDERS, *SUFFIXES)


def export_command(args: argparse.Namespace) -> None:
    """Write the folder in the format that was asked for."""
    one_of("to", args.to, FORMATS)
    require_applicable(args)
    if os.path.lexists(args.output):
        raise UserError(f"output: {args.output} exists already; choose another")
    check_output(args.output, False, [args.folder])
    folder = open_folder(args.folder)
    folder.require_unpacked()
    if args.to not in KEEPS_CODES or args.pad:
        folder.require_unrounded()
    if args.to == PADDED or args.pad:
        require_pruned_shapes(folder)
    quiet()
    if args.to in FOLDER_WRITERS:
        for line in FOLDER_WRITERS[args.to](folder, args.output):
            say(line)
        if args.to == PADDED:
            suggest(typed("draw", args.output, "a red apple"))
        return
    with source(folder, args.pad, args.output) as whole:
        for line in WRITERS[args.to](whole, args):
            say(line)


def write_padded(folder: Folder, output: Path) -> list[str]:
    """Write a folder of dense shapes; return what to say of it."""
    from ..export.padded import export_padded

    return [f"{output}: {', '.join(export_padded(folder, output))} in dense shapes"]


def write_with_code(folder: Folder, output: Path) -> list[str]:
    """Write a copy with a file of code; return what to say of it."""
    from ..export.with_code import export_with_code

    files = " and ".join(export_with_code(folder, output))
    return [
        f"{output}: diffusers opens it without obsdiff, with trust_remote_code=True",
        f"that runs {files}: code in a checkpoint, which its users have to trust",
    ]


def write_nunchaku_lite(folder: Folder, output: Path) -> list[str]:
    """Write a folder for CUDA kernels of 4 bits; return what to say of it."""
    from ..export.nunchaku_lite import export_nunchaku_lite

    counts = export_nunchaku_lite(folder, output)
    layers = ", ".join(f"{count} for {kernel}" for kernel, count in counts.items() if count)
    return [
        f"{output}: layers of 4 bits, two in a byte: {layers}",
        "diffusers opens it on a CUDA card with its package kernels; no GPU was used here",
    ]


FOLDER_WRITERS = {
    PADDED: write_padded,
    WITH_CODE: write_with_code,
    NUNCHAKU_LITE: write_nunchaku_lite,
}


def write_gguf(folder: Folder, args: argparse.Namespace) -> list[str]:
    """Write the denoiser of a folder as one GGUF file; return what to say of it."""
    from ..export.gguf_file import export_gguf
    from ..export.shapes import unlike_width
    from ..pipelines.rounded_files import is_declared

    component = folder.denoiser(args.component, plain=False)
    kind = args.type.upper() if args.type else None
    counts = export_gguf(folder, args.output, component, kind)
    types = ", ".join(f"{count} {name}" for name, count in sorted(counts.items()))
    line = f"{args.output}: {component} under the authors' names; tensors: {types}"
    if is_declared(folder.path / component):
        line += "; codes and scales are those of the folder"
    return [line, *filter(None, [unlike_width(folder, component)])]


def write_single_file(folder: Folder, args: argparse.Namespace) -> list[str]:
    """Write a folder as one file; return what to say of it."""
    from ..export.shapes import unlike_width
    from ..export.single_file import export_single_file

    inside = export_single_file(folder, args.output, args.component)
    others = [name for name in folder.components if name not in inside]
    left = f"; not {', '.join(others)}" if others else ""
    line = f"{args.output}: {', '.join(inside)} under the authors' names{left}"
    return [line, *filter(None, (unlike_width(folder, name) for name in inside))]


def write_comfyui(folder: Folder, args: argparse.Namespace) -> list[str]:
    """Write the denoiser of a folder for obsdiff's node in ComfyUI; return what to say of it."""
    from ..export.comfyui import export_comfyui

    export_comfyui(folder, args.output, component := folder.denoiser(args.component))
    return [f"{args.output}: {component}, for the node in integrations/comfyui"]


WRITERS = {SINGLE_FILE: write_single_file, GGUF: write_gguf, COMFYUI: write_comfyui}


@contextlib.contextmanager
def source(folder: Folder, pad: bool, output: Path) -> Iterator[Folder]:
    """Open the folder to write: the user's, or one with dense shapes that lasts as long.

    Args:
        folder: the user's folder.
        pad: whether to grow it to dense shapes.
        output: the file to write; the temporary folder is beside it.

    Yields:
        The folder.
    """
    if not pad:
        yield folder
        return
    from ..export.padded import export_padded

    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".obsdiff-", dir=output.parent) as place:
        padded = Path(place, PADDED)
        export_padded(folder, padded)
        yield open_folder(padded)


def require_applicable(args: argparse.Namespace) -> None:
    """Check the flags against the format, and the name of the output.

    Raises:
        UserError: a flag has no meaning for the format, or the file has another suffix.
    """
    for flag, formats in FLAGS.items():
        if getattr(args, flag) and args.to not in formats:
            raise UserError(
                f"{flag}: expected with --to {' or '.join(formats)}, found --to {args.to}"
            )
    if args.to in FOLDERS:
        return
    if args.to == GGUF:
        if args.type:
            one_of("type", args.type, TYPES)
        require_extra(GGUF, "obsdiff export --to gguf")
    if args.output.suffix != SUFFIXES[args.to]:
        raise UserError(
            f"output: expected a name that ends in {SUFFIXES[args.to]}, found {args.output.name!r}"
        )


def require_pruned_shapes(folder: Folder) -> None:
    """Check that some component was structurally pruned, by its config.json.

    Args:
        folder: the checked folder.

    Raises:
        UserError: no component has a pruned layout.
    """
    configs = [folder.config(name) for name in folder.components]
    keys = ("pruned_layout", "low_rank", "folded_modulation")
    if not any(config.get(key) for config in configs for key in keys):
        raise UserError(
            f"{folder.path}: expected a structured result of obsdiff, or one with low_rank or "
            "modulation, found "
            "no component of pruned shapes; its layers have the shapes of plain diffusers already"
        )
