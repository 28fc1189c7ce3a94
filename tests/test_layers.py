"""The order of the wings: imports go down only, in no circle, and the checks load nothing heavy.
And the trees of the documentation: docs/house.md lists every file."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "obsdiff"

# From the ground up: a wing imports only itself and the wings of the lines before its own.
ORDER = [
    {"errors"},
    {"config", "models", "runtime", "solvers"},
    {"pipelines"},
    {"calibration", "evaluation", "export"},
    {"layerwise"},
    {"allocation"},
    {"prune"},
    {"cli"},
    {"__main__", "__init__"},
]
FLOOR = {wing: floor for floor, wings in enumerate(ORDER) for wing in wings}
HEAVY = {"torch", "diffusers", "transformers", "numpy", "matplotlib", "accelerate"}
FILES = sorted(PACKAGE.rglob("*.py"))


def parts_of(file: Path) -> tuple[str, ...]:
    """The dotted name of a file below the package, without __init__."""
    parts = file.relative_to(PACKAGE).with_suffix("").parts
    return parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts


def imports(file: Path) -> Iterator[tuple[str, ...]]:
    """The modules of the package that a file imports, anywhere in it."""
    package = file.relative_to(PACKAGE).parent.parts
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = package[: len(package) - node.level + 1]
            module = base + tuple(node.module.split(".") if node.module else ())
            for alias in node.names:
                below = PACKAGE.joinpath(*module, alias.name)
                is_module = below.with_suffix(".py").is_file() or below.is_dir()
                yield (*module, alias.name) if is_module and len(module) else module
        elif isinstance(node, ast.Import):
            yield from (
                tuple(alias.name.split(".")[1:])
                for alias in node.names
                if alias.name.startswith("obsdiff.")
            )
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("obsdiff"):
            yield tuple(node.module.split(".")[1:])


GRAPH = {parts_of(file): set(imports(file)) - {parts_of(file)} for file in FILES}


def test_every_import_is_of_a_file_that_is_there():
    assert {module for targets in GRAPH.values() for module in targets} <= set(GRAPH)
    assert len(GRAPH) == len(FILES) > 100


@pytest.mark.parametrize("module", GRAPH, ids=".".join)
def test_imports_go_down(module):
    assert module[0] in FLOOR, f"give {module[0]} its place in ORDER"
    up = {
        ".".join(other)
        for other in GRAPH[module]
        if other[0] != module[0] and FLOOR[other[0]] >= FLOOR[module[0]]
    }
    assert not up, f"{'.'.join(module)} imports upward: {up}"


def circle_of(graph: dict[tuple[str, ...], set[tuple[str, ...]]]) -> list[str]:
    """The files of one circle of imports; empty if there is none."""
    left = dict(graph)
    while free := [module for module, targets in left.items() if not targets & set(left)]:
        for module in free:
            del left[module]
    return sorted(".".join(module) for module in left)


def test_no_circle_of_files():
    # an __init__.py re-exports names of its own wing, and no file of a wing imports its __init__.py
    assert circle_of(GRAPH) == []


def test_a_circle_would_be_found():
    assert circle_of({("a",): {("b",)}, ("b",): {("a",)}, ("c",): {("a",)}}) == ["a", "b", "c"]


@pytest.mark.parametrize("file", sorted((PACKAGE / "solvers").glob("*.py")), ids=lambda f: f.name)
def test_solvers_import_errors_alone(file):
    assert {module[0] for module in imports(file)} <= {"errors", "solvers"}
    nodes = [n for n in ast.walk(ast.parse(file.read_text())) if not isinstance(n, ast.Module)]
    lines = [ast.unparse(n) for n in nodes if isinstance(n, ast.Import | ast.ImportFrom)]
    assert not [line for line in lines if "diffusers" in line or "torch.nn" in line]


def loaded_by(code: str) -> str:
    """Which heavy modules are loaded after some imports, in a new process."""
    code += f"; import sys; print(sorted(set(sys.modules) & {HEAVY}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.strip()


@pytest.mark.slow
def test_checks_load_nothing_heavy():
    assert loaded_by("import obsdiff.cli.main as m, obsdiff.cli.commands; m.parser()") == "[]"


def test_the_report_imports_no_torch():
    reached, left = set(), [m for m in GRAPH if m[:2] == ("evaluation", "report")]
    assert left
    while left:
        module = left.pop()
        if module not in reached:
            reached.add(module)
            left += GRAPH[module]
    for module in reached:
        file = PACKAGE.joinpath(*module)
        file = file / "__init__.py" if file.is_dir() else file.with_suffix(".py")
        for node in ast.walk(ast.parse(file.read_text())):
            names = (
                [alias.name for alias in node.names]
                if isinstance(node, ast.Import)
                else [node.module or ""]
                if isinstance(node, ast.ImportFrom) and not node.level
                else []
            )
            assert not [n for n in names if n.split(".")[0] == "torch"], file


README_LINES = 15  # of its tree


def blocks_of(text: str) -> list[list[str]]:
    """The lines of every fenced block of a Markdown text."""
    return [block.splitlines()[1:] for block in text.split("```")[1::2]]


def tree_of(text: str) -> list[str]:
    """The lines of the block that begins with `obsdiff/`."""
    (tree,) = [lines for lines in blocks_of(text) if lines[0].split()[0] == "obsdiff/"]
    return tree


def paths_in(tree: list[str]) -> set[str]:
    """The .py files that a tree lists: two spaces a level, folders end with a slash."""
    found, folders = set(), []
    for line in tree:
        name = line.split()[0]
        level, odd = divmod(len(line) - len(line.lstrip()), 2)
        assert not odd, f"expected two spaces a level: {line}"
        assert level <= len(folders), f"expected a folder above: {line}"
        folders[level:] = [name] if name.endswith("/") else []
        if name.endswith(".py"):
            path = "".join(folders) + name
            assert path not in found, f"{path} is listed twice"
            found.add(path)
    return found


def is_one_docstring(file: Path) -> bool:
    """Whether a file has no code: an `__init__.py` like that need not be listed."""
    return all(isinstance(node, ast.Expr) for node in ast.parse(file.read_text()).body)


def test_the_tree_of_the_house_lists_every_file():
    listed = paths_in(tree_of((ROOT / "docs" / "house.md").read_text(encoding="utf-8")))
    files = {str(file.relative_to(ROOT)): file for file in FILES}
    missing = {
        path
        for path, file in files.items()
        if path not in listed and not (file.name == "__init__.py" and is_one_docstring(file))
    }
    assert not missing, f"docs/house.md does not list {sorted(missing)}"
    assert listed <= set(files), f"no such files: {sorted(listed - set(files))}"


def test_the_tree_of_the_readme_is_short():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    trees = [lines for lines in blocks_of(text) if lines and lines[0].startswith("obsdiff/")]
    assert trees
    assert max(map(len, trees)) <= README_LINES


@pytest.mark.parametrize(
    ("tree", "found"),
    [
        (["obsdiff/", "  a.py  one", "  b/  two", "    c.py", "  d.py"], "a.py b/c.py d.py"),
        (["obsdiff/", "  b/", "    c/", "      d.py", "    e.py"], "b/c/d.py b/e.py"),
    ],
)
def test_a_tree_is_read_by_its_indentation(tree, found):
    assert paths_in(tree) == {f"obsdiff/{path}" for path in found.split()}
