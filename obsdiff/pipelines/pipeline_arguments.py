"""The components that a pipeline class of diffusers takes, read from its source, not imported.

Checks of a folder come before diffusers is imported, which takes seconds. Imports no torch.
"""

import ast
import re
from collections.abc import Iterator
from functools import cache
from importlib.util import find_spec
from pathlib import Path

CLASS = re.compile(r"^class (\w+)\b", re.MULTILINE)


@cache
def pipelines_folder() -> Path | None:
    """Return the folder of diffusers' pipelines; None if diffusers is not installed."""
    spec = find_spec("diffusers")
    places = spec.submodule_search_locations if spec else None
    return Path(places[0]) / "pipelines" if places else None


def has_pipeline_module(name: str) -> bool:
    """Return whether diffusers has a pipeline module of that name, such as stable_diffusion."""
    folder = pipelines_folder()
    return folder is not None and name.isidentifier() and (folder / name / "__init__.py").is_file()


@cache
def class_files() -> dict[str, Path]:
    """Return the file of each class in diffusers' pipelines, by the class's name."""
    folder = pipelines_folder()
    files = sorted(folder.glob("**/*.py")) if folder else []
    return {name: file for file in files for name in CLASS.findall(file.read_text("utf-8"))}


@cache
def taken_components(pipeline: str) -> frozenset[str] | None:
    """Return the names of the arguments of a pipeline class; None if they are not known.

    Args:
        pipeline: the name of the class.
    """
    for name in class_and_bases(pipeline):
        found = own_arguments(name)
        if found is not None:
            return found
    return None


def class_and_bases(name: str) -> Iterator[str]:
    """Yield a class of diffusers' pipelines and its bases there, nearest first."""
    waiting, seen = [name], set()
    while waiting:
        name = waiting.pop(0)
        if name in seen or name not in class_files():
            continue
        seen.add(name)
        yield name
        waiting += [base.id for base in definition(name).bases if isinstance(base, ast.Name)]


@cache
def definition(name: str) -> ast.ClassDef:
    """Return the definition of a class of diffusers' pipelines."""
    tree = ast.parse(class_files()[name].read_text("utf-8"))
    return next(n for n in tree.body if isinstance(n, ast.ClassDef) and n.name == name)


def own_arguments(name: str) -> frozenset[str] | None:
    """Return the arguments of a class's own constructor; None if it has none, or takes any."""
    for node in definition(name).body:
        if isinstance(node, ast.FunctionDef) and node.name == "__init__":
            if node.args.kwarg or node.args.vararg:
                return None
            arguments = (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)
            return frozenset(argument.arg for argument in arguments) - {"self"}
    return None
