"""Prune in 1, 2 and 4 processes and compare; kill one process in the middle, and resume with
another number of processes.

    python -m stress.ranks [--sizes 1 2 4]

The figure is the number of mask entries, or of removed heads and neurons, that differ from those of
one process: sums in another order differ by rounding, which decides ties.
"""

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil
from safetensors.torch import load_file

from .command import MODEL, QUIET, records, run

COMMON = ("--num-prompts", 8, "--num-inference-steps", 4, "--batch-size", 1)
KINDS = {
    "single": ("--sparsity", 0.5),
    "live": ("--calibration", "live", "--packages", 2),
    "replay": ("--calibration", "replay", "--packages", 2),
    "asymmetric": ("--calibration", "replay", "--packages", 2, "--asymmetric"),
    "structured": (
        "--pattern",
        "structured",
        "--sparsity",
        0.3,
        "--calibration",
        "live",
        "--packages",
        2,
    ),
    "several": ("--sparsity", 0.3, 0.5),
    "held out": ("--held-out", 4, "--choose-damping"),
    "budget": ("--pattern", "structured", "--target-macs", 0.8),
    "best": ("--preset", "best", "--allocation-prompts", 1),
}
# Share of the mask that rounding may decide; later packages depend on earlier decisions.
TIES = 3e-3
# The same for neurons, many of which have nearly equal losses; for alps, whose search diverges
# after every tie; and for asymmetric targets, which amplify small differences.
CLOSE = 2e-2
WEIGHTS = "transformer/diffusion_pytorch_model.safetensors"


def arguments(kind: str, output: Path, model: str | Path = MODEL) -> list[str]:
    return [str(x) for x in ("prune", model, "--output", output, *COMMON, *KINDS[kind])]


def start(size: int, given: list[str]) -> subprocess.Popen:
    """`obsdiff` in so many processes of torchrun; one alone needs none.

    They have two threads among them, or OMP_NUM_THREADS each.
    """
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(size)]
    command = [sys.executable, *(torchrun if size > 1 else []), "-m", "obsdiff", *given]
    environment = {"OMP_NUM_THREADS": str(max(1, 2 // size))} | os.environ | QUIET
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    )


def finished(process: subprocess.Popen, seconds: float = 900) -> str:
    """stderr of a run that must succeed; TimeoutExpired, and none of its processes, after that."""
    try:
        _, err = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        for one in (*psutil.Process(process.pid).children(recursive=True), process):
            one.kill()
        raise
    assert process.returncode == 0, f"exit code {process.returncode}: {err}"
    return err


def masks_differ(one: Path, other: Path) -> tuple[int, int]:
    """The number of differing mask entries of two outputs, and their total; for structured outputs,
    of removed heads and neurons."""
    differ = total = 0
    files = sorted(file.relative_to(one) for file in one.rglob(WEIGHTS))
    assert files
    assert files == sorted(file.relative_to(other) for file in other.rglob(WEIGHTS))
    for file in files:
        a, b = load_file(one / file), load_file(other / file)
        assert a.keys() == b.keys()
        for name, weight in a.items():
            assert weight.shape == b[name].shape, (
                f"{name}: {tuple(weight.shape)} and {tuple(b[name].shape)}"
            )
            differ += int(((weight == 0) != (b[name] == 0)).sum())
            total += weight.numel()
    chosen = [
        [set(group["removed"]) for _, groups in records(folder) for group in groups]
        for folder in (one, other)
    ]
    if chosen[0]:  # kept columns have moved; the records name the removed ones
        return sum(len(a - b) for a, b in zip(*chosen, strict=True)), sum(map(len, chosen[0]))
    return differ, total


def compare(
    kind: str, sizes: list[int], folder: Path, model: str | Path = MODEL
) -> dict[int, tuple[int, int]]:
    """Prune with each number of processes; returns the differing mask entries against the first."""
    found, outputs = {}, {size: folder / f"{kind}-{size}" for size in sizes}
    for size in sizes:
        err = finished(start(size, arguments(kind, outputs[size], model)))
        said = [line for line in err.splitlines() if line.startswith(str(outputs[size]))]
        assert len(said) == len(list(outputs[size].rglob("obsdiff.json"))), (
            f"{kind}: {said} is not one line for each output"
        )
        found[size] = masks_differ(outputs[sizes[0]], outputs[size])
        print(f"{kind}, {size} processes: {found[size][0]} of {found[size][1]} differ", flush=True)
        assert (
            found[size][0]
            < (CLOSE if kind in ("structured", "budget", "best", "asymmetric") else TIES)
            * found[size][1]
        )
    return found


def workers(process: subprocess.Popen, size: int, seconds: float = 120) -> list[psutil.Process]:
    """The obsdiff processes below torchrun, once all have started."""
    began = time.perf_counter()
    while time.perf_counter() - began < seconds:
        found = [
            child
            for child in psutil.Process(process.pid).children(recursive=True)
            if "obsdiff" in child.cmdline()
        ]
        if len(found) == size:
            return found
        time.sleep(0.2)
    raise AssertionError(f"torchrun did not start {size} processes")


def death(
    folder: Path, expected: Path, size: int = 2, then: int = 1, model: str | Path = MODEL
) -> tuple[int, int]:
    """Kill one process after the first solved task; the job must end, and resume with this or
    another number of processes. Returns the differing mask entries against an undisturbed run."""
    output = folder / "death"
    process = start(size, arguments("live", output, model))
    victims, pieces = workers(process, size), folder / "death.part" / ".work" / "pieces"
    while not list(pieces.rglob("*.safetensors")):
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.05)
    victims[-1].send_signal(signal.SIGKILL)
    _, err = process.communicate(timeout=120)
    assert process.returncode != 0
    assert "another process of this job has ended, or does not answer" in err, err
    assert "continue with --resume" in err, err
    assert not output.exists()
    given = [*arguments("live", output, model), "--resume"]
    if then == 1:
        code, err = run(*given)
        assert code == 0, err
    else:
        finished(start(then, given))
    differ, total = masks_differ(expected, output)
    print(
        f"one of {size} processes killed, gone on with {then}: {differ} of {total} differ",
        flush=True,
    )
    assert differ < TIES * total
    return differ, total


def main(given: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sizes", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--kinds", nargs="+", default=list(KINDS), choices=KINDS)
    args = parser.parse_args(given)
    with tempfile.TemporaryDirectory(prefix="stress-") as place:
        folder = Path(place)
        for kind in args.kinds:
            compare(kind, args.sizes, folder)
        if "live" in args.kinds:
            death(folder, folder / f"live-{args.sizes[0]}")


if __name__ == "__main__":
    main()
