"""Swaps against brute force, in float64."""

import itertools
import statistics

import pytest
import torch

from obsdiff.calibration.packages import work_bytes
from obsdiff.config import PruningConfig
from obsdiff.errors import NotPositiveDefinite, UserError
from obsdiff.models.structure import Tap
from obsdiff.prune import prune_
from obsdiff.solvers import SOLVERS
from obsdiff.solvers.lstsq import damped, lstsq, refined
from obsdiff.solvers.problem import Solution, Target, layer_error, squared_error
from obsdiff.solvers.swaps import LEAST_GAIN, best_in_groups, best_of_candidates, swapped
from tests.solvers.problems import best_kept, problem, seen

from ..conftest import sd3
from ..support.lanes import first_quick
from ..support.tensor_memory import peak_of

TARGETS = [Target(0.5), Target(0.5, (2, 4)), Target(0.75, (1, 4))]
NAMES = ["half", "2:4", "1:4"]


def start(
    target: Target, rows: int, columns: int, seed: int = 0
) -> tuple[torch.Tensor, torch.Tensor, Solution]:
    """A weight, a Hessian, and the solution of magnitude pruning."""
    w, h = problem(rows, columns, seed=seed)
    return w, h, SOLVERS["magnitude"]([w], seen(h), target)[0]


def half_error(weight: torch.Tensor, pruned: torch.Tensor, square: torch.Tensor) -> float:
    return squared_error(weight[None], pruned[None], square) / 2


def single_swaps(
    row: torch.Tensor,
    pruned: torch.Tensor,
    kept: torch.Tensor,
    square: torch.Tensor,
    group: tuple[int, int] | None,
) -> dict[tuple[int, int], float]:
    """The change of a row's error by every swap: the new value is optimal, the others are fixed."""
    found, whole = {}, half_error(row, pruned, square)
    for gone, back in itertools.product(
        kept.nonzero().flatten().tolist(), (~kept).nonzero().flatten().tolist()
    ):
        if group and gone // group[1] != back // group[1]:
            continue
        fixed = pruned.clone()
        fixed[gone] = 0
        found[gone, back] = half_error(row, best_kept(row, square, fixed, [back]), square) - whole
    return found


@pytest.mark.parametrize("resolved", [True, False], ids=["re-solved", "as they were"])
@pytest.mark.parametrize("group", [None, (2, 4)], ids=["half", "2:4"])
def test_the_change_of_the_best_swap_is_the_true_one(group, resolved):
    w, h, s = start(Target(0.5, group), 12, 8)
    pruned = lstsq(w, s.kept, h, 0.0) if resolved else s.weight
    gradient, live = (pruned - w) @ h, torch.ones(8, dtype=torch.bool)
    best = (
        best_in_groups(pruned, s.kept, gradient, h, live, 4)
        if group
        else best_of_candidates(pruned, s.kept, gradient, h, live)
    )
    for i in range(len(w)):
        all_swaps = single_swaps(w[i], pruned[i], s.kept[i], h, group)
        after = pruned[i].clone()
        after[best.gone[i]], after[best.back[i]] = 0, best.value[i]
        change = half_error(w[i], after, h) - half_error(w[i], pruned[i], h)
        assert best.change[i].item() == pytest.approx(change, rel=1e-6, abs=1e-9)
        assert change == pytest.approx(min(all_swaps.values()), rel=1e-6, abs=1e-9)
        assert change == pytest.approx(
            all_swaps[int(best.gone[i]), int(best.back[i])], rel=1e-6, abs=1e-9
        )


@pytest.mark.parametrize("target", TARGETS, ids=NAMES)
def test_no_single_swap_improves_the_result_on_tiny_problems(target):
    for seed in range(4):
        w, h, s = start(target, 6, 8, seed)
        after, square = swapped(w, s, h, 0.01, target.group), damped(h, 0.01)
        before = lstsq(w, s.kept, h, 0.01)
        for i in range(len(w)):
            whole = half_error(w[i], after.weight[i], square)
            assert (
                min(
                    single_swaps(
                        w[i], after.weight[i], after.kept[i], square, target.group
                    ).values()
                )
                > -LEAST_GAIN * whole - 1e-9
            )
            assert whole <= half_error(w[i], before[i], square) * (1 + 1e-6)


@pytest.mark.parametrize("target", TARGETS, ids=NAMES)
@pytest.mark.parametrize("method", SOLVERS)
def test_better_than_the_resolve_with_the_same_number_of_weights(method, target):
    w, h = problem(16, 160)
    (s,) = SOLVERS[method]([w], seen(h), target)
    resolved, after = (
        refined(w, s, h, target.damping),
        swapped(w, s, h, target.damping, target.group),
    )
    width = target.group[1] if target.group else 160
    assert torch.equal(*(one.kept.unflatten(1, (-1, width)).sum(2) for one in (s, after)))
    assert torch.equal(after.weight != 0, after.kept)
    assert layer_error(w, after.weight, h) < (0.999 if method == "alps" else 0.9) * layer_error(
        w, resolved.weight, h
    )
    assert after.loss == pytest.approx(squared_error(w, after.weight, h) / 2)


