"""Folders that `--overwrite` may replace: those that obsdiff wrote, and empty ones.

obsdiff wrote a folder if the record in it names each file: obsdiff.json of a pruned pipeline,
results.json of an evaluation. A demo and a sweep over sparsities contain several such folders.
A file that changed after the record was written counts as foreign.
"""

import os
import re
import stat
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn

from ..errors import UserError
from ..runtime.file_hashing import file_hash
from ..runtime.json_files import read_json
from .model_card import CARD
from .overlap import chain, identity
from .published import STRIP, is_strip
from .record import RECORD

INDEX, RESULTS = "model_index.json", "results.json"
DEMO, SWEEP_PAGE = "demo.html", "sweep.html"  # the page of each beside models/ and run/
STORED = (".json", ".safetensors", ".txt", ".model")
WORK, JOB = ".work", "job.json"  # of a run that was killed before it removed them
SWEEP = r"(\w+-)?\d\.\d\d|\d+-\d+"  # 0.30, unstructured-0.30, 2-4
TITLE = b"<title>obsdiff: dense and pruned</title>"  # of every page, in all versions
TITLE_WITHIN = 4096  # bytes at the beginning of a page that contain it
FILE_KINDS = {
    stat.S_IFREG: "a file",
    stat.S_IFLNK: "a symlink",
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFBLK: "a device",
    stat.S_IFCHR: "a device",
}


def check_kind(output: Path) -> None:
    """Check that a path is a folder or does not exist; UserError if it is anything else."""
    if os.path.lexists(output) and not stat.S_ISDIR(mode := output.lstat().st_mode):
        what = FILE_KINDS.get(stat.S_IFMT(mode), "no folder")
        raise UserError(f"output: {output} is {what}; choose another name")


def check_ours(folder: Path, output: Path) -> None:
    """Check that all files of a folder may be deleted.

    Args:
        folder: the folder.
        output: its name in the messages.

    Raises:
        UserError: it contains a foreign file, a mount point or the working folder.
    """
    check_kind(folder)
    if identity(folder) in chain(Path(".")):
        raise UserError(
            f"output: {output} is or contains the working folder; run obsdiff in another one"
        )
    try:
        point, found = mounted(folder), stranger(folder)
        fixed = unremovable(folder)
    except OSError as error:
        raise UserError(f"output: {error.filename} can't be read: {error.strerror}") from None
    if point:
        raise UserError(
            f"output: {point} is a mount point, which can't be replaced; "
            "choose a new folder, such as one in it"
        )
    if fixed:
        raise UserError(
            f"output: {output} can't be replaced: no permission to delete what is in {fixed}; "
            "choose another folder"
        )
    if found:
        raise UserError(
            f"output: {output} holds {found.relative_to(folder)}, which obsdiff did not write, "
            "or which has changed since; --overwrite replaces only what obsdiff wrote; "
            "choose another folder, or move the file away"
        )


def unremovable(folder: Path) -> Path | None:
    """Return the first folder whose files this process may not delete; None without any."""
    above, own = folder.absolute().parent, os.geteuid()
    sticky = above.stat()
    if sticky.st_mode & stat.S_ISVTX and own not in (0, sticky.st_uid, folder.stat().st_uid):
        return above
    places = (Path(root) for root, _, _ in os.walk(folder))
    return next((place for place in places if not os.access(place, os.W_OK | os.X_OK)), None)


def mounted(folder: Path) -> Path | None:
    """Return the first mount point at or below a folder; None without any.

    On Linux /proc lists bind mounts, too, which os.path.ismount does not detect.
    """
    with suppress(OSError):
        for line in Path("/proc/self/mountinfo").read_bytes().splitlines():
            point = re.sub(rb"\\(\d{3})", lambda found: bytes([int(found[1], 8)]), line.split()[4])
            if Path(os.fsdecode(point)).is_relative_to(os.path.realpath(folder)):
                return Path(os.fsdecode(point))
    below = (Path(root, name) for root, names, _ in os.walk(folder) for name in names)
    return next((place for place in (folder, *below) if os.path.ismount(place)), None)


