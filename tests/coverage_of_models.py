"""Which denoisers of the installed diffusers are covered, found out by real runs on tiny models.

    python -m tests.coverage_of_models [CLASS ...]      writes docs/models.md and prints the counts

Every class is pruned by prune_ itself, with all three patterns. That the layers of a tap read one tensor and that every layer is
called in every call is checked there; here, that no linear layer of a block is forgotten, that the weights have their zeros, that
the pruned shapes open again, and that a model without heads and neurons equals one whose heads and neurons are masked.
"""

import copy
import re
import sys
import warnings
from collections import Counter
from collections.abc import Callable
from dataclasses import astuple, dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import diffusers
import torch
from torch import Tensor, nn

from obsdiff import PruningConfig, PruningReport, prune_
from obsdiff.models.discovery import find_blocks, uncovered
from obsdiff.models.geometry import columns, items
from obsdiff.models.linear_view import layer_shapes
from obsdiff.models.removable import removal_refusal
from obsdiff.models.structure import Block, Group
from obsdiff.models.surgery import shrink_

from .conftest import randomise
from .support.direct import DirectPipeline, outputs
from .tiny_models import FLOAT32, LEFT_OUT, NOT_PRUNED, TINY

TARGETS = {"heads": "attention", "neurons": "ffn"}
PAGE = Path(__file__).parents[1] / "docs" / "models.md"
HOMES = (
    "diffusers.models.transformers",
    "diffusers.models.unets",
)  # where diffusers keeps its denoisers; a few are with their pipelines
ELSEWHERE = ("AudioLDM2UNet2DConditionModel", "UniDiffuserModel")
Arguments = Callable[[], dict[str, Any]]
EXACT = {
    torch.float64: 1e-9,
    torch.float32: 1e-4,
}  # differences of outputs, relative to the largest


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    name: str
    blocks: str
    unstructured: str
    n_m: str
    heads: str
    neurons: str


def denoiser_classes() -> list[str]:
    """Every model class that diffusers exports from where it keeps its denoisers."""
    found = [
        name
        for name in dir(diffusers)
        if isinstance(thing := getattr(diffusers, name), type)
        and issubclass(thing, diffusers.ModelMixin)
    ]
    return [
        name
        for name in found
        if name in ELSEWHERE or getattr(diffusers, name).__module__.startswith(HOMES)
    ]


def build(name: str, **other: Any) -> tuple[nn.Module, Arguments]:
    """A tiny model with random weights, its config changed by `other`, and what makes its arguments."""
    config, arguments = TINY[name]
    torch.manual_seed(0)
    model = getattr(diffusers, name)(**config | other)
    for parameter in model.parameters():
        if (
            parameter.ndim == 3
        ):  # experts in one tensor, which diffusers leaves as it finds the memory
            torch.nn.init.normal_(parameter, std=0.1)
    return randomise(model), arguments


def examine(name: str) -> Row:
    """Prune a class with all patterns, check it, and say what was possible."""
    if name in NOT_PRUNED:
        return Row(name, *["no"] * 4, NOT_PRUNED[name])
    model, arguments = build(name)
    linears = layer_shapes(model)
    blocks = find_blocks(linears)
    forgotten = uncovered(linears, blocks)
    assert blocks, f"{name}: no block is found; its linear layers: {list(linears)[:12]}"
    assert not forgotten, f"{name}: no entry covers {forgotten}"
    left_out = LEFT_OUT.get(name, ())
    layers = [
        layer
        for block in blocks
        for layer in block.layers
        if not any(fnmatchcase(layer, wild) for wild in left_out)
    ]
    halve(model, arguments, layers, left_out)
    two_of_four(model, arguments, layers, left_out)
    groups = [
        group for block in blocks for group in block.groups if set(group.consumers) & set(layers)
    ]
    refused = {(g.owner, g.kind): reason for g in groups if (reason := removal_refusal(model, g))}
    if any((g.owner, g.kind) not in refused for g in groups):
        take_out(model, arguments, groups, refused, left_out)
    rest = "".join(f"; never calls `{wild}`: `--exclude` them" for wild in left_out) + experts(
        model
    )
    return Row(
        name,
        in_words(blocks),
        f"yes: {len(layers)} of {len(linears)} linear layers{rest}",
        "yes",
        *(cell(kind, groups, refused) for kind in ("heads", "neurons")),
    )


