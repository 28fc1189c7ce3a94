"""Prune into file systems that are too small or read-only, then add space and resume.

    python -m stress.disk [--sizes 5 56 63 70]       # MiB; the output takes 53, a run about 75

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
OUTPUT_MIB = 53  # of the output


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


def full(place: Path, size: int, expected: tuple[dict, list, float]) -> None:
    """A run on a disk of `size` MiB, which is enlarged after the failure."""
    output = place / "out"
    code, err = command.run(*arguments(KIND, output))
    assert "Traceback" not in err, err
    if size < OUTPUT_MIB:
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
    code, err = command.run(*arguments(KIND, output), "--resume")
    assert code == 0, err
    assert command.weights(output) == expected[0], f"{size} MiB: other weights than undisturbed"
    how = "foreseen" if size < OUTPUT_MIB else "stopped"
    print(f"{size} MiB: {how} in one line, gone on to the same bits", flush=True)


def read_only(place: Path) -> None:
    subprocess.run(["mount", "-o", "remount,ro", place], check=True)
    code, err = command.run(*arguments(KIND, place / "other"))
    assert code == 2, f"read-only: exit code {code}: {err}"
    assert "Read-only file system" in err, err
    print("read-only: refused in one line", flush=True)


def main(given: list[str] | None = None) -> int:
    """Returns the number of passed sizes."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sizes", type=int, nargs="+", default=[5, 56, 63, 70], metavar="MIB")
    args = parser.parse_args(given)
    with tempfile.TemporaryDirectory(prefix="stress-") as folder:
        expected = undisturbed(KIND, Path(folder) / "undisturbed")
        for size in args.sizes:
            place = Path(folder) / f"disk-{size}"
            place.mkdir()
            with mounted(place, size):
                full(place, size, expected)
                if size == args.sizes[-1]:
                    read_only(place)
    return len(args.sizes)


if __name__ == "__main__":
    main()
