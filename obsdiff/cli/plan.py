"""The command `obsdiff plan`: does it fit, how long, what do I get, what do I type.

It is built on what `inspect` counts: nothing is run, but for a few denoising steps that are timed
where weights are there and small, or --measure was given.
"""

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..config import PruningConfig
from ..errors import UserError
from ..pipelines.folder import Folder
from ..pipelines.single_file import open_model
from ..runtime.console import put
from .command_arguments import add_model
from .commands import calibration_prompts, config_of, show_json, with_recommended
from .flags import add_settings
from .next_steps import suggest, typed, without
from .parsing import decimal_number
from .settings_file import AMOUNTS

if TYPE_CHECKING:
    from torch import nn

    from .run_plan import RunPlan

OWN_FLAGS = {  # of plan alone -> number of their values
    **dict.fromkeys(("--json", "--measure"), 0),
    **dict.fromkeys(("--vram", "--ram", "--target-vram"), 1),
}
CHOICE: dict[str, Any] = {"pattern": "structured", "sparsity": 0.3, "preset": "best"}
OTHER_CHOICE: dict[str, Any] = {"sparsity": 0.5, "preset": "best"}  # where nothing can be removed
CHOOSING = {
    "pattern",
    "preset",
    "method",
    "target",
    *AMOUNTS,
}  # with one of them the user has chosen
SMALL = 1_000_000_000  # bytes of a denoiser whose steps are timed unasked
OUTPUT = Path("pruned")


def add_plan(p: argparse.ArgumentParser) -> None:
    """Add the arguments of plan."""
    add_model(p)
    group = p.add_argument_group("machine")
    for flag, text in (
        ("--vram", "plan for a card with this much free memory (default: the one here, if any)"),
        ("--ram", "plan for this much free memory (default: what is free here)"),
        ("--target-vram", "choose the pruning whose result draws on a card of this size"),
    ):
        group.add_argument(flag, metavar="GIB", type=decimal_number, help=text)
    group.add_argument(
        "--measure",
        action="store_true",
        help="time denoising steps of a large model, too: its denoiser is loaded",
    )
    add_settings(p)
    group = p.add_argument_group("output")
    group.add_argument(
        "--output",
        metavar="DIR",
        type=Path,
        default=OUTPUT,
        help="folder that prune will write, whose disk is looked at (default: %(default)s)",
    )
    group.add_argument("--json", action="store_true", help="print the plan as JSON")


def plan_command(args: argparse.Namespace) -> None:
    """Print the plan, as text or as JSON."""
    if getattr(args, "target_latency", None) is not None:
        raise UserError("target_latency is measured by obsdiff prune, and plan runs no pruning")
    asked = config_of(args)
    if not asked.layerwise:
        what = (
            "pattern: depth removes whole blocks" if asked.depth else "target: modulation is folded"
        )
        raise UserError(
            f"{what}, and plan counts the memory of layers that are pruned one by one; obsdiff "
            "inspect predicts it"
        )
    folder = open_model(args.model, args.config, weights=False, variant=args.variant)
    folder.require_unpacked()
    _, prompts = calibration_prompts(args, folder)

    from .plan_text import as_text

    plan = plan_of(folder, args, asked, len(prompts))
    if args.json:
        show_json(plan.to_dict())
    else:
        put(as_text(plan))
    details = typed(*without(args.words, OWN_FLAGS | {"--output": 1}, "inspect"))
    first = "type the last line of the plan; " if plan.command else ""
    suggest(f"{first}{details} lists layers and packages")