def run(model: nn.Module, arguments: Arguments, **settings) -> tuple[nn.Module, PruningReport]:
    """A pruned copy of the model, and the report."""
    pipe = DirectPipeline(copy.deepcopy(model), arguments)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        report = prune_(pipe, [{}], PruningConfig(packages=1, **settings), progress=False)
    return pipe.transformer, report


def halve(
    model: nn.Module, arguments: Arguments, layers: list[str], left_out: tuple[str, ...]
) -> None:
    pruned, _ = run(model, arguments, exclude=left_out)
    for layer in layers:
        weight = pruned.get_submodule(layer).weight
        assert 0.45 < (weight == 0).float().mean() < 0.55, (
            f"{layer}: {(weight == 0).float().mean():.2f} of the weights are zero"
        )


def two_of_four(
    model: nn.Module, arguments: Arguments, layers: list[str], left_out: tuple[str, ...]
) -> None:
    pruned, _ = run(model, arguments, pattern="2:4", method="magnitude", exclude=left_out)
    for layer in layers:
        assert (pruned.get_submodule(layer).weight.unflatten(1, (-1, 4)) != 0).sum(2).max() <= 2, (
            layer
        )


def take_out(
    model: nn.Module,
    arguments: Arguments,
    groups: list[Group],
    refused: dict,
    left_out: tuple[str, ...],
) -> None:
    """Structured pruning of all that isn't refused; then the same shapes again, and shrunk against masked."""
    free = [g for g in groups if (g.owner, g.kind) not in refused]
    for target, mine in by_target(free, refused).items():
        exclude = tuple(
            {
                layer
                for g in groups
                if (g.owner, g.kind) in refused and target in ("linear", TARGETS[g.kind])
                for layer in g.consumers
            }
        )
        pruned, report = run(
            model,
            arguments,
            pattern="structured",
            target=target,
            sparsity=0.5,
            round_to=4,
            keep_first_last=False,
            exclude=exclude + left_out,
        )
        assert {(row.owner, row.kind) for row in report.groups} == {(g.owner, g.kind) for g in mine}
        again = type(pruned).from_config(pruned.config)
        again.load_state_dict(pruned.state_dict())
        assert_equal(results(again, arguments), results(pruned, arguments), "loaded again")
    masked, shrunk = copy.deepcopy(model), copy.deepcopy(model)
    for index, group in enumerate(free):
        gone = leavers(index, group.kind, items(model, group))
        mask_(masked, group, gone)
        shrink_(shrunk, group, [i for i in range(items(model, group)) if i not in gone])
    expected = results(masked, arguments)
    assert_equal(results(shrunk, arguments), expected, "shrunk against masked")
    assert any(
        not torch.allclose(a, b) for a, b in zip(expected, results(model, arguments), strict=True)
    ), "masking changed nothing"


def by_target(free: list[Group], refused: dict) -> dict[str, list[Group]]:
    """What is pruned in one run: everything, or heads and neurons apart, since excluding a layer excludes both."""
    if not refused:
        return {"linear": free}
    apart = {target: [g for g in free if g.kind == kind] for kind, target in TARGETS.items()}
    return {target: mine for target, mine in apart.items() if mine}


def results(model: nn.Module, arguments: Arguments) -> list[Tensor]:
    """Outputs in float64, where the class can."""
    return outputs(
        model,
        arguments,
        torch.float32 if type(model).__name__.removeprefix("Pruned") in FLOAT32 else torch.float64,
    )


def leavers(index: int, kind: str, count: int) -> list[int]:
    """Which heads or neurons leave the index-th group: others, and another number, than leave the group before it."""
    if kind == "neurons":
        return list(range(index % 3, count, 3))
    return [(index + i) % count for i in range(min(1 + index % 2, count - 1))]


