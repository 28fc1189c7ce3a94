"""Models by their names: built-in, folder, or hub id.

Of a hub's repository the files that are needed are fetched into the hub's cache (hub_files.py): for
a plan the JSON files alone, for a run also vocabularies and weights. How many bytes are missing is
said before they are fetched, model_index.json apart.
"""

import contextlib
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from glob import escape
from pathlib import Path

from ..config.values import did_you_mean
from ..errors import RunFailed, UserError
from ..runtime.json_files import read_json
from ..runtime.progress import say
from .builtin import BUILTINS, builtin_path
from .folder import open_folder
from .hub_files import INDEX, components_in, small_files, weight_files

HUB_ERROR_SHOWN = 160  # characters of the hub's error
DOWN = 500  # the least status of an answer that is the hub's own fault
UNITS = ((1e9, "GB"), (1e6, "MB"), (1e3, "kB"))


def find_model(model: str, weights: bool = True, variant: str | None = None) -> Path:
    """Return the folder of a model.

    Args:
        model: a built-in name, a folder, or a hub id, of which the missing files are downloaded.
        weights: whether the weights are needed; if not, JSON files alone are downloaded.
        variant: the variant of the weights to download; None for plain files where there are any.

    Raises:
        UserError: there is no such model, it can't be used, or the hub can't be reached.
        RunFailed: the download broke off.
    """
    if model in BUILTINS:
        return builtin_path(model)
    path = Path(model)
    if path.is_dir():
        return path
    if path.exists():
        raise UserError(f"model: expected a pipeline folder, found the file {path}")
    if re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", model):
        return download(model, weights, variant)
    raise UserError(
        f"model: no folder and no built-in model is named {model!r}; "
        f"built-in: {', '.join(BUILTINS)}{did_you_mean(model, BUILTINS)}"
    )


class Unreached(Exception):
    """The hub does not answer; the text is the reason."""


@dataclass(frozen=True)
class Repository:
    """The files of a model on the hub, at one commit.

    Attributes:
        hub_id: owner and name.
        commit: the hash of the commit.
        sizes: bytes of each file, by its path.
    """

    hub_id: str
    commit: str
    sizes: dict[str, int]

    def missing(self, files: list[str]) -> list[str]:
        """Return the files that the cache does not have."""
        from huggingface_hub import try_to_load_from_cache

        return [
            file
            for file in files
            if not isinstance(try_to_load_from_cache(self.hub_id, file, revision=self.commit), str)
        ]

    def announce(self, files: list[str]) -> None:
        """Say how much of some files is to be downloaded, unless the cache has them all."""
        if missing := self.missing(files):
            size = readable(sum(self.sizes.get(file, 0) for file in missing))
            count = f"{len(missing)} file{'s' * (len(missing) > 1)}"
            say(f"{self.hub_id}: downloads {size} ({count}) from the hub")

    def fetch(self, files: list[str]) -> Path:
        """Download what is missing of some files and return the folder of the commit."""
        from huggingface_hub import snapshot_download

        patterns = [escape(file) for file in files]
        try:
            with reached():
                return Path(
                    snapshot_download(self.hub_id, revision=self.commit, allow_patterns=patterns)
                )
        except Unreached as error:
            raise RunFailed(
                f"{self.hub_id}: the download broke off: {error}; the same command continues it"
            ) from None


def download(hub_id: str, weights: bool, variant: str | None) -> Path:
    """Download what a plan or a run needs of a model, and return its folder in the hub's cache.

    Args:
        hub_id: owner and name.
        weights: whether a run needs it.
        variant: the variant of the weights; None for plain files where there are any.
    """
    from huggingface_hub import hf_hub_download

    with explained(hub_id):
        try:
            with reached():
                repository = listed(hub_id)
                if INDEX in repository.sizes:
                    hf_hub_download(hub_id, INDEX)  # by branch: the cache then knows its commit
        except Unreached as error:
            return cached(hub_id, weights, str(error))
        if INDEX not in repository.sizes:
            raise UserError(
                f"model: {hub_id} on the hub is no diffusers pipeline: it has no {INDEX}"
            )
        components = components_in(read_json(repository.fetch([INDEX]) / INDEX))
        names = set(repository.sizes)
        if not weights:
            small = small_files(names, components, (".json",))
            repository.announce(small)
            return repository.fetch(small)
        small = small_files(names, components)
        large = weight_files(names, components, variant)
        repository.announce(small + large)
        if repository.missing(large):
            open_folder(repository.fetch(small), weights=False)  # wrong configs, before hours
        return repository.fetch(small + large)


