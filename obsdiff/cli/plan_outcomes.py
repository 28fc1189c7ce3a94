"""What each pattern and preset would change, counted on the meta device, and what it costs."""

import argparse
import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from torch import nn

from ..allocation.uniform_latency import shrunk
from ..calibration.device_plan import RESERVE, DevicePlan, Weights
from ..config import PruningConfig
from ..config.choices import PRESETS
from ..errors import UserError
from ..models.call_shapes import CallArguments
from ..models.depth import stacks_of
from ..models.folded import folded_ranks
from ..pipelines.folder import Folder
from ..pipelines.removed import in_words
from .commands import with_recommended
from .depth_prediction import shallower
from .inspect import describe
from .plan_advice import advice_of
from .predicted_size import predicted_model, rounded_layers, stored_bytes
from .prediction import count
from .run_plan import OutcomeRow, PhaseRow, PresetRow, TargetRow

WHERE = ("blocks", "include", "exclude", "component", "keep_first_last")  # settings of every row
CALIBRATING = ("num_prompts", "step_share")  # what presets set, if the user does not
CASES: tuple[dict[str, Any], ...] = (
    {"sparsity": 0.5},
    {"pattern": "2:4"},
    {"pattern": "structured", "sparsity": 0.2},
    {"pattern": "structured", "sparsity": 0.3},
    {"preset": "portable", "sparsity": 0.3},
    {"preset": "small", "sparsity": 0.2},
    {"pattern": "depth", "sparsity": 0.1},
)
NO_FASTER = "no: zeros are stored and multiplied, too"
SPARSE_KERNELS = "no; sparse kernels of a GPU may be (docs/gpu.md)"
FASTER = "yes"
NOTHING_LEAVES = "no: nothing leaves"
SHALLOWER = ", but pictures change visibly (docs/depth.md)"
ROUNDED = "not known: weights of few bits are made dense in each call (docs/bits.md)"
TRIED = (0.0, 0.1, 0.2, 0.3, 0.4)  # sparsities to meet a card's memory with
OFFLOADS_TRIED = ("none", "model", "group")


def outcomes(
    folder: Folder,
    model: nn.Module,
    inputs: CallArguments | None,
    config: PruningConfig,
    sizes: tuple[int, int],
) -> tuple[int | None, list[OutcomeRow]]:
    """Return the multiply-accumulates of the dense denoiser, and a row for each pruning.

    Args:
        folder: the model.
        model: its denoiser on the meta device.
        inputs: the arguments of one forward; None if they are not known.
        config: the settings that the user gave.
        sizes: bytes of the whole folder, and of the denoiser.
    """
    dense = count(model, inputs)
    rows = []
    where = {name: getattr(config, name) for name in WHERE}
    for case in cases(config):
        heads = case.get("pattern") == "structured" or case.get("preset") == "small"
        tried = [case, case | {"target": "ffn"}] if heads else [case]
        for one in tried:
            named = {name: str(value) for name, value in one.items()}
            try:
                found = PruningConfig(**where, **one)
                row = outcome(folder, model, inputs, found, dense, sizes)
                row = replace(row, what=in_words_of(one), flags=named)
                break
            except UserError as error:
                row = OutcomeRow(in_words_of(one), named, why_not=str(error))
        rows.append(row)
    return dense["macs"]["total"], rows


def cases(config: PruningConfig) -> Iterator[dict[str, Any]]:
    """Yield the settings of each row; a sparsity that the user gave is one of them."""
    own = {"pattern": "structured", "sparsity": config.removed}
    if config.pattern == "structured" and config.budget is None and own not in CASES:
        yield own
    yield from CASES


def in_words_of(case: dict[str, Any]) -> str:
    """Return the name of a row."""
    pattern = case.get("preset") or case.get("pattern", "unstructured")
    ffn = " of the FFNs" if case.get("target") == "ffn" else ""
    return f"{pattern} {case['sparsity']:.0%}{ffn}" if "sparsity" in case else pattern