@pytest.mark.parametrize("target", TARGETS, ids=NAMES)
def test_rows_are_solved_independently_of_their_stack(target):
    w, h = problem(20, 64)
    kept = SOLVERS["wanda"]([w], seen(h), target)[0].kept  # the same number of weights in every row
    parts = [
        Solution(w[rows] * kept[rows], kept[rows], 0.0, 0.01)
        for rows in (slice(0, 20), slice(0, 7), slice(7, 20))
    ]
    whole, first, second = (
        swapped(one, part, h, 0.01, target.group)
        for one, part in zip((w, w[:7], w[7:]), parts, strict=True)
    )
    assert torch.equal(whole.kept, torch.cat([first.kept, second.kept]))
    torch.testing.assert_close(
        whole.weight, torch.cat([first.weight, second.weight]), rtol=1e-3, atol=1e-3
    )


@pytest.mark.parametrize("target", TARGETS, ids=NAMES)
def test_inputs_that_are_always_zero_are_not_restored(target):
    w, h, s = start(target, 12, 32)
    dead = [3, 8, 9, 10, 11]
    h[dead], h[:, dead] = 0, 0
    after = swapped(w, s, h, 0.01, target.group)
    assert after.weight.isfinite().all()
    assert not (after.kept & ~s.kept)[:, dead].any()
    assert layer_error(w, after.weight, h) <= layer_error(w, lstsq(w, s.kept, h, 0.01), h) * (
        1 + 1e-6
    )


@pytest.mark.parametrize("target", TARGETS, ids=NAMES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_singular_hessian(target, dtype):
    w, h = (part.to(dtype) for part in problem(16, 64, tokens=20))
    (s,) = SOLVERS["obs"]([w], seen(h), target)
    after = swapped(w, s, h, 0.01, target.group)
    square, best = damped(h, 0.01), lstsq(w, s.kept, h, 0.01)
    assert squared_error(w, after.weight, square) < squared_error(w, best, square)


def test_rows_that_keep_all_or_nothing_do_not_change():
    w, h, s = start(Target(0.5), 6, 20)
    s.kept[0], s.kept[1] = True, False
    after = swapped(w, s, h, 0.01)
    assert after.kept[0].all()
    assert not after.weight[1].any()
    torch.testing.assert_close(after.weight[0], w[0], rtol=1e-2, atol=1e-2)


def test_half_precision_weights_keep_their_dtype():
    w, h, s = start(Target(0.5), 6, 20)
    s = Solution(s.weight.bfloat16(), s.kept, s.loss, s.damping)
    assert swapped(w.bfloat16(), s, h.float(), 0.01).weight.dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("change", "words"), [(float("nan"), "inf or NaN"), (-1e6, "not positive definite")]
)
def test_an_invalid_hessian_is_an_error(change, words):
    w, h, s = start(Target(0.5), 4, 8)
    h[0, 0] = change
    with pytest.raises(NotPositiveDefinite, match=words):
        swapped(w, s, h, 0.01)


@pytest.mark.slow
@pytest.mark.parametrize("group", [None, (2, 4)], ids=["half", "2:4"])
def test_solving_stays_within_the_planned_memory(group):
    columns, rows = 512, 256
    w, h, s = (
        one.float() if isinstance(one, torch.Tensor) else one
        for one in start(Target(0.5, group), rows, columns)
    )
    s = Solution(s.weight.float(), s.kept, s.loss, s.damping)
    planned = work_bytes(
        [Tap(("x",), "ffn")], {"x": (rows, columns)}, PruningConfig(refine="swaps")
    )
    peak = peak_of(lambda: swapped(w, s, h, 0.01, group))
    assert planned / 2 < peak <= planned


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"pattern": "structured"}, "refine swaps exchanges single weights"),
        ({"compensation": False}, "refine swaps repairs the kept weights"),
    ],
)
def test_incompatible_settings_are_refused(settings, words):
    with pytest.raises(UserError, match=words):
        PruningConfig(refine="swaps", **settings)


@pytest.mark.slow
@pytest.mark.parametrize(
    "settings",
    first_quick([{"method": "obs"}, {"method": "magnitude", "pattern": "2:4"}]),
    ids=["obs", "magnitude 2:4"],
)
def test_a_whole_pruning_has_smaller_layer_errors_than_by_the_resolve(settings):
    quick = {"num_prompts": 2, "num_inference_steps": 2, "calibration": "single"}
    resolved, after = (
        prune_(
            sd3(),
            ["a red square", "a blue circle"],
            PruningConfig(refine=refine, **settings, **quick),
        )
        for refine in ("lstsq", "swaps")
    )
    assert [row.sparsity for row in after.layers] == [row.sparsity for row in resolved.layers]
    assert statistics.median(row.error for row in after.layers) < 0.95 * statistics.median(
        row.error for row in resolved.layers
    )