@torch.no_grad()
def mask_(model: nn.Module, group: Group, gone: list[int]) -> None:
    """Zero what the consumers read of these heads or neurons. (`model` still has its dense shapes.)"""
    reads = columns(model, group, items(model, group))[gone].flatten()
    for name in group.consumers:
        model.get_submodule(name).weight[:, reads] = 0


def assert_equal(found: list[Tensor], expected: list[Tensor], what: str) -> None:
    worst = max(
        ((a - b).abs().max() / b.abs().max().clamp(min=1e-30)).item()
        for a, b in zip(found, expected, strict=True)
    )
    assert worst < EXACT[found[0].dtype], f"{what}: the outputs differ by {worst:.1e}"


def in_words(blocks: list[Block]) -> str:
    """The kinds of blocks, each once, in forward order."""
    return ", ".join(dict.fromkeys(block.entry for block in blocks))


def experts(model: nn.Module) -> str:
    """Experts whose weights are one tensor are no linear layers."""
    return (
        "; experts, held in one tensor, stay dense"
        if any("experts" in name and p.ndim == 3 for name, p in model.named_parameters())
        else ""
    )


def cell(kind: str, groups: list[Group], refused: dict) -> str:
    """Whether heads, or neurons, can be taken out: of how many attentions or FFNs, and why not of others."""
    word = {"heads": "attention", "neurons": "FFN"}[kind]
    mine = [(g.owner, g.kind) for g in groups if g.kind == kind]
    if not mine:
        return f"no {word} of linear layers"
    why = Counter(short(key[0], refused[key]) for key in mine if key in refused)
    free = len(mine) - sum(why.values())
    reasons = "; ".join(f"{reason} ({count})" for reason, count in why.items())
    return f"yes: {free}" if not why else f"{f'part: {free}' if free else 'no'}: {reasons}"


def short(owner: str, reason: str) -> str:
    """A refusal without the module's place and counts."""
    return re.sub(r"\d+ (heads|neurons)", r"\1", reason.removeprefix(owner).lstrip(".: "))


def page(rows: list[Row]) -> str:
    head = ["class", "blocks", "unstructured", "N:M", "heads", "FFN neurons"]
    lines = [
        "| " + " | ".join(cells) + " |"
        for cells in (head, ["---"] * len(head), *(astuple(row) for row in rows))
    ]
    return "\n".join([TITLE.format(version=diffusers.__version__, counts=counts(rows)), *lines, ""])


TITLE = """# Denoisers of diffusers {version}

{counts}

Made by `python -m tests.coverage_of_models` from real runs on tiny models with random weights (`tests/tiny_models.py`); `tests/test_models.py` keeps it true. Each class was pruned by `prune_` itself,
unstructured, 2:4 and structured, and its model without heads and neurons was compared with one whose heads and neurons are masked (float64). "yes: 4" counts attentions or FFNs of the tiny model, not of the public one.
With grouped-query attention the query heads that share a key head leave together and count as one head. What the public checkpoint's config chooses (a norm over all heads, say) may differ: `obsdiff inspect` tells.
"""


def counts(rows: list[Row]) -> str:
    """The counts in one line."""
    zeros, heads, neurons = (
        covered(rows, column) for column in ("unstructured", "heads", "neurons")
    )
    structured = (
        f"structured {len(heads | neurons)} (heads {len(heads)}, FFN neurons {len(neurons)})"
    )
    return f"{len(rows)} classes: unstructured and N:M {len(zeros)}, {structured}, refused {len(rows) - len(zeros)}."


def covered(rows: list[Row], column: str) -> set[str]:
    """The classes of which all or a part is covered."""
    return {row.name for row in rows if getattr(row, column).startswith(("yes", "part"))}


def main(names: list[str]) -> None:
    diffusers.logging.set_verbosity_error()  # every model that is put into float64 is warned of
    rows = []
    for name in names or denoiser_classes():
        rows.append(examine(name))
        print(" | ".join(astuple(rows[-1])), flush=True)
    if not names:
        PAGE.write_text(page(rows), encoding="utf-8")
    print(counts(rows))


if __name__ == "__main__":
    main(sys.argv[1:])
