"""The command `obsdiff env`: what a bug report needs to say about the machine.

It names no path, user or host.
"""

import argparse
import os
import platform
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from ..runtime.console import put
from ..runtime.extras import EXTRAS, is_installed
from .commands import show_json
from .next_steps import suggest

LIBRARIES = (
    *("obsdiff", "obsdiff-emoji", "torch", "diffusers", "transformers", "accelerate"),
    *("safetensors", "huggingface_hub", "tokenizers", "peft", "numpy", "pillow"),
)
GIB = 2**30


def add_env(p: argparse.ArgumentParser) -> None:
    """Add the arguments of env."""
    p.add_argument("--json", action="store_true", help="print the same as JSON")


def env_command(args: argparse.Namespace) -> None:
    """Print versions, device, cores and memory."""
    found = environment()
    if args.json:
        show_json(found)
        return
    put("\n".join(f"{name:<16}{value}" for name, value in lines_of(found).items()))
    suggest("paste these lines into the bug report, with the command and what it printed")


def environment() -> dict[str, Any]:
    """Return the facts about this machine as JSON values."""
    import psutil

    from ..runtime.version import VERSION

    memory = psutil.virtual_memory()
    return {
        "versions": {"python": platform.python_version()}
        | {name: found for name in LIBRARIES if (found := installed(name))}
        | {"obsdiff": VERSION},
        "extras": {name: is_installed(name) for name in EXTRAS},
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "cores": available_cores(),
        "memory_gib": round(memory.total / GIB, 1),
        "free_memory_gib": round(memory.available / GIB, 1),
    } | computing()


def installed(name: str) -> str | None:
    """Return the version of a distribution; None if it is not installed."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def available_cores() -> int | None:
    """Return the number of cores that this process may use; None if the system can't tell."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count()


def computing() -> dict[str, Any]:
    """Return what torch computes on: threads, devices with their memory, toolkits."""
    import torch

    from ..runtime.device_memory import free_bytes
    from ..runtime.machine import device_name

    kind = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    devices = []
    for index in range(torch.accelerator.device_count() if kind else 0):
        device = torch.device(kind.type, index) if kind else torch.device("cpu")
        free, most = free_bytes(device) or (None, None)
        devices.append(
            {
                "name": device_name(device),
                "gib": most and round(most / GIB, 1),
                "free_gib": free and round(free / GIB, 1),
            }
        )
    toolkits = {"cuda": torch.version.cuda, "hip": torch.version.hip}
    return {
        "threads": torch.get_num_threads(),
        "devices": devices,
        "toolkits": {name: found for name, found in toolkits.items() if found},
    }


def lines_of(found: dict[str, Any]) -> dict[str, str]:
    """Return the facts as lines for people: name -> value."""
    extras = ", ".join(
        f"{name} {'yes' if there else 'no'}" for name, there in found["extras"].items()
    )
    devices = [
        f"{one['name']}, {one['gib']} GiB, {one['free_gib']} free" for one in found["devices"]
    ]
    threads = found["threads"]
    return {
        **found["versions"],
        "extras": extras,
        "system": found["system"],
        "device": "; ".join(devices) or "cpu",
        **found["toolkits"],
        "cores": f"{found['cores'] or 'unknown'}, {threads} thread{'s' if threads != 1 else ''}",
        "memory": f"{found['memory_gib']} GiB, {found['free_memory_gib']} free",
    }
