"""The command `obsdiff lora`: a LoRA for the dense model, cut to a pruned folder.

No torch before the checks.
"""

import argparse
import os
from pathlib import Path

from ..errors import UserError
from ..export.lora_blocks import kept_blocks
from ..pipelines.folder import Folder, open_folder
from ..pipelines.headers import read_header
from ..pipelines.output_path import absolute, check_writable
from ..pipelines.record import RECORD, read_record
from ..runtime.progress import say
from .commands import quiet

SUFFIX = ".safetensors"


def lora_command(args: argparse.Namespace) -> None:
    """Write the LoRA that fits the folder."""
    check_lora(args.file)
    check_output_file(args.output, args.folder)
    folder = open_folder(args.folder)
    folder.require_unpacked()
    folder.require_unrounded()
    require_own_order(folder.path)
    of_blocks, kept = kept_blocks(folder.path)
    component = folder.denoiser(of_blocks) if kept else pruned_component(folder)
    quiet()
    from ..export.lora import cut_file

    found = cut_file(args.file, folder, component, kept, args.output)
    cut = f"{found.cut} of {found.tensors} tensors of {component} cut"
    if kept:
        cut = f"blocks numbered anew, {found.dropped} tensors of {component} left out"
    say(f"{args.output}: {cut if kept or found.cut else 'nothing had to be cut: it fits as it is'}")


def check_lora(file: Path) -> None:
    """Check by its name and header that a file is a LoRA.

    Raises:
        UserError: it is no whole safetensors file, or has no tensor of a LoRA.
    """
    if file.suffix != SUFFIX:
        raise UserError(f"file: expected a LoRA that ends in {SUFFIX}, found {str(file)!r}")
    header = read_header(file)
    if not any("lora" in name.lower() for name in header):
        found = next(iter(header), "no tensor")
        raise UserError(f"{file}: expected a LoRA, found none in its names, such as {found!r:.80}")


def check_output_file(output: Path, folder: Path) -> None:
    """Check that the file can be written.

    Args:
        output: the file to write.
        folder: the pruned folder, whose record names all its files.

    Raises:
        UserError: it exists, has another ending, is in the folder, or can't be written.
    """
    if output.suffix != SUFFIX:
        raise UserError(
            f"output: expected the name of a file that ends in {SUFFIX}, found {str(output)!r}"
        )
    if os.path.lexists(output):
        raise UserError(f"output: {output} exists already; choose another")
    if absolute(output).is_relative_to(os.path.realpath(folder)):
        raise UserError(
            f"output: {output} is in {folder}, whose record names all its files; choose another"
        )
    check_writable(output)
    if not absolute(output).parent.is_dir():
        raise UserError(f"output: {output}: expected a folder that exists, found none above it")


def require_own_order(folder: Path) -> None:
    """Raise UserError if --permute gave neurons and values of a folder another order."""
    record = read_record(folder) if (folder / RECORD).is_file() else {}
    config, permutation = record.get("config"), record.get("permutation")
    if isinstance(config, dict) and config.get("permute") is True and permutation:
        raise UserError(
            f"{folder}: expected neurons and values in the order of the dense model, found a "
            "result of --permute, which a LoRA of the dense model does not fit; load the LoRA into "
            "the dense pipeline, call pipe.fuse_lora(); pipe.unload_lora_weights(), then prune"
        )


def pruned_component(folder: Folder) -> str:
    """Return the component that was structurally pruned; UserError if there is not just one."""
    names = [name for name in folder.components if folder.config(name).get("pruned_layout")]
    if not names:
        raise UserError(
            f"{folder.path}: expected a structured result of obsdiff, found no component with a "
            "pruned layout; it takes the LoRA of the dense model as it is"
        )
    if len(names) > 1:
        raise UserError(
            f"{folder.path}: expected one pruned component, found {' and '.join(names)}"
        )
    return names[0]
