"""Properties of the solvers, in float64."""

import gc
import inspect
import itertools
from dataclasses import replace

import pytest
import torch

from benchmarks.plain.solve import solve as column_by_column
from obsdiff.calibration.hessian import Hessian
from obsdiff.errors import NotPositiveDefinite
from obsdiff.solvers import BASELINES, SOLVERS
from obsdiff.solvers.cholesky import MAX_FLOAT32_ERROR, condition, inverse_factor, narrow_
from obsdiff.solvers.dsnot import MAX_SWAPS, THRESHOLD, dsnot
from obsdiff.solvers.masks import kth_smallest, lowest, lowest_in_groups, lowest_in_rows
from obsdiff.solvers.obs import obs, sweep_
from obsdiff.solvers.problem import Inputs, Target, layer_error
from obsdiff.solvers.wanda import wanda

HALF = Target(0.5)


def problem(
    outputs: int, inputs: int, tokens: int = 2000, seed: int = 0
) -> tuple[torch.Tensor, torch.Tensor]:
    """A weight (O, I) and the Hessian (I, I) of correlated inputs, float64."""
    g = torch.Generator().manual_seed(seed)
    mix = torch.randn(inputs, inputs, generator=g, dtype=torch.float64) / inputs**0.5
    x = torch.randn(tokens, inputs, generator=g, dtype=torch.float64) @ (
        torch.eye(inputs, dtype=torch.float64) + mix
    )
    return torch.randn(outputs, inputs, generator=g, dtype=torch.float64), 2 * x.T @ x / tokens


def seen(hessian: torch.Tensor) -> Inputs:
    """Inputs with this Hessian, and a mean and a variance (I,) that they may have: the problem's own tokens, moved off zero."""
    square = hessian.diagonal() / 2
    mean = square.clamp(min=0).sqrt() * torch.linspace(-0.9, 0.9, len(hessian), dtype=hessian.dtype)
    return Inputs(hessian, mean, square - mean**2)


@pytest.mark.parametrize(("rows", "columns"), [(3, 5), (300, 700)])
def test_the_layer_error_is_its_definition(rows, columns):
    g = torch.Generator().manual_seed(rows)
    w, x, d = (
        torch.randn(n, columns, dtype=torch.float64, generator=g) for n in (rows, 2000, rows)
    )
    error = ((x @ d.T).square().sum() / (x @ w.T).square().sum()).item()
    assert layer_error(w, w + d, x.T @ x) == pytest.approx(error, rel=1e-9)


def best_kept(
    weight: torch.Tensor, hessian: torch.Tensor, fixed: torch.Tensor, free: list[int]
) -> torch.Tensor:
    """The row (I,) nearest to `weight` in the Hessian's norm whose entries outside `free` are those of `fixed`."""
    held = [i for i in range(len(weight)) if i not in free]
    change = torch.zeros_like(weight)
    change[held] = fixed[held] - weight[held]
    if free:
        change[free] = -torch.linalg.solve(
            hessian[free][:, free], hessian[free][:, held] @ change[held]
        )
    return weight + change


def by_definition(weight: torch.Tensor, hessian: torch.Tensor, kept: torch.Tensor) -> torch.Tensor:
    """The sweep by its definition: column after column is fixed, and all columns to its right solved for anew."""
    row = weight.clone()
    for q in range(len(row)):
        row[q] = row[q] * kept[q]
        row = best_kept(weight, hessian, row, list(range(q + 1, len(row))))
    return row


@pytest.mark.parametrize("table", [SOLVERS, BASELINES])
def test_all_have_one_signature(table):
    assert (
        len(
            {
                tuple((p.name, p.kind) for p in inspect.signature(solver).parameters.values())
                for solver in table.values()
            }
        )
        == 1
    )


