"""The commands `obsdiff pack` and `obsdiff unpack`: zeros as bitmasks.

No torch before the checks.
"""

import argparse
import os
from collections.abc import Callable
from pathlib import Path

from ..errors import UserError
from ..pipelines.hub import readable
from ..pipelines.partial_output import check_output
from ..pipelines.record import read_record
from ..runtime.progress import say
from .commands import quiet


def add_pack(p: argparse.ArgumentParser) -> None:
    """Add the arguments of pack and unpack."""
    p.add_argument("folder", metavar="DIR", type=Path, help="folder that obsdiff wrote")
    p.add_argument(
        "--output",
        required=True,
        metavar="OUT",
        type=Path,
        help="folder to write; it appears complete or not at all",
    )


def pack_command(args: argparse.Namespace) -> None:
    """Write the folder with its zeros as bitmasks."""
    check(args)
    from ..export.packing import pack_folder

    written(args, pack_folder)


def unpack_command(args: argparse.Namespace) -> None:
    """Write a packed folder in its plain form."""
    check(args)
    from ..export.packing import unpack_folder

    written(args, unpack_folder)


def check(args: argparse.Namespace) -> None:
    """Check that there is a record, and that the output can be written."""
    config = read_record(args.folder).get("config")
    if isinstance(config, dict) and config.get("bits") is not None:
        raise UserError(
            f"{args.folder}: expected weights that are not rounded, found bits {config['bits']}; "
            "pack the same pruning without bits"
        )
    if os.path.lexists(args.output):
        raise UserError(f"output: {args.output} exists already; choose another")
    check_output(args.output, False, [args.folder])
    quiet()


def written(args: argparse.Namespace, write: Callable[[Path, Path], tuple[int, int]]) -> None:
    """Write the output and say how large the pruned weights were and are."""
    before, after = write(args.folder, args.output)
    share = f"{after / before:.3f} of {readable(before)}"
    say(f"{args.output}: the pruned component has {readable(after)}, {share}")
