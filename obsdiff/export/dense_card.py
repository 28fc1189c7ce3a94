"""What the dense model says of its licence: the header of its card, and its licence files."""

import contextlib
import importlib.metadata
import re
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

from ..errors import UserError
from ..pipelines.builtin import BUILTINS, CHECKOUT
from ..pipelines.hub import Unreached, explained, listed, reached
from ..pipelines.published import is_licence
from ..runtime.regular_files import require_regular

CARD = "README.md"
LARGEST_CARD = 1_000_000  # bytes
TAKEN = ("license", "license_name", "license_link", "pipeline_tag")
HUB_ID = re.compile(r"[\w-][\w.-]{0,95}/[\w.-]{1,96}")
BUILTIN_PACKAGE = "obsdiff-emoji"  # Apache-2.0; its NOTICE names the pictures' licences


@dataclass(frozen=True)
class DenseCard:
    """The dense model, as far as a card of its pruned copy states it.

    Attributes:
        hub_id: its repository; None for a built-in model, which has none.
        header: licence and task, by the names of the hub's metadata; what its card states of them.
        files: its licence files, by their names.
    """

    hub_id: str | None
    header: dict[str, Any] = field(default_factory=dict)
    files: dict[str, Path] = field(default_factory=dict)


def dense_card(hub_id: str) -> DenseCard:
    """Read the card and the licence files of a model on the hub.

    Args:
        hub_id: owner and name.

    Raises:
        UserError: there is no such model, the hub can't be reached, or the card can't be read.
        RunFailed: the download broke off.
    """
    with explained(hub_id):
        try:
            with reached():
                repository = listed(hub_id)
        except Unreached as error:
            raise UserError(
                f"base_model: the licence of {hub_id} is needed, and the hub can't be reached "
                f"({error}); push where there is a network"
            ) from None
        if repository.sizes.get(CARD, 0) > LARGEST_CARD:
            raise UserError(
                f"base_model: the card of {hub_id} has {repository.sizes[CARD]} bytes: expected "
                f"at most {LARGEST_CARD}"
            )
        names = [name for name in repository.sizes if is_licence(name)]
        wanted = [*names, *(name for name in (CARD,) if name in repository.sizes)]
        folder = repository.fetch(wanted) if wanted else Path()
    card = folder / CARD
    stated = header_of(card.read_text(encoding="utf-8"), str(card)) if CARD in wanted else {}
    header = {name: stated[name] for name in TAKEN if isinstance(stated.get(name), str)}
    return DenseCard(hub_id, header, {name: folder / name for name in names})


def builtin_card() -> DenseCard:
    """Return what the package of the built-in models says of their licence."""
    places = [CHECKOUT / "LICENSE", CHECKOUT / "NOTICE"]
    if not places[0].is_file():
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            files = importlib.metadata.files(BUILTIN_PACKAGE) or []
            places = [Path(str(file.locate())) for file in files if is_licence(file.name)]
    found = {place.name: place for place in places if place.is_file()}
    return DenseCard(None, {"license": "apache-2.0", "pipeline_tag": "text-to-image"}, found)


def dense_of(header: dict[str, Any], index: dict[str, Any], record: dict[str, Any]) -> str | None:
    """Return the dense model that a pruned folder names: a hub id or a built-in; None for none.

    Args:
        header: of the folder's card, where its owner may have written it.
        index: its model_index.json, with the hub id that the pipeline was loaded by.
        record: its obsdiff.json, with the version of a built-in model.
    """
    stated = header.get("base_model")
    stated = stated[0] if isinstance(stated, list) and len(stated) == 1 else stated
    for place in (stated, index.get("_name_or_path")):
        if isinstance(place, str) and HUB_ID.fullmatch(place):
            return place
    return next((name for name in BUILTINS if name in record.get("versions", {})), None)


def read_header(file: Path) -> tuple[dict[str, Any], str]:
    """Return the header of a folder's card, and the text below it; both empty without a card.

    Raises:
        UserError: it is no regular file, too large, or has a damaged header.
    """
    if not file.exists():
        return {}, ""
    if (size := require_regular(file).st_size) > LARGEST_CARD:
        raise UserError(f"{file} has {size} bytes: expected a card of at most {LARGEST_CARD}")
    try:
        text = file.read_text(encoding="utf-8")
    except ValueError as error:
        raise UserError(f"{file}: expected a card in UTF-8: {error}") from None
    return header_of(text, str(file)), body_of(text)


def header_of(text: str, place: str) -> dict[str, Any]:
    """Return the YAML header of a card; UserError, with the card's place, if it is damaged."""
    from huggingface_hub.repocard import REGEX_YAML_BLOCK

    yaml: Any = import_module("yaml")  # of huggingface_hub
    found = REGEX_YAML_BLOCK.search(text)
    try:
        header = yaml.safe_load(found.group(2)) if found else {}
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{place}: its header is no YAML: {reason}") from None
    if not isinstance(header or {}, dict):
        raise UserError(f"{place}: expected a header such as `license: mit`, found no mapping")
    return header or {}


def body_of(text: str) -> str:
    """Return a card without its header."""
    from huggingface_hub.repocard import REGEX_YAML_BLOCK

    found = REGEX_YAML_BLOCK.search(text)
    return text[found.end() :] if found else text
