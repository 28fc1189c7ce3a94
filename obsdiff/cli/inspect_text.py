"""The plan of `obsdiff inspect` as text for people."""

from collections import Counter
from collections.abc import Iterator
from typing import Any

from ..allocation.savings import UNITS
from ..pipelines.removed import in_words
from ..runtime.console import shown
from .device_memory import device_line
from .inspection_plan import InspectionPlan, MemoryRow, PackageRow

EQUAL_SHARES = ", by equal shares; the run decides"
DEPTH_NOTES = [
    "depth: a run measures the error without each block; expect pictures to change visibly, and to "
    "collapse where many blocks leave: nothing is trained afterwards",
    "depth, measured: without one of four blocks emoji-sd3 has a relative latent error of 0.49, "
    "repaired 0.46, emoji-unet 0.21 and 0.15 (0 is the same picture, about 2 an unrelated one; "
    "docs/depth.md)",
]


def as_text(plan: InspectionPlan) -> str:
    """Return the plan as text of several lines."""
    lines = [
        *model_lines(plan),
        opens_line(plan),
        *run_lines(plan),
        *([memory_line(plan.memory)] if plan.config.layerwise else []),
        *device_lines(plan),
        *(package_lines(plan) if plan.config.layerwise else []),
        *(prediction_lines(plan.prediction) if plan.prediction else []),
        *budget_lines(plan),
        "",
        *plan.notes,
        *(DEPTH_NOTES if plan.config.depth else []),
        *(layer_lines(plan) if plan.config.layerwise else []),
    ]
    return "\n".join(map(shown, lines))


def package_lines(plan: InspectionPlan) -> list[str]:
    """Return the table of packages."""
    return [
        "",
        "package  layers  Hessians GiB  tokens per column      kept  first layer",
        *(package_line(i + 1, package) for i, package in enumerate(plan.packages)),
    ]


def layer_lines(plan: InspectionPlan) -> list[str]:
    """Return the lines about the tokens of each Hessian, and about layers that stay dense."""
    return [
        "tokens per column: the fewest in the package, repeats counted; a run counts distinct ones",
        "kept: the fewest per column that a Hessian of the package sums; see --tokens-per-column",
        f"not covered by any table entry, stay dense: {', '.join(plan.uncovered)}"
        if plan.uncovered
        else "every layer of the blocks is covered",
    ]


def model_lines(plan: InspectionPlan) -> Iterator[str]:
    """Yield the lines about the model and the layers to prune."""
    # without weights, neither their format nor their size is known
    stored = f" in {plan.dtype}, {plan.bytes / 1e6:.1f} MB" if plan.bytes else ""
    kinds = Counter(block.kind for block in plan.blocks)
    conv = plan.config.target == "conv"
    layers = "linear layers and convolutions" if conv else "linear layers"
    yield (
        f"{plan.path}: {plan.pipeline}, {plan.component} of {plan.parameters / 1e6:.2f} M "
        f"parameters{stored}"
    )
    yield f"blocks      {', '.join(f'{count} x {kind}' for kind, count in kinds.items())}"
    if plan.config.depth and plan.prediction:
        yield f"to prune    {in_words(plan.prediction)}, chosen by the final latents without them"
        return
    if not plan.config.layerwise:
        yield "to prune    nothing; modulation layers are folded"
        return
    yield (
        f"to prune    {plan.layers} {layers} in {counted(plan.units, 'basic unit')}, "
        f"{plan.targeted_parameters / 1e6:.2f} M weights, {plan.removed:.0%} of them away"
    )


def opens_line(plan: InspectionPlan) -> str:
    """Return the line on the programs that open the result; docs/clients.md has all of them."""
    if plan.config.depth and any(".attentions." in block.name for block in plan.blocks):
        return "opens in    diffusers; ComfyUI after obsdiff export --to single-file alone"
    if plan.config.depth:
        return "opens in    diffusers; ComfyUI: FLUX.1 and Qwen-Image, not SD3 (docs/depth.md)"
    if plan.config.bits:
        plain = plan.config.pattern != "structured" and plan.config.modulation is None
        own = "" if plain and plan.config.low_rank is None else " and import obsdiff"
        return (
            f"opens in    diffusers after pip install torchao{own}; other programs were not tried"
        )
    if plan.config.modulation is not None:
        return "opens in    diffusers after import obsdiff; ComfyUI refuses folded modulation"
    if plan.config.store == "bitmask":
        return "opens in    diffusers after import obsdiff; elsewhere after obsdiff unpack"
    if plan.config.pattern != "structured":
        return "opens in    diffusers, and every program that opens the dense model"
    found = {
        "ffn-alone": "; ComfyUI, with dynamic VRAM",
        "ffn": "; for others see docs/clients.md",
    }
    heads = "; ComfyUI refuses a result without some of its heads"
    return f"opens in    diffusers after import obsdiff{found.get(plan.config.target, heads)}"


def run_lines(plan: InspectionPlan) -> Iterator[str]:
    """Yield the lines about the calibration and its cost."""
    known = {name: value for name, value in plan.settings.items() if value is not None}
    settings = ", ".join(f"{name} {value}" for name, value in known.items())
    held_out = f", {plan.config.held_out} of them held out" if plan.config.held_out else ""
    more = f", allocation {plan.allocation_passes} more" if plan.allocation_passes else ""
    yield f"calibration {plan.prompts} prompts{held_out}, {settings}"
    if plan.config.depth:
        yield (
            f"cost        {plan.allocation_passes or '?'} denoising steps of one prompt at most, "
            "to measure the blocks"
        )
        return
    if not plan.config.layerwise:
        yield (
            "cost        2 prompts, and calls at times all over the range; every prompt if "
            "modulation reads it"
        )
        return
    yield (
        f"cost        calibration {plan.calibrating}, {counted(len(plan.packages), 'package')}: "
        f"{plan.denoiser_passes or '?'} denoising steps of one prompt in all{more}"
    )


