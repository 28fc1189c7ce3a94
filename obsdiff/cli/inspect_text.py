"""The plan of `obsdiff inspect` as text for people."""

from typing import Any

from ..allocation.savings import UNITS
from ..pipelines.record import in_words


def as_text(plan: dict[str, Any]) -> str:
    """The plan for people."""
    settings = ", ".join(
        f"{name} {value}" for name, value in plan["settings"].items() if value is not None
    )
    kinds: dict[str, int] = {}
    for block in plan["blocks"]:
        kinds[block["kind"]] = kinds.get(block["kind"], 0) + 1
    what = (
        "linear layers and convolutions" if plan["config"]["target"] == "conv" else "linear layers"
    )
    held_out = (
        f", {plan['config']['held_out']} of them held out" if plan["config"]["held_out"] else ""
    )
    lines = [
        f"{plan['path']}: {plan['pipeline']}, {plan['component']} of {plan['parameters'] / 1e6:.2f} M parameters in {plan['dtype']}, {plan['bytes'] / 1e6:.1f} MB",
        f"blocks      {', '.join(f'{count} x {kind}' for kind, count in kinds.items())}",
        f"to prune    {plan['layers']} {what} in {plan['units']} basic units, {plan['targeted_parameters'] / 1e6:.2f} M weights, {plan['removed']:.0%} of them away",
        f"calibration {plan['prompts']} prompts{held_out}, {settings}",
        f"cost        calibration {plan['calibrating']}, {len(plan['packages'])} packages: {plan['denoiser_passes'] or '?'} denoising steps of one prompt in all"
        + (f", allocation {plan['allocation_passes']} more" if plan["allocation_passes"] else ""),
        memory_line(plan["memory"]),
        "",
        "package  layers  Hessians GiB  tokens per column  first layer",
    ]
    for i, package in enumerate(plan["packages"]):
        columns = [
            tap["tokens_per_column"]
            for tap in package["taps"]
            if tap["tokens_per_column"] is not None
        ]
        fewest = f"{min(columns):.1f}" if columns else "?"
        lines.append(
            f"{i + 1:7}  {package['layers']:6}  {package['hessian_gib']:12.4f}  {fewest:>17}  {package['taps'][0]['layers'][0]}"
        )
    lines += prediction_lines(plan["prediction"]) if plan["prediction"] else []
    if plan["budget"]:
        unit, target = plan["budget"]
        lines.append(
            f"budget      at most {target:g} of the {UNITS[unit]}: as uniform pruning at sparsity {plan['removed']:g}, which is shown; a run moves items between groups"
        )
    lines += [
        "",
        *plan["notes"],
        "tokens per column: the fewest in the package, repeats counted; a run counts distinct ones",
    ]
    lines.append(
        f"not covered by any table entry, stay dense: {', '.join(plan['uncovered'])}"
        if plan["uncovered"]
        else "every layer of the blocks is covered"
    )
    return "\n".join(lines)


def memory_line(found: dict[str, Any]) -> str:
    disk = f", {found['on_disk_gib']:.3g} of them on disk" if found["on_disk_gib"] else ""
    budget = f", of a budget of {found['budget_gib']:g}" if found["budget_gib"] else ""
    return f"memory      Hessians {found['hessians_gib']:.3g} GiB{disk}, solving at most {found['solving_gib']:.3g} GiB{budget}; model and activations apart"


def prediction_lines(found: dict[str, Any]) -> list[str]:
    dense, pruned = found["dense"], found["pruned"]
    before, after = dense["parameters"], pruned["parameters"]
    lines = [
        "",
        f"leave       {in_words(found) or 'nothing'}",
        f"parameters  {before / 1e6:.2f} M -> {after / 1e6:.2f} M ({after / before:.1%})",
    ]
    if dense["macs"]["total"] and pruned["macs"]["total"]:
        before, after = dense["macs"]["total"], pruned["macs"]["total"]
        kinds = ", ".join(
            f"{kind} {dense['macs'][kind] / 1e9:.2f} -> {pruned['macs'][kind] / 1e9:.2f} G"
            for kind in ("linear", "convolution", "attention")
        )
        lines.append(
            f"MACs        {before / 1e9:.2f} G -> {after / 1e9:.2f} G ({after / before:.1%}) in one forward for one picture: {kinds}"
        )
    else:
        lines.append(
            f"MACs        not counted: {dense['macs']['why_not'] or pruned['macs']['why_not']}"
        )
    if paper := found.get("as_the_paper_counts"):
        cells = [
            f'{paper[k]["parameters_billions"]:.3f} B, {paper[k]["teraflops"]:.3f} "TFLOPs"'
            for k in ("dense", "pruned")
        ]
        lines.append(
            f"the paper   {cells[0]} -> {cells[1]}: linear and convolution layers only, 1024 x 1024, 77 text tokens"
        )
    return lines
