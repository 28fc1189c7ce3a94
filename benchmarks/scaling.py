"""The speed-up of several processes: calibration and solving on 1, 2 and 4 processes of one thread.

    python -m benchmarks.scaling [--sizes 1 2 4] [--rounds 3]

emoji-sd3, 16 prompts in batches of 1, 5 steps, one dense pass. The numbers of processes alternate;
the figures are medians of the rounds, and ratios to one process of the same round. More processes
than cores bring no speed-up. Writes benchmarks/results/scaling.json.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median
from typing import Any

RESULTS = Path(__file__).parent / "results" / "scaling.json"
GIVEN = (
    "prune",
    "emoji-sd3",
    "--num-prompts",
    "16",
    "--batch-size",
    "1",
    "--num-inference-steps",
    "5",
)
PHASES = ("calibration", "solve")


def seconds(size: int, output: Path) -> dict[str, float]:
    """Wall seconds of each phase, as process 0 recorded them."""
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        str(size),
        "-m",
        "obsdiff",
        *GIVEN,
        "--output",
        str(output),
    ]
    subprocess.run(
        command, env=os.environ | {"OMP_NUM_THREADS": "1"}, check=True, capture_output=True
    )
    return json.loads((output / "obsdiff.json").read_text())["seconds"]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sizes", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    found: dict[int, list[dict[str, float]]] = {size: [] for size in args.sizes}
    with tempfile.TemporaryDirectory() as folder:
        for i in range(args.rounds):
            for size in args.sizes if i % 2 == 0 else reversed(args.sizes):
                found[size].append(seconds(size, Path(folder) / f"{i}-{size}"))
                taken = ", ".join(f"{phase} {found[size][-1][phase]:.1f} s" for phase in PHASES)
                print(f"round {i + 1}, {size} processes: {taken}", flush=True)
    rows = [row(phase, size, found) for phase in PHASES for size in args.sizes]
    RESULTS.write_text(json.dumps({"cores": os.cpu_count(), "rows": rows}, indent=1) + "\n")
    for one in rows:
        print(
            f"{one['phase']}, {one['processes']} processes: {one['seconds']:.1f} s, "
            f"{one['speedup']:.2f} times as fast as one"
        )


def row(phase: str, size: int, found: dict[int, list[dict[str, float]]]) -> dict[str, Any]:
    one = min(found)
    runs = [a[phase] / b[phase] for a, b in zip(found[one], found[size], strict=True)]
    return {
        "phase": phase,
        "processes": size,
        "seconds": median(x[phase] for x in found[size]),
        "speedup": median(runs),
        "runs": runs,
    }


if __name__ == "__main__":
    main()