@pytest.mark.parametrize("method", SOLVERS)
@pytest.mark.parametrize("columns", [32, 128, 200, 256])
def test_unstructured_sparsity_is_exact_in_every_matrix(method, columns):
    w, h = problem(24, columns)
    for s, matrix in zip(
        SOLVERS[method]([w, 2 * w.flip(0)], seen(h), Target(0.3)), (w, 2 * w.flip(0)), strict=True
    ):
        assert abs((s.weight == 0).double().mean().item() - 0.3) < 1e-3
        assert torch.equal(s.kept, s.weight != 0)
        assert s.weight.shape == matrix.shape


@pytest.mark.parametrize("method", SOLVERS)
@pytest.mark.parametrize(("n", "m"), [(2, 4), (4, 8), (1, 4), (3, 5), (1, 2), (7, 40), (100, 200)])
def test_groups_keep_at_most_n_of_m(method, n, m):
    w, h = problem(16, 400)
    (s,) = SOLVERS[method]([w], seen(h), Target(1 - n / m, (n, m)))
    assert (s.weight.unflatten(1, (-1, m)) != 0).sum(2).max() == n
    assert (s.weight != 0).sum() == 16 * 400 * n // m


def test_the_weights_of_a_whole_last_block_are_the_constrained_least_squares_optimum():
    w, h = problem(8, 160)
    kept = torch.rand(8, 160, generator=torch.Generator().manual_seed(1)) > 0.5
    kept[:, 128:] = True
    columns = iter([kept[:, :128], kept[:, 128:]])
    factor, _, _ = inverse_factor(h, 0.0)
    swept = w.T.contiguous()
    sweep_(swept, factor, lambda s: ~next(columns).T)
    for before, after in zip(w, swept.T, strict=True):
        torch.testing.assert_close(
            after, best_kept(before, h, after, list(range(128, 160))), rtol=1e-9, atol=1e-9
        )


@pytest.mark.parametrize("columns", [6, 33, 131])
def test_the_sweep_is_its_definition(columns):
    """Every column is solved for given those to its left: across strips of 16 and the block border at 128."""
    w, h = problem(2, columns)
    (s,) = obs([w], seen(h), replace(HALF, damping=0.0))
    for before, after, kept in zip(w, s.weight, s.kept, strict=True):
        torch.testing.assert_close(after, by_definition(before, h, kept), rtol=1e-8, atol=1e-8)


def test_a_row_of_six_against_all_subsets_of_its_size():
    """Of the 20 ways to keep 3 of 6 columns in sweep order, the one that OBS takes is among the best, and its reported loss is
    the true one: half of what the row's error grows by."""
    ranks = []
    for seed in range(20):
        w, h = problem(1, 6, seed=seed)
        (s,) = obs([w], seen(h), replace(HALF, damping=0.0))
        losses = {}
        for subset in itertools.combinations(range(6), 3):
            kept = torch.zeros(6, dtype=torch.bool)
            kept[list(subset)] = True
            d = by_definition(w[0], h, kept) - w[0]
            losses[subset] = (d @ h @ d / 2).item()
        taken = losses[tuple(s.kept[0].nonzero().flatten().tolist())]
        assert s.loss == pytest.approx(taken, rel=1e-9)
        ranks.append(sorted(losses.values()).index(taken))
    assert sum(ranks) / len(ranks) < 3


@pytest.mark.parametrize("group", [None, (2, 4), (1, 4)])
def test_loss_is_never_above_magnitudes(group):
    for seed in range(5):
        w, h = problem(32, 192, seed=seed)
        target = Target(1 - group[0] / group[1], group) if group else HALF
        errors = {
            name: layer_error(w, SOLVERS[name]([w], seen(h), target)[0].weight, h)
            for name in ("obs", "magnitude")
        }
        assert errors["obs"] < errors["magnitude"]


def test_compensation_helps_and_can_be_left_out():
    w, h = problem(32, 192)
    repaired, bare = (
        obs([w], seen(h), HALF)[0],
        obs([w], seen(h), replace(HALF, compensate=False))[0],
    )
    assert torch.equal(bare.weight, torch.where(bare.kept, w, 0))
    assert layer_error(w, repaired.weight, h) < layer_error(w, bare.weight, h)


