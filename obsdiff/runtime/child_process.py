"""Start Python processes that import nothing from the working folder.

`python -m` and an empty entry of PYTHONPATH put the working folder on the import path. It may be a
downloaded checkpoint, in which a json.py or torch.py would run.
"""

import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]  # the folder that has the package
# the package's folder comes last, so that nothing beside the package hides another module
START = (
    "import runpy, sys; sys.path.append(sys.argv.pop(1)); "
    "runpy.run_module(sys.argv.pop(1), run_name='__main__', alter_sys=True)"
)


def python_command(module: str, *arguments: str) -> list[str]:
    """Return the command that runs a module of this package in a process of its own.

    Args:
        module: its dotted name.
        arguments: its arguments.
    """
    return [sys.executable, "-P", "-c", START, str(ROOT), module, *arguments]


def child_environment() -> dict[str, str]:
    """Return this process's environment, with a search path that the working folder does not move.

    Relative and empty entries of PYTHONPATH are left out.
    """
    environment = dict(os.environ) | {"PYTHONSAFEPATH": "1"}
    places = environment.pop("PYTHONPATH", "").split(os.pathsep)
    if fixed := [place for place in places if os.path.isabs(place)]:
        environment["PYTHONPATH"] = os.pathsep.join(fixed)
    return environment
