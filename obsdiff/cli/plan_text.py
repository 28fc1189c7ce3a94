"""The plan of `obsdiff plan` as text for people."""

from collections.abc import Callable, Iterator
from typing import Any

from ..calibration.device_plan import RESERVE
from ..calibration.packages import GIB
from ..runtime.console import shown
from ..runtime.display import duration
from .run_plan import CardRow, OutcomeRow, PhaseRow, PresetRow, RoomRow, RunPlan

WORK = {"drawing": "activations", "allocating": "gradients", "solving": "the largest layer"}


def as_text(plan: RunPlan) -> str:
    """Return the plan as text of several lines; the last one is the command."""
    lines = [
        *model_lines(plan),
        "",
        *card_lines(plan.card),
        room_line("memory", plan.memory, gib, "GiB"),
        *file_lines(plan),
        room_line("disk", plan.disk, gigabytes, "GB"),
        *target_lines(plan),
        "",
        *step_lines(plan),
        "",
        *outcome_lines(plan),
        "",
        *plan.notes,
        *command_lines(plan),
    ]
    return "\n".join(map(shown, lines))


def command_lines(plan: RunPlan) -> list[str]:
    """Return the command to type, or that there is none."""
    if plan.command:
        return [f"to prune to {plan.chosen}:", plan.command]
    advice = f"; {plan.target.advice}" if plan.target else ""
    return [f"no command: the result would not draw on the card of --target-vram{advice}"]


def model_lines(plan: RunPlan) -> Iterator[str]:
    """Yield the lines about the model and its components."""
    total = sum(part.bytes for part in plan.parts)
    known = sum(part.parameters or 0 for part in plan.parts)
    formats = " and ".join(dict.fromkeys(part.dtype for part in plan.parts))
    yield f"{plan.model}: {plan.pipeline}, {big(known)} parameters, {size(total)} in {formats}"
    if not plan.stored:
        yield "  no weights are here: sizes are those of the configs, in the format of --dtype"
    longest = max(len(part.name) for part in plan.parts)
    for part in plan.parts:
        mark = "  pruned" if part.name == plan.component else ""
        parameters = big(part.parameters) if part.parameters else "?"
        bytes_ = size(part.bytes) if part.bytes else "?"
        yield f"  {part.name:<{longest}}  {parameters:>8}  {bytes_:>8}{mark}"


def card_lines(card: CardRow | None) -> Iterator[str]:
    """Yield the lines about the card: what is on it when, and the sum."""
    if card is None:
        yield "card        none found: the CPU computes; --vram 24 plans for a card of 24 GiB"
        return
    whose = f"{card.name}, " if card.name else ""
    known = "free" if card.name else "given"
    most = gib(max(phase.total for phase in card.phases))
    yield (
        f"card        {whose}{card.memory / GIB:.1f} GiB {known}, {RESERVE:.0%} of it in reserve: "
        f"{card_verdict(card, most)}"
    )
    for phase in card.phases:
        yield f"  {phase.name:<10}{gib(phase.total):>6} GiB  {sum_of(phase)}"


def card_verdict(card: CardRow, most: str) -> str:
    """Return whether a card is large enough, in words.

    Args:
        card: the card.
        most: GiB of the phase that needs the most.
    """
    offload = f"--offload {card.offload}"
    if card.fits:
        return f"fits with {offload}, which prune takes by itself"
    if card.fits is None:
        return f"{not_known(most, 'GiB', card.uncounted)}, with {offload}"
    return f"TOO LITTLE with {offload}; {card.advice}"


def not_known(least: str, unit: str, uncounted: list[str]) -> str:
    """Return the verdict about room of which a part is not known."""
    what = " and ".join(uncounted)
    return f"not known whether it fits: at least {least} {unit}, {what} not counted"


def sum_of(phase: PhaseRow) -> str:
    """Return the parts of what lies on the card in a phase."""
    work = WORK.get(phase.name, "work")
    kinds = {"weights": phase.weights, "Hessians": phase.hessians, work: phase.work}
    return " + ".join(f"{name} {gib(part)}" for name, part in kinds.items() if part)


def room_line(name: str, room: RoomRow, shown_as: Callable[[int], str], unit: str) -> str:
    """Return the line about memory or disk.

    Args:
        name: memory or disk.
        room: what is needed and what there is.
        shown_as: bytes -> their number in the unit.
        unit: GiB or GB.
    """
    parts = " + ".join(f"{what} {shown_as(part)}" for what, part in room.parts.items())
    verdict = "fits" if room.fits else f"TOO LITTLE; {room.advice}"
    if room.fits is None:
        verdict = not_known(shown_as(room.needed), unit, room.uncounted)
    return (
        f"{name:<12}{shown_as(room.needed)} of {shown_as(room.free)} {unit} "
        f"{'given' if room.given else 'free'}: {verdict} ({parts})"
    )