def outcome(
    folder: Folder,
    model: nn.Module,
    inputs: CallArguments | None,
    config: PruningConfig,
    dense: dict[str, Any],
    sizes: tuple[int, int],
) -> OutcomeRow:
    """Return what one pruning changes; the other arguments are those of outcomes.

    Args:
        folder: the model.
        model: its denoiser.
        inputs: the arguments of one forward.
        config: the pruning.
        dense: parameters and multiply-accumulates of the dense denoiser.
        sizes: bytes of the whole folder, and of the denoiser.

    Raises:
        UserError: the model can't be pruned like that.
    """
    whole, own = sizes
    width = own / sum(tensor.numel() for tensor in model.state_dict().values())
    if config.depth:
        return without_blocks(folder, model, inputs, config, dense, (whole - own, width))
    if config.pattern != "structured":
        found = describe(folder, config, config.num_prompts, predicted=False)
        return OutcomeRow(
            "",
            {},
            zeros=config.removed * found.targeted_parameters / dense["parameters"],
            bytes=whole,
            parameters=dense["parameters"],
            macs=dense["macs"]["total"],
            speed=SPARSE_KERNELS if config.group else NO_FASTER,
        )
    pruned, gone = predicted_model(model, config)
    left = count(pruned, inputs)
    size = stored_bytes(pruned, rounded_layers(model, pruned, config), config, width)
    speed = faster(dense, left) if config.bits is None else ROUNDED
    return smaller(left, whole - own + size, in_words(gone) + folding(pruned), speed)


def without_blocks(
    folder: Folder,
    model: nn.Module,
    inputs: CallArguments | None,
    config: PruningConfig,
    dense: dict[str, Any],
    sizes: tuple[int, float],
) -> OutcomeRow:
    """Return what a pruning of whole blocks changes: the largest model that it can leave.

    Args:
        folder: the model.
        model: its denoiser.
        inputs: the arguments of one forward.
        config: the pruning.
        dense: parameters and multiply-accumulates of the dense denoiser.
        sizes: bytes of all else in the folder, and of a weight of the denoiser.

    Raises:
        UserError: blocks of this model can't leave.
    """
    if not stacks_of(model):
        raise UserError(f"whole blocks of {type(model).__name__} can't leave")
    others, width = sizes
    found = shallower(model, folder.config(folder.denoiser(config.component)), config, inputs)
    left = found.count(inputs)
    size = others + stored_bytes(found.model, [], config, width)
    smallest = "the smallest " if found.at_most else ""
    leaving = f"{smallest}{found.removed} of {found.total} blocks"
    return smaller(left, size, leaving, faster(dense, left) + SHALLOWER)


def faster(dense: dict[str, Any], left: dict[str, Any]) -> str:
    """Return by how much a smaller denoiser is faster at most, by its operations if known.

    Args:
        dense: parameters and multiply-accumulates of the dense denoiser.
        left: those of the smaller one.
    """
    before, after = dense["macs"]["total"], left["macs"]["total"]
    if not before or not after:
        return FASTER
    return f"{FASTER}, up to {before / after:.2f} times" if after < before else NOTHING_LEAVES


def smaller(left: dict[str, Any], size: int, leaving: str, speed: str) -> OutcomeRow:
    """Return the row of a result with fewer parameters.

    Args:
        left: its parameters and multiply-accumulates.
        size: bytes of the folder.
        leaving: what leaves, in words.
        speed: whether it is faster.
    """
    macs = left["macs"]["total"]
    return OutcomeRow(
        "",
        {},
        bytes=size,
        parameters=left["parameters"],
        macs=macs,
        leaving=leaving,
        speed=speed,
    )


def folding(model: nn.Module) -> str:
    """Return how many modulation layers of a result are folded, if a run finds that they can be."""
    folds = len(folded_ranks(model))
    return f"; {folds} modulation layers are folded if they can be" if folds else ""


