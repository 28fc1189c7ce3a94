"""What `--overwrite` may replace: a folder that obsdiff wrote, or an empty one.

A folder is obsdiff's if its record names each file in it: obsdiff.json of a pruned pipeline, results.json of a run. A demo and a
sweep over sparsities hold several of these. A weight that changed after the record was written counts as foreign.
"""

import os
import re
import stat
from contextlib import suppress
from pathlib import Path
from typing import Any

from ..errors import UserError
from ..runtime.file_hashing import file_hash
from ..runtime.json_files import read_json
from .overlap import chain, identity
from .record import RECORD

CARD, INDEX, RESULTS, DEMO = "README.md", "model_index.json", "results.json", "demo.html"
STORED = (".json", ".safetensors", ".txt", ".model")
WORK, JOB = ".work", "job.json"  # of a run that was killed before it removed them
SWEEP = r"(\w+-)?\d\.\d\d|\d+-\d+"  # 0.30, unstructured-0.30, 2-4
TITLE = b"<title>obsdiff: dense and pruned</title>"  # of every page so far
KINDS = {
    stat.S_IFREG: "a file",
    stat.S_IFLNK: "a symlink",
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFBLK: "a device",
    stat.S_IFCHR: "a device",
}


def check_kind(output: Path) -> None:
    """UserError for an output that exists and is no folder."""
    if os.path.lexists(output) and not stat.S_ISDIR(mode := output.lstat().st_mode):
        what = KINDS.get(stat.S_IFMT(mode), "no folder")
        raise UserError(f"output: {output} is {what}; choose another name")


def check_ours(folder: Path, output: Path) -> None:
    """UserError unless all of a folder may be deleted; `output` is its name in the messages."""
    check_kind(folder)
    if identity(folder) in chain(Path.cwd()):
        raise UserError(f"output: {output} is or holds the working folder; start from another one")
    try:
        point, found = mounted(folder), stranger(folder)
    except OSError as error:
        raise UserError(f"output: {error.filename} can't be read: {error.strerror}") from None
    if point:
        raise UserError(
            f"output: {point} is a mount point, which can't be replaced; choose a new folder, such as one in it"
        )
    if found:
        raise UserError(
            f"output: {output} holds {found.relative_to(folder)}, which obsdiff did not write, or which has changed since; "
            "--overwrite replaces only what obsdiff wrote; choose another folder, or move the file away"
        )


def mounted(folder: Path) -> Path | None:
    """The first mount point at or below a folder. Linux lists bind mounts, too, which os.path.ismount does not notice."""
    with suppress(OSError):
        for line in Path("/proc/self/mountinfo").read_bytes().splitlines():
            point = re.sub(rb"\\(\d{3})", lambda found: bytes([int(found[1], 8)]), line.split()[4])
            if Path(os.fsdecode(point)).is_relative_to(os.path.realpath(folder)):
                return Path(os.fsdecode(point))
    below = (Path(root, name) for root, names, _ in os.walk(folder) for name in names)
    return next((place for place in (folder, *below) if os.path.ismount(place)), None)


def stranger(folder: Path) -> Path | None:
    """The first thing in a folder that obsdiff did not write; None if there is none. Empty folders hold nothing."""
    ours, outputs = contents(folder)
    written = (folder / RECORD).stat().st_mtime_ns if RECORD in ours else 0
    for root, folders, files in os.walk(folder, onerror=unreadable):
        for file in sorted(Path(root, n) for n in folders + files):
            key, found = file.relative_to(folder).as_posix(), file.lstat()
            if stat.S_ISDIR(found.st_mode):
                continue
            if key not in ours or not stat.S_ISREG(found.st_mode):
                return file
            if ours[key] and found.st_ctime_ns > written and file_hash(file) != ours[key]:
                return file
        folders[:] = sorted(name for name in folders if Path(root, name) not in outputs)
    return next((found for output in sorted(outputs) if (found := stranger(output))), None)


def unreadable(error: OSError) -> None:
    raise error


def contents(folder: Path) -> tuple[dict[str, str | None], set[Path]]:
    """Files that obsdiff wrote into a folder, with the hashes it recorded, and the outputs that lie in it."""
    below = {file for file in folder.glob("*") if file.is_dir() and not file.is_symlink()}
    pages = [file.name for file in folder.glob("*.html") if is_page(file)]
    if record := kept_json(folder / RECORD):
        hashes = record.get("hashes")
        files = hashes.get("files") if isinstance(hashes, dict) else None
        if not isinstance(files, dict):  # early records name no files; the index names the folders
            index = kept_json(folder / INDEX)
            files = {
                f"{part.name}/{file.name}": None
                for part in below
                if part.name in index
                for file in part.glob("*")
                if file.suffix in STORED
            } | {INDEX: None}
        return files | dict.fromkeys([RECORD, CARD, *pages]), set()
    if results := kept_json(folder / RESULTS):
        runs = [
            results.get("dense_images"),
            *(r.get("images") for r in as_list(results.get("runs"), dict)),
        ]
        work = folder.glob(f"{WORK}/**/*") if (folder / WORK / JOB).is_file() else ()
        files = [image for images in runs for image in as_list(images, str)]
        files += [file.relative_to(folder).as_posix() for file in work]
        return dict.fromkeys([RESULTS, *files, *pages]), set()
    if DEMO in pages:
        models = {place for place in folder.glob("models/*") if place.is_dir()}
        return {DEMO: None}, models | (below & {folder / "run"})
    return {}, {place for place in below if re.fullmatch(SWEEP, place.name)}


def as_list(value: Any, kind: type) -> list[Any]:
    """The elements of one kind; none of a value that is no list."""
    return [one for one in value if isinstance(one, kind)] if isinstance(value, list) else []


def kept_json(file: Path) -> dict[str, Any]:
    """What obsdiff wrote into a JSON file, of schema 1 where it has one; {} for any other file."""
    with suppress(UserError):
        found = read_json(file) if file.is_file() and not file.is_symlink() else {}
        return found if file.name == INDEX or found.get("schema") == 1 else {}
    return {}


def is_page(file: Path) -> bool:
    """Whether a regular file is a page that the report wrote."""
    if file.is_symlink() or not file.is_file():
        return False
    with file.open("rb") as page:
        return TITLE in page.read(4096)
