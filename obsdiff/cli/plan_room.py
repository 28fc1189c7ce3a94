"""What a run needs of the card, of memory and of the disk, and what there is; bytes."""

from dataclasses import replace
from pathlib import Path

import torch

from ..calibration.device_plan import RESERVE, DevicePlan
from ..calibration.packages import GIB
from ..config import PruningConfig
from ..errors import UserError
from ..pipelines.folder import Folder
from ..runtime.disk import free_disk
from .device_memory import built, component_bytes, format_of
from .inspect import stored_parameters
from .plan_advice import advice_of, uncounted_of
from .plan_outcomes import parameters_of
from .run_plan import CardRow, PartRow, PhaseRow, RoomRow

HALF = ("float16", "bfloat16")
SHARE_OF_FREE = 0.5  # of the free memory that Hessians take before they rest in files


def part_rows(folder: Folder, component: str, config: PruningConfig) -> list[PartRow]:
    """Return the components with weights, the denoiser first, then the largest."""
    rows = []
    for name, tensors in folder.components.items():
        if name == component:
            found: int | None = stored_parameters(folder, name)
        elif tensors.shapes:
            found = parameters_of(tensors.shapes)
        else:
            model = built(folder, name)
            found = sum(p.numel() for p in model.parameters()) if model else None
        dtype = format_of(folder, name, config)
        size = tensors.size if tensors.size and config.dtype is None else 0
        size = size or component_bytes(folder, name, config)
        rows.append(PartRow(name, found, size, str(dtype).removeprefix("torch.")))
    return sorted(rows, key=lambda row: (row.name != component, -row.bytes))


def computed_on_cpu(folder: Folder, component: str, config: PruningConfig) -> PruningConfig:
    """Return the config with the format in which a CPU computes: float32 for stored halves."""
    stored = folder.components[component].dtype or "bfloat16"
    return replace(config, dtype="float32") if config.dtype is None and stored in HALF else config


def phase_rows(plan: DevicePlan, offload: str, hessians: bool) -> list[PhaseRow]:
    """Return what lies on the device in each phase, by kinds.

    Args:
        plan: what a pruning needs.
        offload: one of OFFLOADS.
        hessians: whether the Hessians lie there.
    """
    gradients = None if plan.gradients is None else 0
    still = replace(plan, activations=0, solving=0, changes=0, gradients=gradients, apart=0)
    weights, beside = still.phases(offload, False), still.phases(offload, hessians)
    return [
        PhaseRow(name, weights[name], beside[name] - weights[name], total - beside[name])
        for name, total in plan.phases(offload, hessians).items()
    ]


def card_row(
    plan: DevicePlan, memory: int, name: str, config: PruningConfig, dtype: str
) -> CardRow:
    """Return the row of a card with some free bytes.

    Args:
        plan: what a pruning needs.
        memory: the bytes.
        name: of the card; "" for one that was given.
        config: the settings, with the offload that was asked for; without it the one that fits.
        dtype: the number format of the denoiser there.
    """
    offload = config.offload or plan.choice(memory)
    whole = plan.fits(offload, memory)
    fits, phases = plan.fits(offload, memory, whole), phase_rows(plan, offload, whole)
    uncounted, least = uncounted_of(plan, config), plan.choice(memory)
    known = None if fits and uncounted else fits
    if fits:
        advice = ""
    elif plan.fits(least, memory, False):
        advice = f"--offload {least} fits"
    else:
        room = round(memory * (1 - RESERVE))
        advice = advice_of(most_of(phases), room, config, dtype, "a larger card, or --device cpu")
    return CardRow(memory, name, offload, known, phases, uncounted, advice)


def most_of(phases: list[PhaseRow]) -> PhaseRow:
    """Return the phase that needs the most."""
    return max(phases, key=lambda row: row.total)


def memory_row(
    plan: DevicePlan, card: CardRow | None, ram: float | None, config: PruningConfig, dtype: str
) -> tuple[RoomRow, int]:
    """Return what a run needs of the host's memory, and the bytes of Hessians in files.

    Args:
        plan: what a pruning needs; without a card that of the CPU.
        card: the card that runs the model; None for a CPU.
        ram: GiB of memory; None for what is free.
        config: the settings.
        dtype: the number format of the denoiser in memory.
    """
    free = memory_of(ram)
    if card is None:
        phase, uncounted = most_of(phase_rows(plan, "none", True)), uncounted_of(plan, config)
        weights, hessians, work, name = phase.weights, plan.hessians, phase.work, phase.name
    else:
        there = any(row.hessians for row in card.phases)
        weights, hessians, work = plan.phases("none")["text"], 0 if there else plan.beside, 0
        name, uncounted = "text", []
    room = max(0, free - weights) * SHARE_OF_FREE
    if config.memory_budget_gib is not None:
        room = max(0.0, config.memory_budget_gib * GIB - plan.solving)
    in_memory = min(hessians, round(room)) if config.calibrating == "single" else hessians
    parts = {"weights": weights, "Hessians": in_memory, "work": work}
    parts = {name: size for name, size in parts.items() if size}
    needed = sum(parts.values())
    advice = ""
    if needed > free:
        most = PhaseRow(name, weights, in_memory, work)
        advice = advice_of(most, free, config, dtype, "a machine with more memory")
    row = RoomRow(needed, free, parts, ram is not None, uncounted, advice)
    return row, hessians - in_memory


def memory_of(ram: float | None) -> int:
    """Return the bytes of memory that a plan is made for; those that are free unless given."""
    import psutil

    if ram is None:
        return psutil.virtual_memory().available
    if not 0 < ram < float("inf"):
        raise UserError(f"ram: expected GiB above 0, found {ram:g}")
    return round(ram * GIB)


def disk_row(output: Path, parts: list[PartRow], in_files: int) -> RoomRow:
    """Return what a run needs of the disk of its output.

    Args:
        output: the folder to write.
        parts: the components of the result, at most as large as before.
        in_files: bytes of Hessians in files.
    """
    needed = {"the pruned pipeline, at most": sum(row.bytes for row in parts)}
    if in_files:
        needed["Hessians in files"] = in_files
    remedy = "choose an --output on a larger disk"
    return RoomRow(sum(needed.values()), free_disk(output), needed, advice=remedy)


def name_of_card() -> str:
    """Return the name of the card that torch finds; "" without one."""
    return torch.cuda.get_device_name() if torch.cuda.is_available() else ""
