"""Imports go down only, and the command line's checks need nothing heavy."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "obsdiff"

# from the ground up; a file may import only from the lines before its own, or from its own line
FLOORS = [
    ["errors", "apart", "builtin", "stored", "blocks", "convolutions", "choices"],
    [
        "checks",
        "replaceable",
        "config",
        "step_weights",
        "hessian",
        "metrics",
        "solvers",
        "macs",
        "timing",
        "comparison",
        "record",
        "table",
        "unfolding",
        "biases",
        "store",
        "own_memory",
        "ranks",
        "hashes",
        "arguments",
        "allocation",
        "knapsack",
        "prices",
    ],
    ["architectures", "folder", "progress", "running"],
    ["single_file", "loading"],
    [
        "recording",
        "parking",
        "unfinished",
        "packages",
        "settings",
        "surgery",
        "card",
        "drawing",
        "judges",
    ],
    ["calibration", "chain"],
    ["trajectory"],
    ["dense_stream"],
    ["replay"],
    ["gathering"],
    ["sensitivity"],
    ["report_schema", "page_merge"],
    ["page_config", "page_pictures"],
    ["page_tables"],
    ["page_points"],
    ["page_plots"],
    ["report"],
    ["held_out", "aims"],
    ["prune_structured", "adapters", "pruned_models"],
    ["meta"],
    ["savings"],
    ["structured_sensitivity", "permuting"],
    ["job", "pieces"],
    ["dense", "journal"],
    ["solve"],
    ["costs", "paper_count"],
    ["prediction"],
    ["latency", "latency_table"],
    ["budget"],
    ["checkpoint", "inspection", "prune"],
    ["peak_memory"],
    ["verify"],
    ["evaluate"],
    ["demo"],
    ["commands"],
    ["prune_command"],
    ["cli"],
    ["__main__"],
]
FLOOR = {name: i for i, names in enumerate(FLOORS) for name in names}
HEAVY = {"torch", "diffusers", "transformers", "numpy", "matplotlib", "accelerate"}


def imports(file: Path) -> set[str]:
    """Modules of the package that a file imports, anywhere in it."""
    found = set()
    depth = len(file.relative_to(PACKAGE).parts)
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ImportFrom) and node.level == depth:
            found |= (
                {node.module.split(".")[0]} if node.module else {alias.name for alias in node.names}
            )
    return found


@pytest.mark.parametrize(
    "file", sorted(PACKAGE.rglob("*.py")), ids=lambda f: str(f.relative_to(PACKAGE))
)
def test_imports_go_down(file):
    name = file.relative_to(PACKAGE).parts[0].removesuffix(".py")
    if name == "__init__":
        return
    assert name in FLOOR, f"give {name} its floor in FLOORS"
    above = {other for other in imports(file) - {name} if FLOOR[other] > FLOOR[name]}
    assert not above, f"{name} imports upward: {above}"


@pytest.mark.parametrize("file", sorted((PACKAGE / "solvers").glob("*.py")), ids=lambda f: f.name)
def test_solvers_see_tensors_alone(file):
    assert not {"architectures", "config", "running", "folder"} & imports(file)
    lines = [
        ast.unparse(n)
        for n in ast.walk(ast.parse(file.read_text()))
        if isinstance(n, ast.Import | ast.ImportFrom)
    ]
    assert not [line for line in lines if "diffusers" in line or "torch.nn" in line]


def test_checks_need_nothing_heavy():
    code = (
        "import sys, obsdiff.cli, obsdiff.commands; obsdiff.cli.parser(); print(sorted(set(sys.modules) & {"
        + ",".join(map(repr, HEAVY))
        + "}))"
    )
    assert (
        subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True
        ).stdout.strip()
        == "[]"
    )