def test_matrices_that_share_an_input_are_pruned_as_if_alone():
    w, h = problem(30, 160)
    together = obs(list(w.split([10, 15, 5])), seen(h), HALF)
    alone = [obs([part], seen(h), HALF)[0] for part in w.split([10, 15, 5])]
    for a, b in zip(together, alone, strict=True):
        assert torch.equal(a.kept, b.kept)
        torch.testing.assert_close(a.weight, b.weight)


def test_dead_inputs_lose_their_weights():
    w, h = problem(8, 64)
    dead = torch.tensor([3, 40])
    h[dead] = 0
    h[:, dead] = 0
    (s,) = obs([w], seen(h), HALF)
    assert (s.weight[:, dead] == 0).all()
    assert s.weight.isfinite().all()


def test_a_rank_deficient_hessian_is_damped_until_it_can_be_factored():
    w, _ = problem(8, 64)
    x = torch.randn(10, 64, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    h = 2 * x.T @ x
    (s,) = obs([w], seen(h), HALF)
    assert s.weight.isfinite().all()
    assert layer_error(w, s.weight, h) < 0.1
    (shifted,) = obs([w], seen(h - 0.02 * h.diagonal().mean() * torch.eye(64)), HALF)
    assert shifted.damping == pytest.approx(0.1)  # one step up the ladder, and said so


def test_what_no_damping_can_repair_is_an_error():
    w, h = problem(8, 64)
    with pytest.raises(NotPositiveDefinite, match=r"0\.01 to 10"):
        obs([w], seen(-h), HALF)
    h[0, 0] = float("inf")
    with pytest.raises(NotPositiveDefinite, match="inf or NaN"):
        obs([w], seen(h), HALF)


def test_the_factor_is_that_of_the_inverse():
    _, h = problem(1, 50)
    factor, dead, used = inverse_factor(h, 0.0)
    assert not dead.any()
    assert used == 0
    torch.testing.assert_close(factor.T @ factor, torch.linalg.inv(h))
    assert torch.equal(factor, factor.triu())


def test_dead_inputs_leave_the_callers_hessian_alone():
    h = torch.zeros(4, 4)
    factor, dead, _ = inverse_factor(h, 0.0)
    assert dead.all()
    assert torch.equal(factor, torch.eye(4))
    assert (h == 0).all()


@pytest.mark.parametrize("size", [1, 5, 300])
def test_narrowed_in_its_own_memory_it_is_the_same(size):
    matrix = torch.randn(size, size, dtype=torch.float64)
    expected, where = matrix.float(), matrix.data_ptr()
    found = narrow_(matrix, torch.float32)
    assert torch.equal(found, expected)
    assert found.data_ptr() == where
    assert torch.equal(narrow_(found, torch.float64), expected.double())


def test_magnitude_by_hand():
    """Half of the whole matrix: 1, 2, 3 and 4 go, which are the second row; their squares are 30. 2:4: half of every row, 6, 5, 1 and 2
    with squares 66. The first input is a thousand times the last, and has no say."""
    inputs = seen(torch.diag(torch.tensor([1e6, 1.0, 1.0, 1e-6], dtype=torch.float64)))
    w = torch.tensor([[5.0, -7.0, 6.0, 8.0], [-1.0, 2.0, -3.0, 4.0]])
    (s,) = SOLVERS["magnitude"]([w], inputs, HALF)
    assert s.weight.tolist() == [[5.0, -7.0, 6.0, 8.0], [0.0, 0.0, 0.0, 0.0]]
    assert s.loss == 30
    (s,) = SOLVERS["magnitude"]([w], inputs, Target(0.5, (2, 4)))
    assert s.weight.tolist() == [[0.0, -7.0, 0.0, 8.0], [0.0, 0.0, -3.0, 4.0]]
    assert s.loss == 66


def test_wanda_by_hand():
    """Second moments 16, 1/4, 1 and 4, so norms 4, 1/2, 1 and 2; what lies off the diagonal plays no part.
    Scores: 4, 5, 3, 1 and 80, 5, 10, 100. What goes has 3^2 + 1^2 + 5^2 + 10^2 = 135 of squared error, half of it as H has 2 E."""
    h = torch.diag(torch.tensor([32.0, 0.5, 2.0, 8.0], dtype=torch.float64)) + 0.1
    h.diagonal().sub_(0.1)
    w = torch.tensor([[1.0, -10.0, 3.0, 0.5], [20.0, 10.0, -10.0, 50.0]], dtype=torch.float64)
    (s,) = wanda([w], seen(h), HALF)
    assert s.weight.tolist() == [[1.0, -10.0, 0.0, 0.0], [20.0, 0.0, 0.0, 50.0]]
    assert s.loss == pytest.approx(135)
    (s,) = wanda([w], seen(h), Target(0.5, (1, 2)))
    assert s.weight.tolist() == [[0.0, -10.0, 3.0, 0.0], [20.0, 0.0, 0.0, 50.0]]


def test_wandas_loss_is_the_true_one_of_a_single_weight():
    """Half of what the row's squared error grows by, as obs counts it."""
    w, h = problem(1, 10)
    (s,) = wanda([w], seen(h), Target(0.1))
    d = w - s.weight
    assert (d != 0).sum() == 1
    assert s.loss == pytest.approx((d @ h @ d.T).item() / 2)


def dsnot_of(
    row: list[float], mean: list[float], variance: list[float], target: Target = HALF
) -> list[float]:
    """What dsnot leaves of a single row."""
    w, m, v = (torch.tensor(values, dtype=torch.float64) for values in (row, mean, variance))
    return (
        dsnot([w.unsqueeze(0)], Inputs(torch.diag(2 * (v + m**2)), m, v), target)[0]
        .weight[0]
        .tolist()
    )


def test_dsnot_by_hand():
    """Wanda's scores are 4 sqrt 2, sqrt 8, 2 sqrt 3, sqrt 5 / 2: it keeps 4 and -2. Removed are c = 2 and c = 1, E = 3.
    Growing: 2 / 4 against 1 / 1, so 0.5 comes back. Pruning: of 4 (c = 4) and -2 (c = -2) only the latter helps. E = 3 - 1 - 2 = 0."""
    assert dsnot_of([4.0, 1.0, -2.0, 0.5], [1.0, 2.0, 1.0, 2.0], [1.0, 4.0, 2.0, 1.0]) == [
        4.0,
        0.0,
        0.0,
        0.5,
    ]


def test_dsnot_may_pass_zero_and_moves_a_weight_once():
    """All inputs alike, mean 1 and variance 1: c is the weight. Wanda keeps 5, -4, -3; E = 2 + 1 - 0.5 = 2.5.
    2 for -3: E = -2.5. -0.5 for 5 (2 would be cheaper, but has just come): E = 3. 1 for -4: E = -2. No removed weight below
    zero is left but those that have just gone."""
    assert dsnot_of([5.0, -4.0, -3.0, 2.0, 1.0, -0.5], [1.0] * 6, [1.0] * 6) == [
        0.0,
        0.0,
        0.0,
        2.0,
        1.0,
        -0.5,
    ]


def test_dsnot_swaps_within_groups():
    """1:2, c is the weight. Wanda keeps 3 and -4, E = 3.5. Growing 2 would help more, but only its own 3 could go, which
    (3) forbids; so 1.5 for -4: E = -2."""
    assert dsnot_of([3.0, 2.0, -4.0, 1.5], [1.0] * 4, [1.0] * 4, Target(0.5, (1, 2))) == [
        3.0,
        0.0,
        0.0,
        1.5,
    ]


@pytest.mark.parametrize("times", [1, 500])
def test_dsnots_threshold_is_a_mean_over_tokens(times):
    """The row of test_dsnot_by_hand, whose E is 3, made so small that E is 0.101: swapped; 0.099: left to Wanda. Two tokens at mean +- the
    root of the variance have those means and variances, and have them 500 times over, too."""
    assert (THRESHOLD, MAX_SWAPS) == (0.1, 50)
    spread = torch.tensor([1.0, 4.0, 2.0, 1.0], dtype=torch.float64).sqrt()
    tokens = torch.tensor([1.0, 2.0, 1.0, 2.0], dtype=torch.float64) + torch.stack(
        [spread, -spread]
    )
    seen_tokens = Hessian.zeros(4)
    seen_tokens.update(tokens.repeat(times, 1))
    inputs = Inputs(seen_tokens.matrix(), seen_tokens.mean(), seen_tokens.variance())
    row = torch.tensor([[4.0, 1.0, -2.0, 0.5]], dtype=torch.float64)
    for error, kept in ((0.101, [0, 3]), (0.099, [0, 2])):
        (s,) = dsnot([row * error / 3], inputs, HALF)
        assert s.kept[0].nonzero().flatten().tolist() == kept


def test_dsnot_grows_an_input_that_never_varies_first():
    assert dsnot_of([4.0, 1.0, -2.0, 0.5], [1.0, 2.0, 1.0, 2.0], [1.0, 0.0, 2.0, 1.0]) == [
        4.0,
        1.0,
        0.0,
        0.0,
    ]


def swapped_by_definition(
    row: torch.Tensor,
    kept: torch.Tensor,
    norm: torch.Tensor,
    mean: torch.Tensor,
    variance: torch.Tensor,
    m: int,
) -> torch.Tensor:
    """DSnoT's cycles, weight by weight: the kept mask (I,) of one row that starts with `kept`; swaps within m columns."""
    kept, moved = kept.clone(), set()
    for _ in range(MAX_SWAPS):
        error = sum((row[k] * mean[k]).item() for k in range(len(row)) if not kept[k])
        if abs(error) <= THRESHOLD:
            break
        sign = 1 if error > 0 else -1
        use = [(sign * row[k] * mean[k]).item() for k in range(len(row))]
        may_go = [k for k in range(len(row)) if kept[k] and k not in moved and use[k] < 0]
        may_come = [
            k
            for k in range(len(row))
            if not kept[k]
            and k not in moved
            and use[k] > 0
            and any(j // m == k // m for j in may_go)
        ]
        if not may_come:
            break
        comes = max(may_come, key=lambda k: use[k] / variance[k])
        goes = min((k for k in may_go if k // m == comes // m), key=lambda k: abs(row[k]) * norm[k])
        kept[comes], kept[goes] = True, False
        moved |= {comes, goes}
    return kept


@pytest.mark.parametrize("group", [None, (2, 4), (1, 4), (5, 8)])
def test_dsnot_is_its_definition(group):
    w, h = problem(40, 96)  # more rows than are swapped at once
    target = Target(1 - group[0] / group[1], group) if group else HALF
    at_first, (s,) = wanda([w], seen(h), target)[0].kept, dsnot([w], seen(h), target)
    for row, before, after in zip(w, at_first, s.kept, strict=True):
        expected = swapped_by_definition(
            row,
            before,
            h.diagonal().sqrt(),
            seen(h).mean,
            seen(h).variance,
            group[1] if group else 96,
        )
        assert torch.equal(after, expected)


@pytest.mark.parametrize("group", [None, (2, 4), (5, 8)])
def test_dsnots_swaps_keep_each_rows_count_and_shrink_its_error(group):
    w, h = problem(64, 400)
    target = Target(1 - group[0] / group[1], group) if group else HALF
    at_first, at_last = (SOLVERS[name]([w], seen(h), target)[0].kept for name in ("wanda", "dsnot"))
    assert torch.equal(at_first.sum(1), at_last.sum(1))
    first, last = ((w.masked_fill(kept, 0) @ seen(h).mean).abs() for kept in (at_first, at_last))
    assert last.mean() < 0.3 * first.mean()


@pytest.mark.parametrize("method", ["wanda", "dsnot"])
def test_dead_inputs_leave_first_and_never_come_back(method):
    w, h = problem(8, 64)
    dead = torch.tensor([3, 40])
    h[dead] = 0
    h[:, dead] = 0
    (s,) = SOLVERS[method]([w], seen(h), HALF)
    assert (s.weight[:, dead] == 0).all()
    assert ((s.weight == 0).sum(1) == 32).all()
    assert torch.equal(s.weight, torch.where(s.kept, w, 0))


def test_rows_differ_by_one_where_the_share_is_no_whole_number_of_weights():
    drop = lowest_in_rows(torch.ones(4, 5), 0.5)
    assert drop.sum(1).tolist() == [2, 3, 2, 3]
    assert drop[0].tolist() == [True, True, False, False, False]  # ties are broken by position
    assert not lowest_in_rows(torch.ones(4, 5), 0.0).any()


def test_ties_are_broken_by_position():
    assert lowest(torch.ones(2, 4), 3).flatten().tolist() == [True] * 3 + [False] * 5
    assert lowest_in_groups(torch.ones(1, 4), 1, 2).tolist() == [[True, False, True, False]]
    assert not lowest(torch.ones(2, 4), 0).any()


@pytest.mark.parametrize("group", [None, (2, 4)])
def test_the_plain_algorithm_in_float64_has_the_same_mask_and_error(group):
    """On equal Hessians: 99.9 % of the mask, 0.5 % of the layer error, for float32 weights and a Hessian of either precision."""
    w, h = problem(128, 512)
    plain = column_by_column(w, h, 0.5, group)
    for hessian in (h, h.float()):
        (s,) = obs([w.float()], seen(hessian), Target(0.5, group))
        assert (s.kept != (plain != 0)).double().mean() < 1e-3
        assert layer_error(w, s.weight, h) == pytest.approx(layer_error(w, plain, h), rel=5e-3)


@pytest.mark.parametrize("k", [1, 2, 5_000, 50_000, 99_999, 100_000])
@pytest.mark.parametrize("kind", ["random", "sorted", "ties"])
def test_the_kth_smallest_is_exact(k, kind):
    x = torch.randn(100_000, generator=torch.Generator().manual_seed(0))
    x = {"random": x, "sorted": x.sort().values, "ties": x.round()}[kind]
    assert kth_smallest(x, k) == x.sort().values[k - 1]


def test_a_badly_conditioned_float32_hessian_is_factored_in_float64():
    """And then the mask is that of a float64 run, but for rounding of H itself."""
    w, h = problem(64, 320)
    scale = torch.logspace(0, -3, 320, dtype=torch.float64)
    h = (h * scale * scale.unsqueeze(1)).float()
    target = replace(HALF, damping=1e-5)
    factor, _, used = inverse_factor(h, 1e-5)
    exact, _, _ = inverse_factor(h.double(), 1e-5)
    assert 320 * condition(h, factor) > MAX_FLOAT32_ERROR
    assert (used, factor.dtype) == (1e-5, torch.float32)
    torch.testing.assert_close(
        factor, exact.float(), rtol=1e-5, atol=1e-7 * exact.abs().max().item()
    )
    quick, slow = obs([w.float()], seen(h), target)[0], obs([w], seen(h.double()), target)[0]
    assert (quick.kept != slow.kept).double().mean() < 1e-3


def test_float32_agrees_with_float64():
    w, h = problem(64, 320)
    exact, quick = obs([w], seen(h), HALF)[0], obs([w.float()], seen(h.float()), HALF)[0]
    assert (exact.kept != quick.kept).double().mean() < 1e-3
    assert layer_error(w, quick.weight, h) == pytest.approx(
        layer_error(w, exact.weight, h), rel=1e-3
    )


@pytest.mark.slow
@pytest.mark.parametrize("pattern", ["half", "2:4"])
@pytest.mark.parametrize("method", SOLVERS)
def test_memory_is_free_when_a_solver_is_done(method, pattern):
    """Nothing waits for the garbage collector: a layer's factor is as large as its Hessian."""
    w, h = problem(8, 64)
    gc.collect()
    gc.disable()
    try:
        SOLVERS[method]([w], seen(h), HALF if pattern == "half" else Target(0.5, (2, 4)))
        gc.set_debug(gc.DEBUG_SAVEALL)
        gc.collect()
        waiting = [tuple(found.shape) for found in gc.garbage if isinstance(found, torch.Tensor)]
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.enable()
    assert waiting == []
