"""Kill prunings at random moments and resume them: each must end with the bits of an undisturbed
run.

    python -m stress.kill [--times 25] [--seed 0]

Each time one of six kinds of run is started, killed with SIGKILL at a random moment, started again
with --resume, sometimes killed once more, and finally completed. Checked: after a kill the output
is not there, or whole; at the end its weights and records are the undisturbed ones, no other
file remains, and the log (--log-file) has the end of the run.
"""

import argparse
import contextlib
import random
import signal
import subprocess
import tempfile
import time
from collections import Counter
from pathlib import Path

from . import command

COMMON = ("--num-prompts", 3, "--num-inference-steps", 3)
KINDS = {
    "live": ("--calibration", "live", "--packages", 4),
    "replay": ("--calibration", "replay", "--packages", 4),
    "asymmetric": ("--calibration", "replay", "--packages", 4, "--asymmetric"),
    "single": (),
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
    "best": ("--preset", "best", "--allocation-prompts", 1),
}
EARLIEST = 0.2  # share of an undisturbed run's time, before the first kill
AGAIN = 0.3  # probability that a resumed run is killed, too


def arguments(kind: str, output: Path, model: str | Path = command.MODEL) -> tuple:
    log = ("--quiet", "--log-file", log_of(output))
    return ("prune", model, "--output", output, *COMMON, *KINDS[kind], *log)


def log_of(output: Path) -> Path:
    return output.with_suffix(".log")


def undisturbed(
    kind: str, output: Path, model: str | Path = command.MODEL
) -> tuple[dict, list, float]:
    """Hashes of the weights, the records, and the seconds of an undisturbed run."""
    began = time.perf_counter()
    code, err = command.run(*arguments(kind, output, model))
    if code:
        raise AssertionError(f"{kind}: exit code {code}: {err}")
    return command.weights(output), command.records(output), time.perf_counter() - began


def killed(given: tuple, seconds: float) -> bool:
    """Start a run, kill it after so many seconds; whether it was still alive."""
    process = command.start(*given)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(seconds)
    alive = process.poll() is None
    process.send_signal(signal.SIGKILL)
    process.communicate()
    return alive


def once(
    kind: str,
    output: Path,
    expected: tuple[dict, list, float],
    chance: random.Random,
    model: str | Path = command.MODEL,
    earliest: float = EARLIEST,
) -> int:
    """One run, killed and resumed until it completes; returns the number of kills. AssertionError
    if the result differs."""
    hashes, records, seconds = expected
    given = arguments(kind, output, model)
    kills = int(killed(given, chance.uniform(earliest, 1.05) * seconds))
    while True:
        if output.exists():
            assert command.weights(output) == hashes, f"{kind}: half an output after a kill"
        if chance.random() >= AGAIN:
            break
        kills += killed((*given, "--resume"), chance.uniform(0.3, 1.0) * seconds)
    code, err = command.run(*given, "--resume")
    assert code == 0, f"{kind}: --resume ended with {code}: {err}"
    assert command.weights(output) == hashes, f"{kind}: other weights than undisturbed"
    assert command.records(output) == records, f"{kind}: other records than undisturbed"
    beside = set(output.parent.iterdir()) - {output, log_of(output)}
    assert not beside, f"{kind}: left beside: {beside}"
    assert str(output) in log_of(output).read_text().splitlines()[-1], f"{kind}: log has no end"
    return kills


def main(given: list[str] | None = None) -> Counter:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--times", type=int, default=25)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kinds", nargs="+", default=list(KINDS), choices=KINDS)
    parser.add_argument("--model", default=command.MODEL)
    parser.add_argument("--earliest", type=float, default=EARLIEST, metavar="SHARE")
    args = parser.parse_args(given)
    chance, counts = random.Random(args.seed), Counter()
    with tempfile.TemporaryDirectory(prefix="stress-") as folder:
        expected = {}
        for i in range(args.times):
            kind = args.kinds[i % len(args.kinds)]
            if kind not in expected:
                place = Path(folder) / f"undisturbed-{kind}"
                expected[kind] = undisturbed(kind, place, args.model)
            place = Path(folder) / str(i)
            place.mkdir()
            kills = once(kind, place / "out", expected[kind], chance, args.model, args.earliest)
            counts["runs"] += 1
            counts["kills"] += kills
            print(f"{i + 1}/{args.times} {kind}: killed {kills} times, the same bits", flush=True)
    print(
        f"{counts['runs']} runs, killed {counts['kills']} times, "
        "ended with the bits of undisturbed ones"
    )
    return counts


if __name__ == "__main__":
    main()
