"""Write an evaluation into the card of a pruned folder: its table, and a strip of its pictures."""

from pathlib import Path

from ..errors import UserError
from ..pipelines.folder import open_folder
from ..pipelines.model_card import CARD, with_evaluation
from ..pipelines.published import STRIP, is_strip
from ..pipelines.record import RECORD
from ..runtime.regular_files import require_regular
from ..runtime.scratch import disk_errors
from ..runtime.whole_files import whole_file


def check_card(folder: Path) -> None:
    """Check that the card of a folder can be updated.

    Args:
        folder: a pruned pipeline.

    Raises:
        UserError: obsdiff did not write the folder, it has no card, or another file has the name
            of the strip.
    """
    for name in (RECORD, CARD):
        if not (folder / name).is_file():
            raise UserError(
                f"update-card: expected a folder that obsdiff prune wrote, with its {name}, found "
                f"none in {folder}; leave out --update-card"
            )
    card_text(folder)
    strip = folder / STRIP
    if (strip.exists() or strip.is_symlink()) and not is_strip(strip):
        raise UserError(
            f"update-card: {strip} is no strip that obsdiff wrote, and is not replaced; "
            "move it away"
        )


def card_text(folder: Path) -> str:
    """Return the text of a folder's card; UserError if it can't be read."""
    require_regular(folder / CARD)
    try:
        return (folder / CARD).read_text(encoding="utf-8")
    except ValueError as error:
        raise UserError(f"{folder / CARD}: expected a card in UTF-8: {error}") from None


def update_card(run: Path, folder: Path) -> None:
    """Write table and strip of an evaluation into the card of a pruned folder.

    Args:
        run: the folder that `obsdiff evaluate` wrote.
        folder: the pruned pipeline, one of its runs.

    Raises:
        UserError: the evaluation is damaged, is of other weights, or the folder is not writable.
    """
    from .card_figures import card_figures

    opened = open_folder(folder)
    check_card(folder)
    found = card_figures(run, opened)
    with disk_errors(folder):
        with whole_file(folder / STRIP) as beside:
            beside.write_bytes(found.strip)
        text = with_evaluation(card_text(folder), found.lines)
        with whole_file(folder / CARD) as beside:
            beside.write_text(text, encoding="utf-8")
