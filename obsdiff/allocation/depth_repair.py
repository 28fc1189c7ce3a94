"""Repair after blocks have left: the block before a gap makes up for what the gap would have added.

The last layer of the block before a gap (an FFN's down projection, one a stream, or the output of a
parallel block) is added to the residual stream behind a gate; before the first block of a UNet's
attention it is the projection that begins the stream, without a gate. With the blocks of the gap
the stream gets the sum of their outputs, too; the least-squares change of that layer adds what of
it is linear in the layer's own inputs (solvers/gated.py). All of it is read from one pass of the
dense model, so a gap does not know of other gaps before it.

Gates are not read by their names. The block is called once more with a constant added to the output
of the layer: the change of the block's output is the gate times the constant. Where a second call,
with random signs, does not find the same gate (a norm behind the layer, say), the layer is left
alone.

A repair has to show on drawings of prompts that were not fitted: several dampings are tried, and
none is an answer, too.
"""

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from ..calibration.context import CalibrationContext
from ..calibration.depth_selection import DepthSelection
from ..layerwise.bias_correction import has_bias
from ..layerwise.problem import named
from ..models.linear_view import layer_at, matrix, write_
from ..models.structure import Block
from ..pipelines.run import hooked
from ..runtime.display import current
from ..runtime.precision import exact_products
from ..runtime.random_state import noise
from ..solvers.gated import GatedSums

REPAIR = "repair"  # the name of its phase
STEP = 16.0  # constant added to a layer's output, in units of the mean size of the block's output
SAME_GATE = 0.02  # relative difference of two gates up to which the layer is behind a gate
ALL = -1  # place of a layer that adds to all outputs of its block, in a row of tokens


@dataclass
class Gap:
    """Blocks in a row that left, and the block before them.

    Attributes:
        before: the name of the block, or of the projection, before them.
        last: the name of the last one.
        layers: the layers of the block before that may be repaired, by name.
        places: the output of the block to which each of them adds, once it is known.
        sums: the sums of each of them.
        seen: the input and output of each layer in this call.
        reached: the gate of each layer, and the block's output at its place, in this call.
        calls: how often each layer has been called in this call of the block.
        busy: whether the block is called for its gates.
    """

    before: str
    last: str
    layers: Mapping[str, nn.Module]
    places: dict[str, int] | None = None
    sums: dict[str, GatedSums] = field(default_factory=dict)
    seen: dict[str, tuple[Tensor, Tensor]] = field(default_factory=dict)
    reached: dict[str, tuple[Tensor, Tensor]] = field(default_factory=dict)
    calls: Counter[str] = field(default_factory=Counter)
    busy: bool = False

    def note(self, name: str, layer: nn.Module, args: tuple[Tensor, ...], out: Tensor) -> None:
        """Store input and output of a layer, as its hook."""
        if not self.busy:
            self.seen[name] = args[0], out
            self.calls[name] += 1

    def gates(self, block: nn.Module, args: Any, kwargs: Any, out: Any) -> None:
        """Find the gate of each layer in this call, as a hook of the block before the gap."""
        if self.busy:
            return
        own, call = tensors_of(block, out), partial(block, *args, **kwargs)
        step = step_of(own)
        self.busy = True
        try:
            if self.places is None:
                self.places = {
                    name: place
                    for name in self.seen
                    if self.calls[name] == 1  # a layer of two streams has no gate of its own
                    and (place := self.place_of(name, block, own, call, step)) is not None
                }
            moved = tensors_of(block, self.moved(call, dict.fromkeys(self.places, step)))
        finally:
            self.busy = False
        self.calls.clear()
        for name, place in self.places.items():
            here = at(own, place)
            self.reached[name] = (at(moved, place) - here) / step, here

    def moved(
        self, call: Callable[[], Any], steps: dict[str, float], signs: Tensor | None = None
    ) -> Any:
        """Return what the block returns with a constant added to the output of some layers."""
        with hooked(
            self.layers[name].register_forward_hook(
                lambda _m, _a, out, step=step: out + step * (1 if signs is None else signs)
            )
            for name, step in steps.items()
        ):
            return call()

    def place_of(
        self, name: str, block: nn.Module, own: list[Tensor], call: Callable[[], Any], step: float
    ) -> int | None:
        """Return where a layer adds behind a gate; None if it does not."""
        output = self.seen[name][1]
        random = 2.0 * torch.randint(0, 2, output.shape, generator=noise(0)) - 1
        random = random.to(output)
        one = tensors_of(block, self.moved(call, {name: step}))
        other = tensors_of(block, self.moved(call, {name: step}, random))
        signs = rows_of(self.layers[name], random)
        for place in (*range(len(own)), *([ALL] if in_a_row(own) else [])):
            here = at(own, place)
            if here.shape != signs.shape:
                continue
            gate, again = at(one, place) - here, (at(other, place) - here) * signs
            size = gate.float().norm()
            if size > 0 and (again - gate).float().norm() <= SAME_GATE * size:
                return place
        return None

    @exact_products()
    def sum_up(
        self, keep: Callable[[int, int], Tensor | None], last: nn.Module, _: Any, out: Any
    ) -> None:
        """Add the tokens of this call to the sums, as a hook of the last block of the gap."""
        for name, (gate, here) in self.reached.items():
            assert self.places is not None  # set with `reached`
            x = rows_of(self.layers[name], self.seen[name][0])
            missing = at(tensors_of(last, out), self.places[name]) - here
            x, gate, missing = (part.float().flatten(0, -2) for part in (x, gate, missing))
            if has_bias(self.layers[name]):
                x = torch.cat([x, torch.ones_like(x[:, :1])], 1)
            if name not in self.sums:
                self.sums[name] = GatedSums.of(gate.shape[1], x.shape[1], x.device)
            kept = keep(*x.shape)
            picked = (x, gate, missing)
            if kept is not None:
                picked = (x[kept], gate[kept], missing[kept])
            self.sums[name].add_(*picked)
        self.reached = {}


