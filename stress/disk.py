"""Prune into file systems that are too small or read-only, then add space and resume.

    python -m stress.disk [--sizes 5 56 63 70]       # MiB; emoji-sd3 takes 53, a run about 75

Checked: a disk without room for the output is foreseen, one line and exit code 2, nothing written;
one that fills up during the run is one line and exit code 1, no partial output. With more space,
--resume ends with the undisturbed bits. On a read-only file system the run is refused at once, with
exit code 2. Needs the right to mount a tmpfs.
"""

import argparse
import contextlib
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

from . import command
from .kill import arguments, undisturbed

KIND = "live"


@contextlib.contextmanager
def mounted(folder: Path, size: int) -> Iterator[None]:
    """Mount a tmpfs of `size` MiB inside the block."""
    subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size}m", "tmpfs", folder],
        check=True,
        capture_output=True,
        text=True,
    )
    try:
        yield
    finally:
        subprocess.run(["umount", folder], check=True)


def why_not() -> str | None:
    """Why no tmpfs can be mounted here, or None."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            with mounted(Path(folder), 1):
                return None
        except (OSError, subprocess.CalledProcessError) as error:
            return " ".join(str(getattr(error, "stderr", None) or error).split())


def mib_of(folder: Path) -> float:
    """MiB of the files below a folder."""
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) / 2**20


def full(place: Path, size: int, model: str, hashes: dict, needed: float) -> None:
    """A run on a disk of `size` MiB, which is enlarged after the failure; its output takes `needed`
    MiB."""
    output = place / "out"
    code, err = command.run(*arguments(KIND, output, model))
    assert "Traceback" not in err, err
    if size < needed:
        assert (code, err.count("\n")) == (2, 1), f"{size} MiB: exit code {code}: {err}"
        assert "MB free" in err, err
        assert not output.with_name("out.part").exists()
    else:
        assert code == 1, f"{size} MiB: exit code {code}: {err}"
        lines = [line for line in err.splitlines() if line.startswith("failed:")]
        assert len(lines) == 1, err
        assert "No space left on device" in lines[0], err
        assert "--resume" in lines[0], err
    assert not output.exists()
    subprocess.run(["mount", "-o", "remount,size=2g", place], check=True)
    code, err = command.run(*arguments(KIND, output, model), "--resume")
    assert code == 0, err
    assert command.weights(output) == hashes, f"{size} MiB: other weights than undisturbed"
    how = "foreseen" if size < needed else "stopped"
    print(f"{size} MiB: {how} in one line, gone on to the same bits", flush=True)


def read_only(place: Path, model: str) -> None:
    subprocess.run(["mount", "-o", "remount,ro", place], check=True)
    code, err = command.run(*arguments(KIND, place / "other", model))
    assert code == 2, f"read-only: exit code {code}: {err}"
    assert "Read-only file system" in err, err
    print("read-only: refused in one line", flush=True)


def main(given: list[str] | None = None) -> int:
    """Returns the number of passed sizes."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sizes", type=int, nargs="+", default=[5, 56, 63, 70], metavar="MIB")
    parser.add_argument("--model", default=command.MODEL)
    args = parser.parse_args(given)
    with tempfile.TemporaryDirectory(prefix="stress-") as folder:
        whole = Path(folder) / "undisturbed"
        hashes, *_ = undisturbed(KIND, whole, args.model)
        for size in args.sizes:
            place = Path(folder) / f"disk-{size}"
            place.mkdir()
            with mounted(place, size):
                full(place, size, args.model, hashes, mib_of(whole))
                if size == args.sizes[-1]:
                    read_only(place, args.model)
    return len(args.sizes)


if __name__ == "__main__":
    main()
