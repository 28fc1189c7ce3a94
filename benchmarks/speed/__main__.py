"""The cost of pruning compared with plain inference and the plain algorithm (benchmarks/plain), in
one run, interleaved.

    python -m benchmarks.speed [ROW ...] [--rounds 3] [--models sd3-8x768 emoji-unet]  # make bench

Ratios of process CPU time, medians of the rounds. Writes benchmarks/results/speed.json,
speed-phases.json beside it, and docs/speed-*.png; rows that were not requested are unchanged, but
the phases of a model are those of its last run. 24 prompts, 10 steps, guidance on, 50 %
unstructured.
"""

import argparse
import tempfile
from pathlib import Path
from typing import Any

import torch

from . import memory, pieces, whole
from .models import MODELS
from .plots import DOCS, draw_phases, draw_table
from .rows import RESULTS, ROWS, keep_details, keep_rows, table

SMOKE = 24  # micro rows with --smoke are so many times narrower


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "rows", nargs="*", metavar="ROW", help=f"of {', '.join(ROWS)} (default: all)"
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--models", nargs="+", default=list(MODELS), choices=MODELS)
    parser.add_argument(
        "--no-plain", action="store_true", help="whole prunings alone, the plain algorithm left out"
    )
    parser.add_argument(
        "--smoke",
        action="store_true",
        help="tiny sizes, one round: only to see that it runs; nothing is kept",
    )
    args = parser.parse_args(arguments)
    unknown = set(args.rows) - set(ROWS)
    if unknown:
        parser.error(f"no row {', '.join(sorted(unknown))}; there are {', '.join(ROWS)}")
    torch.set_num_threads(args.threads)
    if args.smoke:
        with tempfile.TemporaryDirectory() as folder:
            where = Path(folder), Path(folder)
            run(args.rows or list(ROWS), 1, args.models[:1], 2, SMOKE, *where)
    else:
        size = whole.STEPS, 1, RESULTS, DOCS, not args.no_plain
        run(args.rows or list(ROWS), args.rounds, args.models, *size)


def run(
    names: list[str],
    rounds: int,
    models: list[str],
    steps: int,
    shrink: int,
    results: Path,
    docs: Path,
    with_plain: bool = True,
) -> None:
    """Measure the rows, keep them, draw the plots, print the table."""
    ready = pieces.pieces(shrink)
    for name in names:  # written one by one, so that an interrupted run keeps its rows
        if name in ready:
            keep_rows([pieces.measure(name, ready[name](), rounds)], results)
    if "memory/solve" in names:
        keep_rows([memory.measure(rounds, memory.COLUMNS // shrink)], results)
    pieces.calibrated.cache_clear()
    details: dict[str, dict[str, Any]] = keep_details({}, results)
    for model in models if any(name in whole.CONFIGS for name in names) else ():
        made = MODELS[model](shrink)
        wanted = [name for name in names if name in whole.CONFIGS]
        found = whole.measure(made, wanted, rounds, steps, with_plain)
        details = keep_details(
            {model: whole.details(found) | {"saving": whole.saving(made)}}, results
        )
        rows = whole.rows_of(found)
        print(f"{model}:\n{table(rows)}", flush=True)
        keep_rows(rows, results, model)
    kept = keep_rows([], results)
    print(table(kept))
    draw_table(kept, docs)
    if details:
        draw_phases(details, docs)


if __name__ == "__main__":
    main()