def counted(number: int, word: str) -> str:
    """Return a number with its word: 1 package, 4 packages."""
    return f"{number} {word}" if number == 1 else f"{number} {word}s"


def memory_line(found: MemoryRow) -> str:
    """Return the line about memory."""
    disk = f", {found.on_disk_gib:.3g} of them on disk" if found.on_disk_gib else ""
    budget = f", of a budget of {found.budget_gib:g}" if found.budget_gib else ""
    return (
        f"memory      Hessians {found.hessians_gib:.3g} GiB{disk}, solving at most "
        f"{found.solving_gib:.3g} GiB{budget}; model and activations apart"
    )


def device_lines(plan: InspectionPlan) -> Iterator[str]:
    """Yield the lines about the device, if there is one."""
    if not plan.device:
        return
    yield device_line(plan.device)
    if plan.dtype == "float32" and plan.config.dtype is None:
        yield "            stored in float32: --dtype bfloat16 takes half of the weights' memory"


def package_line(number: int, package: PackageRow) -> str:
    """Return the line of a package in the table."""
    seen = fewest([tap.tokens_per_column for tap in package.taps])
    kept = fewest([tap.kept_per_column for tap in package.taps])
    first = package.taps[0].layers[0]
    numbers = f"{number:7}  {package.layers:6}  {package.hessian_gib:12.4f}  {seen:>17}  {kept:>8}"
    return f"{numbers}  {first}"


def fewest(numbers: list[float | None]) -> str:
    """Return the least of some numbers as text; "?" if none is known."""
    known = [number for number in numbers if number is not None]
    return f"{min(known):.1f}" if known else "?"


def budget_lines(plan: InspectionPlan) -> Iterator[str]:
    """Yield the line about the target, if there is one."""
    if plan.budget and plan.config.depth:
        unit, target = plan.budget
        yield (
            f"budget      at most {target:g} of the {UNITS[unit]}: blocks leave until it is met, "
            "by effect"
        )
    elif plan.budget:
        unit, target = plan.budget
        yield (
            f"budget      at most {target:g} of the {UNITS[unit]}: as uniform pruning at sparsity "
            f"{plan.removed:g}, which is shown; a run moves items between groups"
        )


def prediction_lines(found: dict[str, Any]) -> list[str]:
    """Return the lines about the sizes after structured pruning.

    Args:
        found: as `predict` returns it.
    """
    dense, pruned = found["dense"], found["pruned"]
    before, after = dense["parameters"], pruned["parameters"]
    words, shares = in_words(found), EQUAL_SHARES if found.get("equal_shares") else ""
    lines = [
        "",
        *([f"leave       {words}{shares}"] if words or before == after else []),
        f"parameters  {before / 1e6:.2f} M -> {after / 1e6:.2f} M ({after / before:.1%})",
        *([bytes_line(dense["bytes"], pruned["bytes"])] if pruned.get("bytes") else []),
    ]
    if kept := found.get("unfolded"):
        size = f", {kept['bytes'] / 1e6:.1f} MB" if kept["bytes"] else ""
        lines.append(
            f"            {kept['parameters'] / 1e6:.2f} M parameters{size} if no modulation layer "
            "can be folded"
        )
    lines.append(macs_line(dense["macs"], pruned["macs"], shares))
    if found.get("at_most"):
        lines.append("            at most: blocks differ, and a run may remove other ones")
    if paper := found.get("as_the_paper_counts"):
        cells = [
            f'{paper[k]["parameters_billions"]:.3f} B, {paper[k]["teraflops"]:.3f} "TFLOPs"'
            for k in ("dense", "pruned")
        ]
        lines.append(
            f"the paper   {cells[0]} -> {cells[1]}: linear and convolution layers only, "
            f"1024 x 1024, 77 text tokens{shares}"
        )
    return lines


def bytes_line(before: int, after: int) -> str:
    """Return the line about the bytes of the weights on disk."""
    return (
        f"weights     {before / 1e6:.1f} MB -> {after / 1e6:.1f} MB on disk ({after / before:.1%})"
    )


def macs_line(dense: dict[str, Any], pruned: dict[str, Any], shares: str) -> str:
    """Return the line about the multiply-accumulates, or why they were not counted.

    Args:
        dense: the counts before.
        pruned: those after.
        shares: what to say of an allocation that spreads what leaves.
    """
    if not dense["total"] or not pruned["total"]:
        return f"MACs        not counted: {dense['why_not'] or pruned['why_not']}"
    before, after = dense["total"], pruned["total"]
    kinds = ", ".join(
        f"{kind} {dense[kind] / 1e9:.2f} -> {pruned[kind] / 1e9:.2f} G"
        for kind in ("linear", "convolution", "attention")
    )
    return (
        f"MACs        {before / 1e9:.2f} G -> {after / 1e9:.2f} G ({after / before:.1%}"
        f"{shares}) in one forward for one picture: {kinds}"
    )
