"""Send files to a repository of the hub, in one commit.

The login is the hub client's own: no token passes through obsdiff. Files that the repository has
already, by their hashes, are not sent. Large files go before the commit, so a push that broke off
has left them on the hub, and the same command sends the rest.
"""

import contextlib
import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ..errors import RunFailed, UserError
from ..pipelines.hub import Unreached, first_line, reached
from ..runtime.file_hashing import file_hash
from ..runtime.progress import say
from .dense_card import HUB_ID

WEIGHTS = (".safetensors", ".bin", ".index.json")
AGAIN = "the same command continues it"

Content = Path | bytes  # of a file: where it is, or what is in it


def check_repository(name: str) -> None:
    """Raise UserError unless a name is that of a repository, OWNER/NAME."""
    if not HUB_ID.fullmatch(name) or ".." in name or "--" in name:
        raise UserError(f"repository: expected OWNER/NAME, such as user/sd3-pruned, found {name!r}")


def require_login() -> None:
    """Raise UserError if the hub's client is offline by its settings, or nobody is logged in."""
    from huggingface_hub import constants, get_token

    if constants.HF_HUB_OFFLINE:
        raise UserError("push: the hub can't be reached, since HF_HUB_OFFLINE is set; unset it")
    if get_token() is None:
        raise UserError(
            "push: expected a login at the hub, found none; log in with a token that may write: "
            "hf auth login"
        )


def push_files(
    repository: str, files: Mapping[str, Content], private: bool, message: str
) -> tuple[int, str]:
    """Create a repository unless it is there, and send what it lacks of some files.

    Args:
        repository: owner and name.
        files: the content of each file, by its path in the repository.
        private: whether a new repository is private; an existing public one is refused.
        message: of the commit.

    Returns:
        How many files were sent, and the address of the repository.

    Raises:
        UserError: the hub refuses the login or the card, the repository is public or has other
            weights, or the hub can't be reached.
        RunFailed: the upload broke off.
    """
    from huggingface_hub import CommitOperationAdd, HfApi

    hub = HfApi()
    with explained(repository, begun=False):
        url = str(hub.create_repo(repository, private=private or None, exist_ok=True))
        info = hub.model_info(repository, files_metadata=True)
    if private and info.private is False:
        raise UserError(
            f"repository: {repository} is there already and is public; nothing was sent; change "
            "that in its settings on the hub, or choose another name"
        )
    there = {file.rfilename: file for file in info.siblings or ()}
    require_no_other_weights(repository, set(there), set(files))
    left = {name: content for name, content in files.items() if not same(content, there.get(name))}
    say(f"{repository}: {len(files) - len(left)} of {len(files)} files are there already")
    if left:
        with explained(repository, begun=True):
            hub.create_commit(
                repository,
                [CommitOperationAdd(name, content) for name, content in left.items()],
                commit_message=message,
            )
    return len(left), url


def require_no_other_weights(repository: str, there: set[str], files: set[str]) -> None:
    """Check that no weights of another model are in the folders of the components.

    Args:
        repository: owner and name.
        there: the paths in the repository.
        files: the paths that are sent.

    Raises:
        UserError: it has such a file, which diffusers would read.
    """
    folders = {name.rpartition("/")[0] for name in files}
    others = [
        name
        for name in sorted(there - files)
        if name.endswith(WEIGHTS) and name.rpartition("/")[0] in folders
    ]
    if others:
        raise UserError(
            f"repository: {repository} has other weights ({others[0]}), which would be opened "
            "together with these; nothing was sent; delete them there, or choose another name"
        )


def same(content: Content, there: Any) -> bool:
    """Return whether a repository has a file with this content.

    Args:
        content: of the file.
        there: what the hub tells about its file of this path, with hashes; None without one.
    """
    size = len(content) if isinstance(content, bytes) else content.stat().st_size
    if there is None or there.size != size:
        return False
    if there.lfs is not None:
        if isinstance(content, bytes):
            return hashlib.sha256(content).hexdigest() == there.lfs.sha256
        return file_hash(content) == str(there.lfs.sha256)
    data = content if isinstance(content, bytes) else content.read_bytes()
    return hashlib.sha1(b"blob %d\0" % size + data).hexdigest() == there.blob_id


@contextlib.contextmanager
def explained(repository: str, begun: bool) -> Iterator[None]:
    """Turn the errors of the hub and its client into one line that says what to do.

    Args:
        repository: owner and name.
        begun: whether files are being sent.

    Raises:
        UserError: the hub refuses something, or can't be reached before the upload.
        RunFailed: the upload broke off.
    """
    from huggingface_hub.errors import HfHubHTTPError

    try:
        with reached():
            yield
    except Unreached as error:
        if not begun:
            raise UserError(f"push: the hub can't be reached ({error})") from None
        raise RunFailed(f"{repository}: the upload broke off: {error}; {AGAIN}") from None
    except HfHubHTTPError as error:
        status = error.response.status_code if error.response is not None else 0
        advice = "; log in with a token that may write there: hf auth login"
        raise UserError(
            f"push: the hub refuses {repository}: {first_line(error)}"
            + (advice if status in (401, 403, 404) else "")
        ) from None
    except ValueError as error:
        raise UserError(f"push: the hub refuses {repository}: {all_lines(error)}") from None
    except (RuntimeError, OSError) as error:  # of one of the threads that send large files
        raise RunFailed(
            f"{repository}: the upload broke off: {first_line(error.__cause__ or error)}; {AGAIN}"
        ) from None


def all_lines(error: BaseException) -> str:
    """Return the text of an error in one line, if it is not too long."""
    return " ".join(str(error).split())[:300]
