"""The command `obsdiff export`: a pruned folder in another form. No torch before the checks."""

import argparse
import os

from ..config.values import one_of
from ..errors import UserError
from ..pipelines.folder import Folder, open_folder
from ..pipelines.partial_output import check_output
from ..runtime.progress import say
from .commands import quiet
from .next_steps import suggest, typed

FORMATS = ("padded",)


def export_command(args: argparse.Namespace) -> None:
    """Write the folder in the format that was asked for."""
    one_of("to", args.to, FORMATS)
    if os.path.lexists(args.output):
        raise UserError(f"output: {args.output} exists already; choose another")
    check_output(args.output, False, [args.folder])
    folder = open_folder(args.folder)
    require_pruned_shapes(folder)
    quiet()
    from ..export.padded import export_padded  # the only format

    grown = export_padded(folder, args.output)
    say(f"{args.output}: {', '.join(grown)} in dense shapes")
    suggest(typed("draw", args.output, "a red apple"))


def require_pruned_shapes(folder: Folder) -> None:
    """Check that some component was structurally pruned, by its config.json.

    Args:
        folder: the checked folder.

    Raises:
        UserError: no component has a pruned layout.
    """
    if not any(folder.config(name).get("pruned_layout") for name in folder.components):
        raise UserError(
            f"{folder.path}: expected a structured result of obsdiff, found no component with a "
            "pruned layout; it already opens wherever the dense model does"
        )
