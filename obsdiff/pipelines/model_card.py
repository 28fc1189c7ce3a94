"""The model card of a pruned pipeline."""

import re
from collections.abc import Collection
from statistics import median
from typing import Any

from .card_clients import opens_in, opens_in_depth
from .record import PruningReport

CARD = "README.md"
EVALUATION = "## Evaluation"  # the heading of a section


def model_card(
    pipeline: str,
    report: PruningReport,
    code: list[str],
    removed: Collection[str],
) -> str:
    """Return the README.md of a pruned folder: what was pruned, how, and how to load it.

    Args:
        pipeline: name of the pipeline's class.
        report: the report of the run, with at least one layer.
        code: the lines of Python that open the folder.
        removed: what was removed from the denoiser: heads, neurons, channels.
    """
    lines = [
        *opening(
            f"{pipeline}, pruned by obsdiff",
            removed_in_words(report),
            code,
            any(row.bits for row in report.layers),
        ),
        *(opens_in_depth(report.depth["kept"]) if report.depth else opens_in(removed)),
        "",
        "## Figures",
        "",
        *table(report),
        "",
        *(
            []
            if report.groups or not report.layers or "bits" in removed
            else [
                "The zeros are stored as bits, so the folder is smaller; opened, the model is as "
                "large and as fast as the dense one."
                if "bitmask" in removed
                else "Zeros alone make a model neither smaller on disk nor faster; "
                "kernels or formats that use them are required."
            ]
        ),
        "The licence of the dense model applies. Every layer's figures are in `obsdiff.json`.",
    ]
    return "\n".join(lines) + "\n"


def opening(title: str, text: str, code: list[str], rounded: bool = False) -> list[str]:
    """Return the first lines of a card: the hub's header, what it is, and how to load it.

    The hub shows code of its own for a library that it knows. For a folder that diffusers alone
    refuses the library is therefore obsdiff.

    Args:
        title: the heading.
        text: one paragraph.
        code: the lines of Python that open the folder.
        rounded: whether torchao's tensors are in it.
    """
    needed = any(line.startswith("import obsdiff") for line in code)
    installed = " ".join(["obsdiff"] * needed + ["torchao"] * rounded)
    return [
        "---",
        f"library_name: {'obsdiff' if needed else 'diffusers'}",
        "tags: [obsdiff, pruned]",
        "---",
        "",
        f"# {title}",
        "",
        text,
        "",
        *(["```", f"pip install {installed}", "```", ""] if installed else []),
        "```python",
        *code,
        "```",
        "",
    ]


def table(report: PruningReport) -> list[str]:
    """Return the figures of a run as the lines of a Markdown table."""
    config = report.config
    errors = sorted(row.error for row in report.layers)
    apart = sorted(row.held_out_error for row in report.layers if row.held_out_error is not None)
    seconds = ", ".join(f"{name} {value:.1f}" for name, value in report.seconds.items())
    versions = ", ".join(f"{name} {value}" for name, value in report.versions.items())
    lines = [
        "| | |",
        "| --- | --- |",
        f"| calibration | prompts: {len(report.prompts)}, packages: {len(report.packages)}, "
        f"step weighting {config['step_weighting']} |",
        *effect_rows(report),
        *fold_rows(report),
    ]
    if errors:
        lines.append(
            f"| layer error, median and largest | {median(errors):.2e}, {errors[-1]:.2e} |"
        )
    if apart:
        lines.append(
            f"| the same on {config['held_out']} held-out prompts | "
            f"{median(apart):.2e}, {apart[-1]:.2e} |"
        )
    machine = ", ".join(f"{name} {value}" for name, value in report.machine.items())
    return [
        *lines,
        f"| seconds | {seconds} |",
        f"| computed on | {machine} |",
        f"| versions | {versions} |",
    ]


def effect_rows(report: PruningReport) -> list[str]:
    """Return the rows on the blocks that left: their measured effect alone, and together."""
    if not report.depth:
        return []
    alone = ", ".join(
        f"{row['name']} {row['alone']:.4f}" if row["alone"] is not None else row["name"]
        for row in report.depth["removed"]
    )
    prompts = min(report.config["allocation_prompts"], len(report.prompts))
    return [
        f"| relative latent error without each block alone | {alone} |",
        f"| without all of them, before any repair | {report.depth['together']:.4f} on {prompts} "
        "calibration prompts; 0 is the same picture, about 2 an unrelated one |",
        repair_row(report.depth["repair"]),
    ]


def fold_rows(report: PruningReport) -> list[str]:
    """Return the rows on modulation: the errors of folds on held-out inputs, and what was kept."""
    found = report.modulation
    if not found:
        return []
    errors = sorted(row["held_out_error"] for row in found["layers"])
    kept = [f"| modulation kept as it was | {found['why_kept']} |"] if found.get("why_kept") else []
    if not errors:
        return kept
    read = "time steps and prompts" if found["reads_prompt"] else "time steps"
    fixed = f"; {', '.join(found['fixed'])} as in this calibration" if found["fixed"] else ""
    return [
        f"| error of folded modulation on held-out {read}, median and largest | "
        f"{median(errors):.2e}, {errors[-1]:.2e}{fixed} |",
        *kept,
    ]


