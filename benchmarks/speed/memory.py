"""Peak memory of one solve in a process of its own: `python -m benchmarks.speed.memory ours|plain
unstructured|structured [COLUMNS]`.

An FFN down projection, 6,144 columns. Counted is all memory of the process beyond the weights, from
before the Hessian is allocated until the pruned weight is written, in units of the Hessian in its
own dtype.
"""

import json
import subprocess
import sys
from typing import Any

import torch
from torch import nn

from benchmarks.plain.hessian import RunningHessian
from benchmarks.plain.solve import solve
from benchmarks.plain.structured import remove_parts
from obsdiff import PruningConfig
from obsdiff.calibration.calibrated_input import CalibratedInput
from obsdiff.calibration.groups import counted_groups
from obsdiff.calibration.hessian import Hessian
from obsdiff.layerwise.linear import prune_layers_
from obsdiff.layerwise.structured import prune_structured_
from obsdiff.layerwise.tasks import Allocation, Task
from obsdiff.models.structure import Group, Tap

from .clock import forget_peak, peak, status
from .rows import ROWS

COLUMNS = 6144
UP, DOWN = "ff.net.0", "ff.net.1"
TAP = Tap((DOWN,), "ffn")
NEURONS = Group("neurons", "ff", (UP,), (DOWN,))


def in_child(way: str, kind: str, columns: int = COLUMNS) -> float:
    """Peak over Hessian, measured in a fresh process."""
    command = [sys.executable, "-m", "benchmarks.speed.memory", way, kind, str(columns)]
    return json.loads(
        subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()[-1]
    )


def measure(rounds: int, columns: int = COLUMNS) -> dict[str, Any]:
    """The row of the table: the worse of both kinds in each round."""
    kinds, name = ("unstructured", "structured"), "memory/solve"
    plain = {kind: in_child("plain", kind, columns) for kind in kinds}
    ours = [{kind: in_child("ours", kind, columns) for kind in kinds} for _ in range(rounds)]
    for kind in kinds:
        found = " ".join(f"{one[kind]:.2f}" for one in ours)
        print(
            f"{name}, {kind}: plain {plain[kind]:.2f}, obsdiff {found} times the Hessian",
            flush=True,
        )
    runs = [max(one.values()) for one in ours]
    return {
        "name": name,
        "value": sorted(runs)[len(runs) // 2],
        "target": ROWS[name].target,
        "plain": max(plain.values()),
        "runs": runs,
    }


def ffn(columns: int) -> nn.Module:
    torch.manual_seed(0)
    model = nn.Module()
    model.ff = nn.Module()
    model.ff.net = nn.ModuleList(
        [nn.Linear(columns // 4, columns, bias=False), nn.Linear(columns, columns // 4, bias=False)]
    )
    return model


def run(way: str, kind: str, columns: int) -> float:
    """Peak over Hessian of one solve."""
    model = ffn(columns)
    before = status("VmRSS")
    hessian = Hessian.zeros(columns) if way == "ours" else RunningHessian(columns)
    fill(hessian, columns)
    size = 4 * columns * columns
    forget_peak()
    if way == "ours":
        ours_(model, hessian, kind)
    else:
        plain_(model, hessian, kind)
    return (peak() - before) / size


def fill(hessian: Hessian | RunningHessian, columns: int) -> None:
    g = torch.Generator().manual_seed(0)
    for _ in range(4):
        x = torch.randn(256, columns, generator=g)
        hessian.update(x.unsqueeze(0) if isinstance(hessian, RunningHessian) else x)


def ours_(model: nn.Module, hessian: Hessian, kind: str) -> None:
    """Solve with the code that prune_ runs."""
    config, groups = PruningConfig(), []
    if kind == "structured":
        config = PruningConfig(pattern="structured", sparsity=0.25)
        groups = counted_groups(model, [NEURONS], config)
    task = Task(0, 0, (TAP,), tuple(groups))
    prune_task_ = prune_structured_ if groups else prune_layers_
    prune_task_(model, {TAP: CalibratedInput(hessian)}, config, Allocation(), task)


@torch.no_grad()
def plain_(model: nn.Module, hessian: RunningHessian, kind: str) -> None:
    weight = model.get_submodule(DOWN).weight.detach()
    columns = weight.shape[1]
    if kind == "structured":  # one group is enough: the memory is that of the inversion
        parts = list(torch.arange(columns).split(1))
        weight.copy_(remove_parts([(weight, hessian.matrix)], parts, 8, heads=False)[1][0])
    else:
        weight.copy_(solve(weight, hessian.matrix, 0.5))


if __name__ == "__main__":
    torch.set_num_threads(2)
    run(*sys.argv[1:3], 256)  # loads libraries and starts threads before the measurement
    print(json.dumps(run(*sys.argv[1:3], int(sys.argv[3]))))
