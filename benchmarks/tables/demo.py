"""The demo (docs/measurements.md), and what its structured pruning saves (README)."""

from pathlib import Path
from typing import Any

from .markdown import BOLD, caption, counted, errors, grid, interval, percent, removed
from .stored import Kept, NotMeasured, agreed, prompts_of, read, row_of, version_of
from .structured import SPEED

OURS = "best"
COMMAND = "make demo && python -m benchmarks.demo obsdiff-demo"
SHARE = 0.2  # structured, that README names
MEASURED = "measured/emoji-unet-three-cpu.json"  # with more prompts than the demo
OF_MEASURED = "emoji-unet-structured"  # its run
EVALUATED = "obsdiff evaluate (docs/community.md)"
STRUCTURED = f"{OURS} structured {percent(SHARE)}"


def which_pruning(folder: Path) -> str:
    """The block of the README; `folder`: benchmarks/results."""
    kept = read(folder / "demo.json", COMMAND)
    cost = row_of(kept, STRUCTURED, COMMAND)["cost"]
    sizes = f"{megabytes(cost, '')} of {megabytes(kept['dense'])}"
    timed = read(folder / "structured-speed.json", SPEED)
    step = next((row for row in timed["rows"] if row["sparsity"] == SHARE), None)
    if step is None:
        raise NotMeasured(SPEED, f"no row of {percent(SHARE)}")
    small = speedup_of(read(folder / MEASURED, EVALUATED)["runs"])
    plain = "plain diffusers"
    return grid(
        ["", "smaller on disk", "faster", "opens with"],
        [
            ["zeros: `--sparsity 0.5`", "no", "no", plain],
            [
                "N:M: `--pattern 2:4`",
                "no",
                "no; a pattern for sparse kernels, none is included",
                plain,
            ],
            [
                "structured: `--pattern structured` (heads, FFN neurons, channels)",
                f"yes: `{kept['model']}` at {percent(SHARE)} {sizes}",
                f"yes, without special kernels: a step of `{kept['model']}` {small:.2f} times, "
                f"of wide SD3 blocks {step['speedup']:.2f}, on a CPU",
                "`import obsdiff`, then plain `from_pretrained`",
            ],
        ],
    )


def speedup_of(runs: list[Kept]) -> float:
    """The measured speed of a step of the run named in `OF_MEASURED`, times dense's.

    Raises:
        NotMeasured: there is none.
    """
    for run in runs:
        if run["name"] == OF_MEASURED and run["config"]["sparsity"] == SHARE:
            return float(run["cost"]["step"]["speedup"])
    raise NotMeasured(EVALUATED, f"no run {OF_MEASURED} of {percent(SHARE)}")


def demo(folder: Path) -> str:
    """The block of docs/measurements.md; `folder`: benchmarks/results."""
    kept = read(folder / "demo.json", COMMAND)
    rows = kept["rows"]
    targets = list(dict.fromkeys(name.partition(" ")[2] for name in rows))
    ways = list(dict.fromkeys(row["way"] for row in rows.values()))
    columns = [errors_of(rows, target) for target in targets]
    ours = [row_of(kept, f"{OURS} {target}", COMMAND) for target in targets]
    head = ["", *(title(target, row) for target, row in zip(targets, ours, strict=True))]
    lines = [[f"`{way}`", *(found.get(way, "") for found in columns)] for way in ways]
    lines.append(["on disk, parameters, MACs", *sizes_of([row["cost"] for row in ours])])
    lines.append(
        [f"speed of a step with `{OURS}`, times dense's", *(speed(row["cost"]) for row in ours)]
    )
    return caption(about(kept)) + "\n\n" + grid(head, lines)


def about(kept: Kept) -> str:
    """The conditions of the demo."""
    calibrated = agreed(
        (row["num_prompts"] for row in kept["rows"].values()), "num_prompts", COMMAND
    )
    return (
        f"`{kept['model']}`, version {version_of(kept)}, {calibrated} calibration prompts, "
        f"{kept['settings']['num_inference_steps']} steps, {counted(kept['threads'], 'thread')}, "
        "all prunings from one dense pass. The error is over "
        f"{prompts_of(kept)} and seeds that were not calibrated on; the speed is the median of the "
        f"rounds' ratios (quartiles). {BOLD}"
    )


def errors_of(rows: dict[str, Kept], target: str) -> dict[str, str]:
    """The cells of one target, by the way in which it was pruned."""
    return errors(
        {row["way"]: row["error"] for name, row in rows.items() if name.partition(" ")[2] == target}
    )


def title(target: str, row: Kept) -> str:
    """The head of a column: "50 % unstructured", "2:4", or "structured 30 %: 8 of 20 heads"."""
    if row["pattern"] == "unstructured":
        return f"{target} unstructured"
    gone = removed(row["cost"])
    return f"{target}: {gone}" if gone else target


def sizes_of(costs: list[dict[str, Any]]) -> list[str]:
    """Size on disk, parameters and MACs of each cost; "the same" as in the cell before."""
    cells = [
        f"{megabytes(cost)}, {cost['parameters'] / 1e6:.2f} M, {cost['macs']['total'] / 1e9:.2f} G"
        for cost in costs
    ]
    return ["the same" if i and cell == cells[i - 1] else cell for i, cell in enumerate(cells)]


def megabytes(cost: dict[str, Any], unit: str = " MB") -> str:
    return f"{cost['bytes_on_disk'] / 1e6:.1f}{unit}"


def speed(cost: dict[str, Any]) -> str:
    return interval(cost["step"], "speedup", 2)