def tensors_of(block: nn.Module, out: Any) -> list[Tensor]:
    """Return the tensors among the outputs of a block, channels last."""
    parts = out if isinstance(out, tuple) else (out,)
    return [rows_of(block, x) for x in parts if isinstance(x, Tensor)]


def rows_of(layer: nn.Module, x: Tensor) -> Tensor:
    """Return an input or output of a layer with channels last: (B, H*W, C) of a convolution's."""
    return x.flatten(2).transpose(1, 2) if isinstance(layer, nn.Conv2d) else x


def in_a_row(outputs: Sequence[Tensor]) -> bool:
    """Return whether the outputs of a block can be tokens of one row: (B, T, O) all."""
    return len({(x.dim(), len(x), x.shape[-1]) for x in outputs}) == 1 and outputs[0].dim() == 3


def at(outputs: Sequence[Tensor], place: int) -> Tensor:
    """Return an output of a block, or all of them in a row of tokens."""
    return torch.cat(list(outputs), 1) if place == ALL else outputs[place]


def step_of(outputs: Sequence[Tensor]) -> float:
    """Return the constant that is added to the output of a layer to find its gate."""
    return STEP * max(1e-3, *(x.float().abs().mean().item() for x in outputs))


def gaps_of(
    denoiser: nn.Module, selection: DepthSelection, away: Sequence[str], blocks: list[Block]
) -> list[Gap]:
    """Return the gaps that removed blocks leave, but for those with nothing before them."""
    consumers = {
        block.name: [
            c for group in block.groups if group.kind == "neurons" for c in group.consumers
        ]
        for block in blocks
    }
    consumers |= {entry: [entry] for entry in selection.entries}
    found: list[Gap] = []
    for stack in selection.stacks:
        names = selection.blocks[stack.blocks]
        for one, other in pairwise([stack.entry, *names] if stack.entry else names):
            if other in away and one not in away:
                layers = {name: layer_at(denoiser, name) for name in consumers[one]}
                found.append(Gap(one, other, layers))
            elif other in away and found and found[-1].last == one:
                found[-1].last = other
    return found


def gather_gaps(context: CalibrationContext, gaps: list[Gap], first: int) -> None:
    """Sum what each gap misses, from one pass of the dense model over the calibration prompts.

    Every process runs all prompts, so that all of them find the same repair.

    Args:
        context: the dense model, and how it draws.
        gaps: the gaps; they receive the sums.
        first: prompts at the beginning that are left out: they judge the repair.
    """
    own = context.calibration_set
    few = replace(own, prompts=own.prompts[first:], seeds=own.seeds[first:], rank=0, ranks=1)
    batches = list(few.batches())
    source = noise(few.seeds[0])

    def keep(tokens: int, columns: int) -> Tensor | None:
        """Return the tokens of a call that are summed; None for all."""
        calls = len(batches) * context.run.steps
        most = (
            math.ceil((few.tokens_per_column or math.inf) * columns / calls)
            if (few.tokens_per_column)
            else tokens
        )
        return None if most >= tokens else torch.randperm(tokens, generator=source)[:most]

    def handles() -> Any:
        for gap in gaps:
            for name, layer in gap.layers.items():
                yield layer.register_forward_hook(partial(gap.note, name))
            before, last = (context.denoiser.get_submodule(n) for n in (gap.before, gap.last))
            yield before.register_forward_hook(gap.gates, with_kwargs=True)
            yield last.register_forward_hook(partial(gap.sum_up, keep))

    phases = current()
    with hooked(handles()), phases.within(REPAIR):
        for prompts, seeds in batches:
            torch.manual_seed(seeds[0])  # prepared() has set the user's state aside
            context.run.latents(prompts, seeds, few.settings)
            phases.advance(REPAIR, len(prompts))


@exact_products()
def write_changes_(gaps: list[Gap], own: dict[str, list[Tensor]], damping: float) -> None:
    """Set every repaired layer to its own weights and the change by a damping.

    Args:
        gaps: the gaps, with their sums.
        own: the dense weight, and the bias if there is one, of each layer.
        damping: in units of the mean diagonal; infinite for no change.

    Raises:
        NotPositiveDefinite: a change cannot be computed, with the layer's name; layers before it
            are set.
    """
    for gap in gaps:
        for name, sums in gap.sums.items():
            layer, (weight, *bias) = gap.layers[name], own[name]
            with named(name):
                change = (
                    sums.change(damping) if math.isfinite(damping) else torch.zeros_like(sums.cross)
                )
            columns = weight.shape[1]
            write_(name, layer, weight + change[:, :columns].to(weight))
            if bias:
                with torch.no_grad():
                    own_bias(layer).copy_(bias[0] + change[:, columns].to(bias[0]))


def own_bias(layer: nn.Module) -> Tensor:
    """Return a layer's bias, typed as a tensor."""
    bias = layer.bias
    assert isinstance(bias, Tensor)  # nn.Module types its attributes as Tensor | Module
    return bias


def own_weights(gaps: list[Gap]) -> dict[str, list[Tensor]]:
    """Return copies of the weight (O, I), and the bias if there is one, of each layer to repair."""
    found = {}
    for gap in gaps:
        for name in gap.sums:
            layer = gap.layers[name]
            bias = [own_bias(layer).detach().clone()] if has_bias(layer) else []
            found[name] = [matrix(layer).clone(), *bias]
    return found