def preset_rows(
    folder: Folder, config: PruningConfig, prompts: int, args: argparse.Namespace
) -> list[PresetRow]:
    """Return what the defaults and each preset cost with the pattern of a config.

    Args:
        folder: the model.
        config: the settings of the pruning.
        prompts: number of prompts in the file.
        args: the arguments of the command; amounts of calibration in them hold for every preset.
    """
    rows = []
    amount: dict[str, Any] = {"sparsity": config.sparsity} if config.group is None else {}
    kept = ("pattern", "num_inference_steps", "height", "width", *WHERE)
    known: dict[str, Any] = {name: getattr(config, name) for name in kept}
    known |= {name: value for name, value in vars(args).items() if name in CALIBRATING}
    for preset in (None, *PRESETS):
        try:
            found = PruningConfig(**known, **amount, preset=preset)
            found = with_recommended(found, folder, args)
            plan = describe(folder, found, min(prompts, found.num_prompts), predicted=False)
        except UserError as error:
            rows.append(PresetRow(preset, None, why_not=str(error)))
            continue
        passes, more = plan.denoiser_passes, plan.allocation_passes or 0
        gradients = more if passes and found.allocation == "sensitivity" else 0
        rows.append(PresetRow(preset, passes and passes + more, gradients))
    return rows


def target_row(
    plan: DevicePlan, model: nn.Module, config: PruningConfig, memory: int, dtype: str = ""
) -> TargetRow:
    """Return the least pruning, and the offload, with which the result draws within some memory.

    Structured pruning up to 40 % without an offload, else with one component at a time on the
    card, else with one block at a time.

    Args:
        plan: what drawing with the dense model needs: no Hessians, no solving.
        model: the denoiser on the meta device, in its format.
        config: the settings of the pruning.
        memory: bytes of the card.
        dtype: the number format of the denoiser there.
    """
    uncounted = ["activations"] if plan.activations is None else []
    tried: dict[float, DevicePlan] = {0.0: plan}

    def at(sparsity: float) -> DevicePlan:
        if sparsity not in tried:
            tried[sparsity] = replace(plan, denoiser=Weights.of(removed(model, config, sparsity)))
        return tried[sparsity]

    dense_peak = plan.peak("none")
    for offload in OFFLOADS_TRIED:
        if not at(TRIED[-1]).fits(offload, memory):
            continue
        for sparsity in TRIED:
            if at(sparsity).fits(offload, memory):
                peak = at(sparsity).peak(offload)
                return TargetRow(
                    memory, offload, sparsity, peak, dense_peak, True, uncounted=uncounted
                )
    offload = OFFLOADS_TRIED[-1]
    name, least = max(at(TRIED[-1]).phases(offload).items(), key=lambda phase: phase[1])
    work = (plan.activations or 0) if name == "drawing" else 0
    phase, room = PhaseRow(name, least - work, 0, work), round(memory * (1 - RESERVE))
    advice = advice_of(phase, room, replace(config, batch_size=1), dtype, "a larger card")
    return TargetRow(memory, offload, TRIED[-1], least, dense_peak, False, advice, uncounted)


def removed(model: nn.Module, config: PruningConfig, sparsity: float) -> nn.Module:
    """Return a shrunk copy of a model: heads and neurons, or neurons alone where heads can't leave.

    Args:
        model: the model on the meta device.
        config: the settings of the pruning, for the layers to prune.
        sparsity: the share to remove.

    Raises:
        UserError: nothing can be removed.
    """
    where = {name: getattr(config, name) for name in WHERE}
    case = PruningConfig(**where, pattern="structured", sparsity=sparsity)
    try:
        return shrunk(model, case)[0]
    except UserError:
        return shrunk(model, replace(case, target="ffn"))[0]


def parameters_of(shapes: dict[str, tuple[int, ...]]) -> int:
    """Return the number of parameters of some tensors."""
    return sum(math.prod(shape) for shape in shapes.values())
