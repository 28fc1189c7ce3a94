"""The parts by themselves: Hessian updates, solves, structured solves; the plain algorithm's and
obsdiff's in turn.

A piece prepares its data, untimed, and returns the timed call. obsdiff's Hessians have the dtype
that obsdiff chooses.
"""

import copy
import time
from collections.abc import Callable
from functools import cache
from statistics import median
from typing import Any, NamedTuple

import torch
from torch import Tensor

from benchmarks.plain.hessian import RunningHessian
from benchmarks.plain.solve import solve
from benchmarks.plain.structured import remove_parts
from obsdiff.calibration.hessian import Hessian
from obsdiff.solvers import SOLVERS
from obsdiff.solvers.obs_structured import Consumer, obs_heads, obs_neurons
from obsdiff.solvers.problem import Inputs, Target

from .rows import ROWS

IMAGES, TOKENS, UPDATES = 8, 256, 3
DAMPING = 0.01
Ready = Callable[[], Callable[[], Any]]


class Piece(NamedTuple):
    """The plain algorithm's part, obsdiff's, and whether the plain one takes so long that it runs
    but once."""

    plain: Ready
    ours: Ready
    once: bool = False


def pieces(shrink: int = 1) -> dict[str, Callable[[], Piece]]:
    """Every row's piece, with all sizes divided by `shrink`."""
    narrow, wide = 1536 // shrink, 6144 // shrink
    made: dict[str, Callable[[], Piece]] = {
        "hessian/1536": lambda: updates(narrow),
        "hessian/6144": lambda: updates(wide),
    }
    for kind, group in (("solve", None), ("solve24", (2, 4))):
        made[f"{kind}/qkv-1536"] = lambda group=group: solving([narrow] * 3, narrow, group)
        made[f"{kind}/6144x1536"] = lambda group=group: solving([wide], narrow, group)
        made[f"{kind}/1536x6144"] = lambda group=group: solving([narrow], wide, group)
    made["structured/heads-24"] = lambda: removing(
        narrow, narrow, 2, list(torch.arange(narrow).split(narrow // 24)), 7
    )
    made["structured/neurons-6144"] = lambda: removing(
        narrow, wide, 1, list(torch.arange(wide).split(1)), wide // 4
    )
    return made


def updates(columns: int) -> Piece:
    x = torch.randn(IMAGES, TOKENS, columns, generator=torch.Generator().manual_seed(0))

    def plain() -> Callable[[], Any]:
        hessian = RunningHessian(columns)
        hessian.update(x)
        return lambda: [hessian.update(x) for _ in range(UPDATES)]

    def ours() -> Callable[[], Any]:
        hessian = Hessian.zeros(columns)
        hessian.update(x)
        return lambda: [hessian.update(x) for _ in range(UPDATES)]

    return Piece(plain, ours)


@cache
def calibrated(columns: int, seed: int = 0) -> Hessian:
    """The Hessian of correlated inputs, more tokens than columns."""
    g = torch.Generator().manual_seed(seed)
    hessian = Hessian.zeros(columns)
    shared = torch.randn(columns // 8, columns, generator=g) / (columns // 8) ** 0.5
    for part in torch.randn(5 * columns // 4, columns // 8, generator=g).split(2048):
        hessian.update(part @ shared + 0.5 * torch.randn(len(part), columns, generator=g))
    return hessian


def weights_of(rows: list[int], columns: int) -> list[Tensor]:
    g = torch.Generator().manual_seed(1)
    return [torch.randn(n, columns, generator=g) / columns**0.5 for n in rows]


def solving(rows: list[int], columns: int, group: tuple[int, int] | None) -> Piece:
    """Matrices that read one input: one Hessian for obsdiff, one each for the plain algorithm."""
    weights, hessian = weights_of(rows, columns), calibrated(columns)
    square = hessian.matrix().float()

    def ours() -> Callable[[], list[Tensor]]:
        mine, variance = copy.deepcopy(hessian), hessian.variance()
        return lambda: [
            s.weight
            for s in SOLVERS["obs"](
                weights, Inputs(mine.take_(), mine.mean(), variance), Target(0.5, group, DAMPING)
            )
        ]

    return Piece(lambda: lambda: [solve(w, square, 0.5, group, DAMPING) for w in weights], ours)


def removing(rows: int, columns: int, streams: int, parts: list[Tensor], count: int) -> Piece:
    heads = len(parts[0]) > 1
    weights = [weights_of([rows], columns)[0].roll(seed, 1) for seed in range(streams)]
    hessians = [calibrated(columns, seed) for seed in range(streams)]
    squares = [h.matrix().float() for h in hessians]

    def ours() -> Callable[[], list[Tensor]]:
        mine = copy.deepcopy(hessians)

        def call() -> list[Tensor]:
            consumers = [
                Consumer.begin(w, h.take_(), DAMPING) for w, h in zip(weights, mine, strict=True)
            ]
            _ = (
                obs_heads(consumers, parts, count)
                if heads
                else obs_neurons(consumers[0], torch.cat(parts), count)
            )
            return [consumer.weight for consumer in consumers]

        return call

    return Piece(
        lambda: (
            lambda: remove_parts(
                list(zip(weights, squares, strict=True)), parts, count, heads, damping=DAMPING
            )[1]
        ),
        ours,
        once=not heads,
    )


def measure(name: str, piece: Piece, rounds: int) -> dict[str, Any]:
    """A row of the table: how many times less CPU time obsdiff takes, round by round."""
    seconds: dict[str, list[float]] = {"plain": [], "ours": []}
    answers = {}
    for i in range(rounds):
        for way in ("plain", "ours") if i % 2 == 0 else ("ours", "plain"):
            if way == "plain" and piece.once and i:
                continue
            call = getattr(piece, way)()
            began = time.process_time()
            answers[way] = call()
            seconds[way].append(time.process_time() - began)
    plain = seconds["plain"] * (rounds if piece.once else 1)
    runs = [p / o for p, o in zip(plain, seconds["ours"], strict=True)]
    print(
        f"{name}: plain {median(plain):.2f} s of CPU time, "
        f"obsdiff {median(seconds['ours']):.2f} s{agreement(answers)}",
        flush=True,
    )
    return {
        "name": name,
        "value": median(runs),
        "target": ROWS[name].target,
        "plain": 1.0,
        "runs": runs,
    }


def agreement(answers: dict[str, list]) -> str:
    """By how much of the mask both agree, for pieces that prune."""
    if not isinstance(answers["plain"][0], Tensor):
        return ""
    same = torch.cat(
        [
            ((p == 0) == (o == 0)).flatten()
            for p, o in zip(answers["plain"], answers["ours"], strict=True)
        ]
    )
    return f"; {same.double().mean().item():.4%} of the mask the same"