def listed(hub_id: str) -> Repository:
    """Return the repository of a model at the newest commit of its main branch."""
    from huggingface_hub import HfApi

    info = HfApi().model_info(hub_id, files_metadata=True)
    files = {file.rfilename: file.size or 0 for file in info.siblings or ()}
    return Repository(hub_id, str(info.sha), files)


def cached(hub_id: str, weights: bool, why: str) -> Path:
    """Return the folder of a model in the hub's cache, without the hub.

    Args:
        hub_id: owner and name.
        weights: whether every component needs weights.
        why: the reason why the hub can't be reached.

    Raises:
        UserError: the cache has not what is needed.
    """
    from huggingface_hub import constants, try_to_load_from_cache

    if constants.HF_HUB_OFFLINE:
        why = "HF_HUB_OFFLINE is set"
    unreached = f"model: {hub_id!r} is no folder here, and the hub can't be reached ({why})"
    index = try_to_load_from_cache(hub_id, INDEX)
    if not isinstance(index, str):
        raise UserError(
            f"{unreached}; the hub's cache ({constants.HF_HUB_CACHE}) has nothing of it; fetch it "
            f"where there is a network: obsdiff prune, or hf download {hub_id}"
        )
    folder = Path(index).parent
    lacking = [
        name
        for name in components_in(read_json(Path(index)))
        if (folder / name / "config.json").is_file()
        and not any((folder / name).glob("*.safetensors"))
    ]
    if weights and lacking:
        raise UserError(
            f"{unreached}; the hub's cache ({folder}) has no weights of {', '.join(lacking)}; "
            f"fetch them where there is a network: obsdiff prune, or hf download {hub_id}"
        )
    say(f"{hub_id}: the hub can't be reached ({why}); uses the hub's cache, {folder}")
    return folder


@contextlib.contextmanager
def explained(hub_id: str, what: str = "model") -> Iterator[None]:
    """Turn the hub's refusals into one line that says what to do.

    Args:
        hub_id: owner and name.
        what: the argument that it was given for, with which the line begins.

    Raises:
        UserError: the model is gated or unknown, or the hub refused for another reason.
    """
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        HFValidationError,
        RepositoryNotFoundError,
    )

    try:
        yield
    except GatedRepoError:
        raise UserError(
            f"{what}: {hub_id} is gated: accept its licence at https://huggingface.co/{hub_id}, "
            "then log in with: hf auth login"
        ) from None
    except RepositoryNotFoundError:
        raise UserError(
            f"{what}: {hub_id!r} is no folder here, and the hub has no such model, or it is "
            "private; check the name, or log in with: hf auth login"
        ) from None
    except (HfHubHTTPError, HFValidationError, OSError) as error:
        raise UserError(
            f"{what}: {hub_id!r} is no folder here, and the download from the hub failed: "
            f"{first_line(error)}"
        ) from None


@contextlib.contextmanager
def reached() -> Iterator[None]:
    """Turn the errors that mean that the hub does not answer into one.

    The hub's client stands on httpx or, since its version 2, on httpx2.

    Raises:
        Unreached: there is no way to the hub, or it is down.
    """
    from huggingface_hub.errors import (
        HfHubHTTPError,
        LocalEntryNotFoundError,
        OfflineModeIsEnabled,
    )

    libraries = [sys.modules[name] for name in ("httpx", "httpx2") if name in sys.modules]
    of_client = [
        kind for library in libraries for kind in (library.TransportError, library.InvalidURL)
    ]
    try:
        yield
    except HfHubHTTPError as error:
        if error.response is None or error.response.status_code < DOWN:
            raise
        raise Unreached(first_line(error)) from None
    except (OfflineModeIsEnabled, LocalEntryNotFoundError, *of_client) as error:
        raise Unreached(first_line(error)) from None


def first_line(error: BaseException) -> str:
    """Return the first line of an error, or its type if it has no text."""
    lines = str(error).strip().splitlines()
    return (lines[0] if lines else type(error).__name__)[:HUB_ERROR_SHOWN]


def readable(size: float) -> str:
    """Return a number of bytes for people: 6.9 GB."""
    for unit, name in UNITS:
        if size >= unit:
            return f"{size / unit:.1f} {name}"
    return f"{size:.0f} bytes"