def stranger(folder: Path) -> Path | None:
    """Return the first file or link that obsdiff did not write; None without any.

    Empty folders are ignored.
    """
    ours, outputs = contents(folder)
    written = (folder / RECORD).stat().st_mtime_ns if RECORD in ours else 0
    for root, folders, files in os.walk(folder, onerror=unreadable):
        for file in sorted(Path(root, n) for n in folders + files):
            key, status = file.relative_to(folder).as_posix(), file.lstat()
            if stat.S_ISDIR(status.st_mode):
                continue
            if key not in ours or not stat.S_ISREG(status.st_mode):
                return file
            if ours[key] and status.st_ctime_ns > written and file_hash(file) != ours[key]:
                return file
        folders[:] = sorted(name for name in folders if Path(root, name) not in outputs)
    return next((found for output in sorted(outputs) if (found := stranger(output))), None)


def unreadable(error: OSError) -> NoReturn:
    """Raise the error of a folder that os.walk can't read."""
    raise error


def contents(folder: Path) -> tuple[dict[str, str | None], set[Path]]:
    """Return the files that obsdiff wrote into a folder, and the outputs in it.

    Args:
        folder: the folder.

    Returns:
        The recorded hash of each file, None where there is none; and the folders in it that have
        records of their own.
    """
    below = {file for file in folder.glob("*") if file.is_dir() and not file.is_symlink()}
    pages = [file.name for file in folder.glob("*.html") if is_page(file)]
    if record := written_json(folder / RECORD):
        strip = [STRIP] if is_strip(folder / STRIP) else []
        ours = unhashed([RECORD, CARD, *strip, *pages])
        return recorded_files(record, folder, below) | ours, set()
    if results := written_json(folder / RESULTS):
        return unhashed([RESULTS, *evaluation_files(results, folder), *pages]), set()
    for page in {DEMO, SWEEP_PAGE}.intersection(pages):
        models = {place for place in folder.glob("models/*") if place.is_dir()}
        return unhashed([page]), models | (below & {folder / "run"})
    return {}, {place for place in below if re.fullmatch(SWEEP, place.name)}


def recorded_files(record: dict[str, Any], folder: Path, below: set[Path]) -> dict[str, str | None]:
    """Return the files that obsdiff.json names, with their hashes.

    Early records name no files; there model_index.json names the folders of components.
    """
    hashes = record.get("hashes")
    files = hashes.get("files") if isinstance(hashes, dict) else None
    if isinstance(files, dict):
        return files
    index = written_json(folder / INDEX)
    return unhashed(
        [
            f"{part.name}/{file.name}"
            for part in below
            if part.name in index
            for file in part.glob("*")
            if file.suffix in STORED
        ]
        + [INDEX]
    )


def evaluation_files(results: dict[str, Any], folder: Path) -> list[str]:
    """Return the pictures that results.json names, and the files of an evaluation in .work."""
    runs = [
        results.get("dense_images"),
        *(r.get("images") for r in as_list(results.get("runs"), dict)),
    ]
    work = folder.glob(f"{WORK}/**/*") if (folder / WORK / JOB).is_file() else ()
    files = [image for images in runs for image in as_list(images, str)]
    return files + [file.relative_to(folder).as_posix() for file in work]


def unhashed(files: list[str]) -> dict[str, str | None]:
    """Return files without recorded hashes."""
    return dict.fromkeys(files)


def as_list(value: Any, kind: type) -> list[Any]:
    """Return the elements of one type; none of a value that is no list."""
    return [one for one in value if isinstance(one, kind)] if isinstance(value, list) else []


def written_json(file: Path) -> dict[str, Any]:
    """Return the JSON object that obsdiff wrote, of schema 1 or an index; {} for other files."""
    with suppress(UserError):
        found = read_json(file) if file.is_file() and not file.is_symlink() else {}
        return found if file.name == INDEX or found.get("schema") == 1 else {}
    return {}


def is_page(file: Path) -> bool:
    """Return whether a path is a regular file with a page that obsdiff report wrote."""
    if file.is_symlink() or not file.is_file():
        return False
    with file.open("rb") as page:
        return TITLE in page.read(TITLE_WITHIN)