def plan_of(
    folder: Folder, args: argparse.Namespace, asked: PruningConfig, prompts: int
) -> "RunPlan":
    """Make the plan.

    Args:
        folder: the model; its configs are enough.
        args: the arguments of the command.
        asked: the settings as they were given.
        prompts: number of prompts that there are.
    """
    from ..models.meta_device import build_on_meta
    from .call_settings import call_defaults
    from .device_memory import device_plan, device_to_plan_for, example_call, format_name, format_of
    from .plan_outcomes import outcomes, preset_rows, target_row
    from .plan_room import card_row, computed_on_cpu, disk_row, memory_row, name_of_card, part_rows
    from .plan_time import measured_step
    from .run_plan import RunPlan

    component = folder.denoiser(asked.component)
    model = build_on_meta(folder.config(component), folder.config_file(component))
    asked = with_recommended(asked, folder, args)
    settings = call_defaults(folder, asked)
    inputs = example_call(folder, model, asked)
    parts = part_rows(folder, component, asked)
    sizes = sum(part.bytes for part in parts), parts[0].bytes
    macs, rows = outcomes(folder, model, inputs, asked, sizes)

    memory = device_to_plan_for(args.vram if args.vram is not None else args.target_vram)
    target = None
    if args.target_vram is not None:
        wanted = device_to_plan_for(args.target_vram) or 0
        own = format_of(folder, component, asked)
        drawing = device_plan(folder, replace(asked, batch_size=1)).drawing_alone()
        target = target_row(
            drawing, in_format(model, own), asked, wanted, format_name(folder, component, asked)
        )
    chosen, notes = choose(folder, args, model, target.sparsity if target else 0.0)
    config = with_recommended(config_of(args, **chosen), folder, args)
    if memory is None:
        placed = computed_on_cpu(folder, component, config)
        card, needed = None, device_plan(folder, placed)
    else:
        placed, needed = config, device_plan(folder, config)
        name = name_of_card() if args.vram is None and args.target_vram is None else ""
        card = card_row(needed, memory, name, config, format_name(folder, component, config))
    held = format_name(folder, component, placed)
    room, in_files = memory_row(needed, card, args.ram, config, held)
    stored = bool(folder.components[component].shapes)
    here = args.vram is None and args.target_vram is None
    timed = stored and here and inputs and (args.measure or parts[0].bytes <= SMALL)
    count = min(prompts, config.num_prompts)
    return RunPlan(
        model=args.model,
        pipeline=folder.pipeline,
        component=component,
        stored=stored,
        parts=parts,
        settings={name: value for name, value in settings.items() if value is not None},
        prompts=count,
        card=card,
        memory=room,
        hessians_in_files=in_files,
        disk=disk_row(args.output, parts, in_files),
        step_seconds=measured_step(folder, component, inputs, settings) if timed else None,
        presets=preset_rows(folder, config, prompts, args),
        dense_macs=macs,
        outcomes=rows,
        target=target,
        chosen=f"{config.pattern} {config.removed:.0%}" if config.budget is None else "a target",
        command="" if target and not target.fits else command_of(args, chosen),
        notes=notes + two_cards(args),
        config=config,
    )


def two_cards(args: argparse.Namespace) -> list[str]:
    """Return the note about two cards, if two were given."""
    if args.vram is None or args.target_vram is None:
        return []
    return [
        f"two cards: prune runs on that of --vram {args.vram:g}, and its result is to draw on that "
        f"of --target-vram {args.target_vram:g}"
    ]


def in_format(model: "nn.Module", dtype: Any) -> "nn.Module":
    """Return a model on the meta device in a number format, in place."""
    from torch import nn

    return nn.Module.to(model, dtype)


def choose(
    folder: Folder,
    args: argparse.Namespace,
    model: "nn.Module",
    sparsity: float,
) -> tuple[dict[str, Any], list[str]]:
    """Return the settings that are chosen for the user, and why.

    Args:
        folder: the model.
        args: the arguments of the command: a pattern, an amount, a preset or a method are kept.
        model: the denoiser on the meta device.
        sparsity: the structured sparsity that a card needs; 0 if any fits.

    Returns:
        The settings beside those that were given; notes.
    """
    from ..allocation.uniform_latency import shrunk
    from .inspect import describe

    if CHOOSING & vars(args).keys():
        return {}, []
    chosen = CHOICE | ({"sparsity": sparsity} if sparsity else {})
    notes: list[str] = []
    for one in (chosen, chosen | {"target": "ffn"}):
        try:
            config = config_of(args, **one)
            shrunk(model, config)
            describe(folder, config, config.num_prompts, predicted=False)
        except UserError as error:
            notes.append(str(error).split(";")[0])
        else:
            return one, [f"heads stay: {note}" for note in notes]
    return OTHER_CHOICE, [f"nothing can be removed: {note}" for note in notes]


def command_of(args: argparse.Namespace, chosen: dict[str, Any]) -> str:
    """Return the command that prunes as planned, with the flags that were given and chosen."""
    words: Sequence[str] = without(args.words, OWN_FLAGS, "prune")
    flags = [word for name, value in chosen.items() for word in (f"--{name}", str(value))]
    named = any(word.split("=")[0] == "--output" for word in words)
    return typed(*words, *flags, *([] if named else ["--output", str(OUTPUT)]))
