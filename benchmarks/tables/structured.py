"""docs/measurements.md: quality, speed and solve time of structured pruning."""

from pathlib import Path

from .markdown import BOLD, caption, change, counted, errors, grid, interval, percent, removed
from .stored import Kept, NotMeasured, prompts_of, read, version_of

QUALITY = (
    "python -m benchmarks.structured_quality --num-prompts 8 --num-inference-steps 10 "
    "--evaluation-prompts 24"
)
SPEED = "python -m benchmarks.structured_speed"
BLOCK_SPEED = (
    "python -m benchmarks.structured_speed --width 2432 --blocks 2 --sparsity 0.15 0.2 0.25 0.3 "
    "--rounds 7 --output benchmarks/results/block-speed.json"
)
# one block of SD3.5-large, 4 pictures of 1024 x 1024 (the paper's Table 5)
PAPERS_SPEED = {0.15: 1.03, 0.2: 1.20, 0.25: 1.29, 0.3: 1.31}
SOLVE = "python -m benchmarks.structured_solve"
WAYS = {  # of structured_quality.py
    "obs": "`obs`",
    "obs, no compensation": "`obs --no-compensation`",
    "l1": "`l1`",
    "random": "`random`",
}
PREFIX = {"linear": "", "attention": "heads alone, ", "ffn": "neurons alone, "}
PLAIN = {"plain": "`torch.linalg.inv`", "plain, Cholesky": "inverting by a Cholesky factor"}


def quality(folder: Path) -> str:
    """The block structured-quality; `folder`: benchmarks/results."""
    kept = read(folder / "structured-quality.json", QUALITY)
    if len(kept["rows"]) < kept["cases"]:
        raise NotMeasured(kept["command"], f"{len(kept['rows'])} of {kept['cases']} rows")
    text = (
        f"`{kept['command']}`: the error of `{kept['model']}`, version {version_of(kept)}, over "
        f"{prompts_of(kept)}; `obs` prunes in {counted(kept['packages'], 'package')}. {BOLD}"
    )
    cases = list(dict.fromkeys((row["target"], row["sparsity"]) for row in kept["rows"]))
    found = {(row["target"], row["sparsity"], row["way"]): row for row in kept["rows"]}
    ways = [way for way in WAYS if any(row["way"] == way for row in kept["rows"])]
    lines = []
    for case in cases:
        rows = {way: found[*case, way] for way in ways if (*case, way) in found}
        lines.append(quality_line(case, rows, ways))
    head = ["heads and neurons", "removed", "parameters, MACs", *(WAYS[way] for way in ways)]
    return caption(text) + "\n\n" + grid(head, lines)


def quality_line(case: tuple[str, float], rows: dict[str, Kept], ways: list[str]) -> list[str]:
    """The line of one target and sparsity; all ways remove the same number of heads and neurons."""
    target, sparsity = case
    first = next(iter(rows.values()))
    cost = ", ".join(change(**first[key]) for key in ("parameters", "macs"))
    cells = errors({way: row["error"] for way, row in rows.items()})
    return [
        f"{PREFIX[target]}{percent(sparsity)}",
        removed(first),
        cost,
        *(cells.get(way, "") for way in ways),
    ]


def speed(folder: Path) -> str:
    """The block structured-speed; `folder`: benchmarks/results."""
    kept = read(folder / "structured-speed.json", SPEED)
    head, lines = speed_grid(kept)
    return about_speed(kept) + "\n\n" + grid(head, lines)


def block_speed(folder: Path) -> str:
    """The block block-speed, as `speed`, with the paper's figures of one GPU beside ours."""
    kept = read(folder / "block-speed.json", BLOCK_SPEED)
    head, lines = speed_grid(kept)
    beside = [
        [*line, f"{PAPERS_SPEED[row['sparsity']]:.2f}"]
        for line, row in zip(lines, kept["rows"], strict=True)
    ]
    return about_speed(kept) + "\n\n" + grid([*head, "the paper, one GPU"], beside)


def about_speed(kept: Kept) -> str:
    """The caption of a table of speeds."""
    return caption(
        f"`{kept['command']}`: one denoiser step of an SD3 transformer, width {kept['width']:,}, "
        f"{kept['tokens']:,} image and {kept['text_tokens']:,} text tokens, "
        f"{counted(kept['blocks'], 'block')}, all pruned, float32, "
        f"{counted(kept['threads'], 'thread')}. Dense and pruned are timed in "
        "turn; the figure is the median of the rounds' ratios (quartiles)."
    )


def speed_grid(kept: Kept) -> tuple[list[str], list[list[str]]]:
    """The head and the lines of a table of speeds."""
    several = len({row["round_to"] for row in kept["rows"]}) > 1
    lines = [
        [
            percent(row["sparsity"]) + (f", `--round-to {row['round_to']}`" if several else ""),
            removed(row),
            f"{row['macs_ratio']:.2f}",
            interval(row, "speedup", 2),
            f"{row['share']:.2f}",
        ]
        for row in kept["rows"]
    ]
    return ["", "removed", "MACs ratio", "measured", "share of what the MACs promise"], lines


def solve(folder: Path) -> str:
    """The block structured-solve; `folder`: benchmarks/results."""
    kept = read(folder / "structured-solve.json", SOLVE)
    rows = kept["rows"]
    same, count = (sum(row[key] for row in rows) for key in ("same", "count"))
    which = (
        "the removed heads and neurons are the same"
        if same == count
        else f"{same:,} of {count:,} removed heads and neurons are the same"
    )
    difference = f"{max(row['weights'] for row in rows):.0e}".replace("e-0", "e-")
    text = (
        f"`{kept['command']}`, {kept['dtype']}, {counted(kept['threads'], 'thread')}, median of "
        f"{counted(kept['rounds'], 'round')}: {which} as with the remaining "
        "Hessian inverted anew for every removal; the weights differ by at most "
        f"{difference} (relative)."
    )
    lines = [
        [
            f"{row['case']}, {row['count']:,} removed",
            *(f"{row[way]['ratio']:.1f} times" for way in PLAIN),
        ]
        for row in rows
    ]
    first, second = PLAIN.values()
    head = ["", f"faster than {first}", f"than {second}"]
    return caption(text) + "\n\n" + grid(head, lines)
