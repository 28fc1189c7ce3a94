"""Channel permutation keeps at least as much as the present order, inside the sets.

On small cases it is near the best order of all.
"""

import itertools

import pytest
import torch

from obsdiff.solvers.permutation import Search, kept, permutation


def scores_of(*shape: int, seed: int = 0) -> torch.Tensor:
    return (
        torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) ** 4
    )


@pytest.mark.parametrize(("n", "m"), [(1, 2), (2, 4), (1, 4), (3, 4), (4, 8)])
def test_it_keeps_more_and_never_less(n, m):
    scores = scores_of(3, 20, 4 * m)
    order = permutation(scores, n, m)
    before, after = kept(scores, None, n, m), kept(scores, order, n, m)
    assert (after > before).all()
    assert torch.equal(order.sort(1).values, torch.arange(4 * m).expand(3, -1))
    assert torch.equal(order, permutation(scores, n, m))


@pytest.mark.parametrize("seed", range(6))
def test_no_single_exchange_improves_it_and_the_best_of_all_is_near(seed):
    scores = scores_of(1, 6, 8, seed=seed)
    order = permutation(scores, 2, 4)
    found = kept(scores, order, 2, 4).item()
    first = (g for g in itertools.combinations(range(8), 4) if 0 in g)
    orders = [[*g, *(j for j in range(8) if j not in g)] for g in first]
    best = max(kept(scores, torch.tensor([one]), 2, 4).item() for one in orders)
    assert 0.97 * best <= found <= best + 1e-12
    for i, j in itertools.product(range(4), range(4, 8)):
        other = order.clone()
        other[0, [i, j]] = order[0, [j, i]]
        assert kept(scores, other, 2, 4).item() <= found * (1 + 1e-4)


def test_the_computed_gain_of_an_exchange_is_its_gain():
    scores = scores_of(1, 7, 8)
    scores[0, 0] = 0.5  # equal ones
    scores[0, 1, ::2] = 0.0
    gains = Search(scores.transpose(1, 2), 2, 4).gains(torch.tensor([0]), torch.tensor([1]))[0]
    for i, j in itertools.product(range(4), range(4)):
        order = torch.arange(8)
        order[i], order[4 + j] = 4 + j, i
        gain = kept(scores, order.unsqueeze(0), 2, 4) - kept(scores, None, 2, 4)
        torch.testing.assert_close(gains[i, j], gain[0], atol=1e-12, rtol=0)


def test_without_a_gain_the_order_does_not_change():
    for scores in (torch.ones(2, 5, 8), torch.zeros(2, 5, 8), scores_of(2, 5, 4)):
        assert torch.equal(permutation(scores, 2, 4), torch.arange(scores.shape[2]).expand(2, -1))


def test_a_sample_of_rows_can_not_make_it_worse():
    scores = scores_of(2, 1300, 16)
    scores[:, torch.arange(512) * 1300 // 512] *= (
        1e-6  # the sampled rows represent the others badly
    )
    assert (kept(scores, permutation(scores, 2, 4), 2, 4) >= kept(scores, None, 2, 4)).all()
