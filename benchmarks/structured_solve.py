"""Solve time of structured pruning against plain re-inversion, interleaved in one run, medians.

    python -m benchmarks.structured_solve [--columns 6144] [--rows 1536] [--rounds 3]
        [--dtype float32] [--output FILE]

All remove the same heads and neurons; the table shows the difference of their weights. Plain
(benchmarks/plain/structured.py): for every head, or group of neurons, the Hessian of the remaining
columns is inverted again by torch.linalg.inv or, faster, by a Cholesky factor. Writes
benchmarks/results/structured-solve.json.
"""

import argparse
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median

import torch
from torch import Tensor

from obsdiff.runtime.json_files import write_json
from obsdiff.runtime.timing import interleaved
from obsdiff.solvers.obs_structured import Consumer, obs_heads, obs_neurons

from .conditions import RESULTS, conditions
from .plain.solve import DAMPING
from .plain.structured import by_cholesky
from .plain.structured import remove_parts as plain


def problem(rows: int, columns: int, dtype: torch.dtype, seed: int) -> tuple[Tensor, Tensor]:
    """A weight (O, I) and the Hessian (I, I) of correlated inputs."""
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(2 * columns, columns, generator=g) @ (
        torch.eye(columns) + torch.randn(columns, columns, generator=g) / columns**0.5
    )
    return torch.randn(rows, columns, generator=g).to(dtype), (2 * x.T @ x / len(x)).to(dtype)


def ours(
    streams: list[tuple[Tensor, Tensor]], parts: list[Tensor], count: int, heads: bool
) -> tuple[list[int], list[Tensor]]:
    consumers = [Consumer.begin(w, h, DAMPING) for w, h in streams]
    removed, _ = (
        obs_heads(consumers, parts, count)
        if heads
        else obs_neurons(consumers[0], torch.cat(parts), count)
    )
    return removed, [c.weight for c in consumers]


WAYS: dict[str, Callable] = {
    "plain": plain,
    "plain, Cholesky": partial(plain, invert=by_cholesky),
    "ours": ours,
}


def compare(
    name: str,
    streams: list[tuple[Tensor, Tensor]],
    parts: list[Tensor],
    count: int,
    heads: bool,
    rounds: int,
) -> dict:
    answers: dict[str, tuple] = {}

    def call(way: str) -> None:
        answers[way] = WAYS[way](streams, parts, count, heads)

    seconds = interleaved({way: partial(call, way) for way in WAYS}, rounds, warmup=0)
    row = {"case": name, "count": count, "seconds": seconds}
    for way in ("plain", "plain, Cholesky"):
        ratios = sorted(p / o for p, o in zip(seconds[way], seconds["ours"], strict=True))
        row[way] = {"ratio": median(ratios), "low": ratios[0], "high": ratios[-1]}
    (removed, weights), (other, expected) = answers["ours"], answers["plain"]
    row["weights"] = max(
        ((w - e).norm() / e.norm()).item() for w, e in zip(weights, expected, strict=True)
    )
    row["same"] = len(set(removed) & set(other))
    against = ", ".join(
        f"{row[way]['ratio']:.1f}x ({row[way]['low']:.1f} to {row[way]['high']:.1f}) against {way}"
        for way in ("plain", "plain, Cholesky")
    )
    print(
        f"{f'{name}, {count} removed':44} {median(seconds['ours']):6.2f} s, {against}; "
        f"{row['same']} of {count} the same, weights differ {row['weights']:.1e}",
        flush=True,
    )
    return row


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--columns", type=int, default=6144)
    parser.add_argument("--rows", type=int, default=1536)
    parser.add_argument("--heads", type=int, default=24)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--dtype", default="float32", choices=("float32", "float64"))
    parser.add_argument("--output", type=Path, default=RESULTS / "structured-solve.json")
    args = parser.parse_args()
    dtype, began = getattr(torch, args.dtype), time.perf_counter()
    streams = [problem(args.rows, 64 * args.heads, dtype, seed) for seed in (0, 1)]
    parts = list(torch.arange(64 * args.heads).split(64))
    rows = []
    for share in (0.25, 0.5):
        count = int(share * args.heads + 0.5)
        rows.append(
            compare(
                f"{args.heads} heads of 64 in two streams",
                streams,
                parts,
                count,
                True,
                args.rounds,
            )
        )
    one = [problem(args.rows, args.columns, dtype, 2)]
    rows.append(
        compare(
            f"{args.columns:,} neurons",
            one,
            list(torch.arange(args.columns).split(1)),
            args.columns // 4,
            False,
            args.rounds,
        )
    )
    print(f"{args.dtype}, {torch.get_num_threads()} threads, {time.perf_counter() - began:.0f} s")
    about = conditions("benchmarks.structured_solve")
    about |= {"dtype": args.dtype, "rounds": args.rounds}
    write_json(args.output, about | {"rows": rows})


if __name__ == "__main__":
    main()