def file_lines(plan: RunPlan) -> Iterator[str]:
    """Yield the line about Hessians in files, if there are any."""
    if plan.hessians_in_files:
        more = gib(plan.hessians_in_files)
        yield f"            Hessians of {more} GiB more rest in files: slower, the same result"


def target_lines(plan: RunPlan) -> Iterator[str]:
    """Yield the line about the card that is to draw with the result."""
    if not (target := plan.target):
        return
    dense = f"the dense model needs {gib(target.dense_peak)} GiB to draw without an offload"
    aim = f"target      {gib(target.memory)} GiB to draw the result"
    dense += ", activations not counted" if target.uncounted else ""
    if not target.fits:
        yield (
            f"{aim}: {dense}; even structured {target.sparsity:.0%} does not fit, "
            f"{gib(target.peak)} GiB with --offload {target.offload}"
        )
    elif not target.sparsity:
        yield f"{aim}: {dense}; it draws there with --offload {target.offload}, unpruned"
    else:
        yield (
            f"{aim}: {dense}; structured {target.sparsity:.0%} draws there in {gib(target.peak)} "
            f"GiB with --offload {target.offload}"
        )


def step_lines(plan: RunPlan) -> Iterator[str]:
    """Yield the lines about the denoising steps of each preset."""
    yield f"steps       {', '.join(run_words(plan.prompts, plan.settings))}: denoising steps in all"
    for row in plan.presets:
        name = f"--preset {row.preset}" if row.preset else "default"
        if row.why_not:
            continue
        steps = f"{row.passes - row.with_gradients:,}" if row.passes else "?"
        more = f" + {row.with_gradients:,} with gradients" if row.with_gradients else ""
        yield f"  {name:<18}{steps:>9}{more}{minutes(plan, row)}"
    if plan.step_seconds is not None:
        yield (
            f"  a step of one prompt takes {plan.step_seconds:.3g} s here, measured; sums of "
            "Hessians and solving come on top"
        )


def run_words(prompts: int, settings: dict[str, Any]) -> Iterator[str]:
    """Yield the prompts, steps, guidance and size of a run in words."""
    yield f"{prompts} prompts"
    if steps := settings.get("num_inference_steps"):
        yield f"{steps} steps"
    if "guidance_scale" in settings:
        yield f"guidance {settings['guidance_scale']:g}"
    if "height" in settings and "width" in settings:
        yield f"{settings['width']} x {settings['height']} pixels"


def minutes(plan: RunPlan, row: PresetRow) -> str:
    """Return the time of a preset's steps, and of those with gradients, if a step was measured."""
    if plan.step_seconds is None or row.passes is None:
        return ""
    phases = [row.passes - row.with_gradients, row.with_gradients]
    return ", at least " + " + ".join(duration(plan.step_seconds * n) for n in phases if n)


def outcome_lines(plan: RunPlan) -> Iterator[str]:
    """Yield the table of what each pruning changes."""
    longest = max(len(row.what) for row in plan.outcomes)
    yield (f"{'what you get':<{longest + 2}}  zeros   on disk  parameters  MACs of a step  faster")
    for row in plan.outcomes:
        if row.why_not:
            yield f"  {row.what:<{longest}}  not possible: {row.why_not}"
        else:
            yield f"  {row.what:<{longest}}  {outcome_cells(row, plan.dense_macs)}"
    yield (
        "  what leaves, and the MACs, are by equal shares; the run decides with presets best, fast,"
        " portable and small, which spread them by their effect"
    )
    if plan.dense_macs is not None:
        yield "  faster counts operations, so at most; docs/measurements.md has measured times"
    else:
        yield "  MACs of this model are not known from its configs; obsdiff evaluate counts a call"


def outcome_cells(row: OutcomeRow, dense_macs: int | None) -> str:
    """Return the figures of a row."""
    macs = f"{row.macs / dense_macs:.0%}" if row.macs and dense_macs else "?"
    leaving, _, folded = row.leaving.partition("; ")
    words = "; ".join([*([f"{leaving} leave"] if leaving else []), *([folded] if folded else [])])
    left = f": {words}" if words else ""
    return (
        f"{row.zeros:>5.0%}  {size(row.bytes):>8}  {big(row.parameters):>10}  {macs:>14}  "
        f"{row.speed}{left}"
    )


def big(number: int | None) -> str:
    """Return a number of parameters: 11.90 B, 20.3 M."""
    value = number or 0
    return f"{value / 1e9:.2f} B" if value >= 1e9 else f"{value / 1e6:.1f} M"


def size(number: int) -> str:
    """Return bytes of files: 33.8 GB, 40.6 MB."""
    return f"{number / 1e9:.1f} GB" if number >= 1e9 else f"{number / 1e6:.1f} MB"


def gigabytes(number: int) -> str:
    """Return bytes of files in GB."""
    value = number / 1e9
    return f"{value:.1f}" if value >= 0.1 or not value else f"{value:.2g}"


def gib(number: int) -> str:
    """Return bytes of memory in GiB."""
    value = number / GIB
    return f"{value:.1f}" if value >= 0.1 or not value else f"{value:.2g}"
