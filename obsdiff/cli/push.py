"""The command `obsdiff push`: a pruned folder to a repository of the hub.

No torch before the checks.
"""

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import UserError
from ..export.dense_card import (
    HUB_ID,
    DenseCard,
    builtin_card,
    dense_card,
    dense_of,
    read_header,
)
from ..export.hub_card import hub_header, hub_text, whole_card
from ..export.hub_upload import Content, check_repository, push_files, require_login
from ..pipelines.builtin import BUILTINS
from ..pipelines.folder import open_folder
from ..pipelines.hub import readable
from ..pipelines.model_card import CARD
from ..pipelines.published import STRIP, is_licence, is_strip
from ..pipelines.record import RECORD, read_record
from ..pipelines.replaceable import INDEX
from ..runtime.console import put, shown
from ..runtime.json_files import read_json
from ..runtime.progress import say
from .commands import quiet
from .next_steps import suggest, typed


def add_push(p: argparse.ArgumentParser) -> None:
    """Add the arguments of push."""
    p.add_argument("folder", metavar="DIR", type=Path, help="folder that obsdiff prune wrote")
    p.add_argument(
        "repository", metavar="OWNER/NAME", help="repository; created if it is not there"
    )
    p.add_argument(
        "--base-model",
        metavar="OWNER/NAME",
        help="the dense model on the hub, for the card and its licence (default: the hub id or "
        "built-in that was pruned, if the folder or its card names one)",
    )
    p.add_argument(
        "--evaluation",
        metavar="RUN",
        type=Path,
        help="folder that obsdiff evaluate wrote about DIR: its figures and pictures for the card",
    )
    p.add_argument(
        "--private",
        action="store_true",
        help="create a private repository; an existing public one is refused",
    )
    p.add_argument(
        "--dry-run",
        action="store_true",
        help="print files, bytes and the card's header; nothing is sent",
    )


def push_command(args: argparse.Namespace) -> None:
    """Check the folder, compose its card, and send what the repository lacks."""
    check_repository(args.repository)
    if args.base_model is not None and not HUB_ID.fullmatch(args.base_model):
        raise UserError(f"base-model: expected OWNER/NAME on the hub, found {args.base_model!r}")
    record = read_record(args.folder)
    if not args.dry_run:
        require_login()
    own, body = read_header(args.folder / CARD)
    index = read_json(args.folder / INDEX)
    dense = the_dense(args, own, index, record)
    quiet()
    from ..pipelines.verify import verify_folder

    verify_folder(args.folder)
    pipeline = str(index.get("_class_name"))
    header = hub_header(own, dense, pipeline)
    figures, pictures = evaluated(args)
    name = (dense.hub_id or builtin_of(record)) if dense else None
    version = str(record.get("versions", {}).get("obsdiff", ""))
    card = whole_card(header, hub_text(body, args.repository, name, version, figures))
    files = all_files(args.folder, record, dense) | pictures | {CARD: card.encode()}
    if args.dry_run:
        put("\n".join(map(shown, plan_lines(args, files, card))))
        return
    message = f"{pipeline}, pruned by obsdiff"
    count, url = push_files(args.repository, files, args.private, message)
    say(f"{url}: {count} files sent")
    suggest(typed("draw", args.repository, "a red apple"))


def the_dense(
    args: argparse.Namespace, own: dict[str, Any], index: dict[str, Any], record: dict[str, Any]
) -> DenseCard | None:
    """Return what the dense model says of its licence; None if it is not known.

    Args:
        args: the arguments of push.
        own: the header of the folder's card.
        index: its model_index.json.
        record: its obsdiff.json.

    Raises:
        UserError: --base-model contradicts the card, or the card of that model can't be read.
    """
    stated = own.get("base_model")
    if args.base_model and stated not in (None, args.base_model, [args.base_model]):
        raise UserError(
            f"base-model: expected {stated}, as {args.folder / CARD} states, found "
            f"{args.base_model}; change one of them"
        )
    name = args.base_model or dense_of(own, index, record)
    if name is None:
        return None
    return builtin_card() if name in BUILTINS else dense_card(name)


def builtin_of(record: dict[str, Any]) -> str | None:
    """Return the built-in model that was pruned; None for any other."""
    return dense_of({}, {}, record)


def evaluated(args: argparse.Namespace) -> tuple[list[str], dict[str, Content]]:
    """Return the card's lines on the evaluation, and its picture.

    Without --evaluation no lines, and the picture that the folder's card may have already.
    """
    if args.evaluation is None:
        strip = args.folder / STRIP
        return [], {STRIP: strip} if is_strip(strip) else {}
    from ..evaluation.card_figures import card_figures

    found = card_figures(args.evaluation, open_folder(args.folder))
    return found.lines, {STRIP: found.strip}


def all_files(folder: Path, record: dict[str, Any], dense: DenseCard | None) -> dict[str, Content]:
    """Return the files to send, by their paths in the repository, but for card and pictures.

    Args:
        folder: the verified folder; its own licence files come before those of the dense model.
        record: its record, which names all its files.
        dense: the dense model, with its licence files.
    """
    licences = dense.files if dense else {}
    own = {file.name: file for file in folder.iterdir() if is_licence(file.name)}
    recorded = {name: folder / name for name in record["hashes"]["files"]}
    return {**licences, **own, **recorded, RECORD: folder / RECORD}


def plan_lines(args: argparse.Namespace, files: Mapping[str, Content], card: str) -> list[str]:
    """Return what a dry run prints: repository, files, bytes, the header of the card.

    Args:
        args: the arguments of push.
        files: what would be sent.
        card: the composed card.
    """
    sizes = {
        name: len(content) if isinstance(content, bytes) else content.stat().st_size
        for name, content in files.items()
    }
    kind = "private" if args.private else "public"
    width = max(map(len, sizes))
    header = card[: card.index("\n---\n") + 4]
    return [
        f"{args.repository} ({kind}, if it is not there yet): {len(sizes)} files, "
        f"{readable(sum(sizes.values()))}; nothing was sent",
        *(f"  {name:<{width}}  {readable(size)}" for name, size in sorted(sizes.items())),
        "",
        f"The header of {CARD}:",
        "",
        header,
    ]