def repair_row(repair: dict[str, Any]) -> str:
    """Return the row on the repair; nothing is trained in any case."""
    if not repair.get("layers"):
        return "| repair | none; nothing was trained |"
    layers = ", ".join(repair["layers"])
    return f"| repaired, not trained | {repair['error']:.4f} on the same prompts, by {layers} |"


def removed_in_words(report: PruningReport) -> str:
    """Return one sentence about the removed and the remaining parts."""
    config, component = report.config, report.component
    how = f"method {config['method']}, pattern {config['pattern']}"
    kinds = "linear layers and convolutions" if config["target"] == "conv" else "linear layers"
    fold = folds(report)
    if not report.layers and not report.groups:
        return f"{fold}{of_the_rest(config)}."
    if not report.groups and config["bits"] and config["sparsity"] == 0:
        return f"{rounding(report)}{corrections(report)}{fold}{of_the_rest(config)}."
    if not report.groups:
        return (
            f"{report.sparsity:.2%} of the weights of {len(report.layers)} {kinds} in "
            f"`{component}` are zero ({how}); {corrections(report)}{rounding(report)}{fold}"
            f"{of_the_rest(config)}."
        )
    before, after = report.parameters["before"], report.parameters["after"]
    where = "" if report.depth else "the pruned blocks of "
    return (
        f"{report.gone()} from {where}`{component}` ({how}): "
        f"{after / 1e6:.2f} M of {before / 1e6:.2f} M parameters are left."
        + (f" {rounding(report).removesuffix('; ')}." if rounding(report) else "")
        + (f" {fold.removesuffix('; ')}." if fold else "")
        + (f" All weights are stored in {config['dtype']}." if config["dtype"] else "")
    )


def corrections(report: PruningReport) -> str:
    """Return what was added to the layers, or nothing."""
    ranks = [row.rank for row in report.layers if row.rank]
    if not ranks:
        return ""
    more = sum(row.rank * sum(row.shape) for row in report.layers if row.rank)
    all_of_them = sum(row.shape[0] * row.shape[1] for row in report.layers)
    return (
        f"{len(ranks)} of them have a correction of low rank beside the weight, rank "
        f"{min(ranks)} to {max(ranks)}, {more / all_of_them:.1%} more weights; "
    )


def rounding(report: PruningReport) -> str:
    """Return how the weights were rounded, or nothing."""
    rows = [row for row in report.layers if row.bits]
    if not rows:
        return ""
    left = [1 - row.sparsity if report.groups else 1 for row in rows]
    weights = sum(
        share * row.shape[0] * row.shape[1] for share, row in zip(left, rows, strict=True)
    )
    how = "error feedback (GPTQ)" if report.config["rounding"] == "gptq" else "nearest rounding"
    return (
        f"{len(rows)} linear layers, {weights / 1e6:.2f} M weights, are rounded to {rows[0].bits} "
        f"bits in groups of {rows[0].group_size} by {how} and stored as torchao's tensors, which "
        f"need `pip install torchao`{beside(report)}; "
    )


def beside(report: PruningReport) -> str:
    """Return which layers without Hessians were rounded, too, or nothing."""
    rows = [row for row in report.rounded_too if row.bits]
    if not rows:
        return ""
    weights = sum(row.shape[0] * row.shape[1] for row in rows)
    return (
        f", and so are the other {len(rows)} linear layers, {weights / 1e6:.2f} M weights, by "
        "nearest rounding"
    )


def folds(report: PruningReport) -> str:
    """Return which modulation layers were folded, or nothing."""
    rows = report.modulation.get("layers", [])
    if not rows:
        return ""
    before = sum(row["shape"][0] * row["shape"][1] for row in rows)
    after = sum(row["rank"] * sum(row["shape"]) for row in rows)
    ranks = [row["rank"] for row in rows]
    return (
        f"{len(rows)} modulation layers of `{report.component}` are two linear layers each, of "
        f"rank {min(ranks)} to {max(ranks)}: {after / 1e6:.2f} M of their {before / 1e6:.2f} M "
        "weights; "
    )


def of_the_rest(config: dict[str, Any]) -> str:
    """Return what happened to the weights that were not pruned."""
    if config["dtype"]:
        return f"all weights are stored in {config['dtype']}, and otherwise unchanged"
    return "everything else is unchanged"


def with_evaluation(text: str, lines: Collection[str]) -> str:
    """Return the text of a card with a section on an evaluation, in place of an earlier one.

    Args:
        text: of the card.
        lines: of the section, below its heading.
    """
    section = "\n".join([EVALUATION, "", *lines]) + "\n"
    earlier = re.search(rf"^{EVALUATION}\n.*?(?=^## |\Z)", text, re.MULTILINE | re.DOTALL)
    if earlier is None:
        return "\n\n".join([text.rstrip("\n"), section])
    after = text[earlier.end() :]
    return text[: earlier.start()] + section + (f"\n{after}" if after else "")
