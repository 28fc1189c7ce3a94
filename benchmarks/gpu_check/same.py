"""Whether the device finds what a CPU finds, and the same when it runs again."""

import time
from typing import Any

import torch

from obsdiff import PruningConfig
from obsdiff.runtime.machine import synchronise

from .check import Check
from .emoji import difference, masks, pruned
from .measurement import tf32

CASES: dict[str, dict[str, Any]] = {
    "obs": {"calibration": "single"},
    "replay": {"calibration": "replay", "packages": 2},
    "structured": {"calibration": "single", "pattern": "structured", "sparsity": 0.3},
    "alps": {"calibration": "single", "method": "alps", "blocks": "1-1"},
}
SLOW = ("alps",)  # half a minute a run on a slow CPU
ALLOWED = {"obs": 5e-4, "alps": 2e-2, "replay": 3e-3, "structured": 0.02}
WITH_TF32 = ("obs", "alps")


def same_as_a_cpu(check: Check) -> None:
    """emoji-sd3 in float32 from the same noise on the CPU and here: masks and layer errors."""
    count = 2 if check.tiny else 4
    few = {"num_prompts": count, "num_inference_steps": count}
    few |= {"blocks": "1-1"} if check.tiny else {}
    for name, case in CASES.items():
        if check.tiny and name in SLOW:
            continue
        with check.recorded_errors("same", name):
            same_in(check, name, PruningConfig(**few | case))


def same_in(check: Check, name: str, config: PruningConfig) -> None:
    """One case of `same_as_a_cpu`."""
    began = time.perf_counter()
    cpu, on_cpu = pruned("emoji-sd3", "cpu", "float32", config)
    took_cpu = time.perf_counter() - began
    began = time.perf_counter()
    here, on_gpu = pruned("emoji-sd3", check.device, "float32", config)
    synchronise()
    took = time.perf_counter() - began
    if name == "structured":
        share = removed_otherwise(on_cpu, on_gpu)
        what = "share of removed heads and neurons that differ from the CPU's"
    else:
        share = difference(masks(cpu, on_cpu), masks(here, on_gpu))
        what = "share of mask entries that differ from the CPU's"
    allowed = ALLOWED[name]
    check.figure("same", f"{name}: {what}", share, f"<= {allowed:g}", share <= allowed)
    pairs = list(zip(on_cpu.layers, on_gpu.layers, strict=True))
    worst = max(abs(x.error - y.error) / max(x.error, 1e-9) for x, y in pairs)
    what = f"{name}: largest relative difference of a layer error"
    check.figure("same", what, worst, "<= 0.02", worst <= 0.02)
    check.figure("same", f"{name}: seconds on the CPU and here", f"{took_cpu:.1f}, {took:.1f}")
    if name == "obs":
        same_twice(check, here, config)
    if name in WITH_TF32:
        same_with_tf32(check, name, cpu, on_cpu, config)


def removed_otherwise(report: Any, other: Any) -> float:
    """The heads and neurons that only one of two prunings removed, per head or neuron removed."""
    gone, gone_there = (
        {(g.owner, g.kind): set(g.removed) for g in r.groups} for r in (report, other)
    )
    differ = sum(len(gone[k] ^ gone_there[k]) for k in gone)
    return differ / max(1, sum(len(v) for v in gone.values()))


def same_twice(check: Check, here: Any, config: PruningConfig) -> None:
    """Whether a second run on this device has the same bits."""
    again, report = pruned("emoji-sd3", check.device, "float32", config)
    pairs = (
        [pipe.transformer.get_submodule(r.name).weight for pipe in (here, again)]
        for r in report.layers
    )
    equal = all(torch.equal(a, b) for a, b in pairs)
    check.figure("same", "obs twice on this device: the same bits", equal, "True", equal)


def same_with_tf32(check: Check, name: str, cpu: Any, on_cpu: Any, config: PruningConfig) -> None:
    """What the user's switch to TF32 changes."""
    with tf32(True):
        other, report = pruned("emoji-sd3", check.device, "float32", config)
    what = f"{name} with the user's TF32 on"
    share = difference(masks(cpu, on_cpu), masks(other, report))
    expected = "as without TF32; if it counts in the solver: obs 5e-4, alps 6e-2"
    check.figure("same", f"{what}: share of mask entries that differ", share, expected)
    pairs = zip(on_cpu.layers, report.layers, strict=True)
    more = max(y.error / max(x.error, 1e-9) for x, y in pairs)
    check.figure("same", f"{what}: largest factor of a layer error", more, "<= 1.02", more <= 1.02)
