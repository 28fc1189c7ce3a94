"""Removal of heads and neurons against an inversion at every step, in float64."""

import pytest
import torch

from benchmarks.plain.structured import remove_parts as plain
from obsdiff.solvers.obs_structured import Consumer, obs_heads, obs_neurons
from obsdiff.solvers.problem import layer_error
from tests.solvers.problems import best_kept, problem


def heads(count: int, width: int) -> list[torch.Tensor]:
    return list(torch.arange(count * width).split(width))


@pytest.mark.parametrize("streams", [1, 2])
def test_heads_are_removed_as_with_plain_reinversion(streams):
    data = [problem(20, 8 * 6, seed=s) for s in range(streams)]
    consumers = [Consumer.begin(w, h, 0.01) for w, h in data]
    removed, importance = obs_heads(consumers, heads(8, 6), 4)
    expected, weights = plain(data, heads(8, 6), 4, heads=True)
    assert removed == expected
    assert len(importance) == 8
    for consumer, w in zip(consumers, weights, strict=True):
        torch.testing.assert_close(consumer.weight, w, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("count", [1, 8, 9, 70, 100])
def test_neurons_are_removed_as_with_plain_reinversion(count):
    w, h = problem(12, 120)
    consumer = Consumer.begin(w, h, 0.01)
    removed, _ = obs_neurons(consumer, torch.arange(120), count)
    expected, weights = plain([(w, h)], heads(120, 1), count, heads=False)
    assert removed == expected
    torch.testing.assert_close(consumer.weight, weights[0], rtol=1e-6, atol=1e-8)


def test_in_single_precision_too():
    """The same neurons, and weights within a relative 1e-4."""
    w, h = (x.float() for x in problem(12, 256))
    consumer = Consumer.begin(w, h, 0.01)
    removed, _ = obs_neurons(consumer, torch.arange(256), 64)
    expected, weights = plain([(w, h)], heads(256, 1), 64, heads=False)
    assert set(removed) == set(expected)
    assert (consumer.weight - weights[0]).norm() < 1e-4 * weights[0].norm()


@pytest.mark.parametrize("count", [1, 8, 9, 30, 39])
def test_the_remaining_columns_are_the_least_squares_optimum(count):
    """The repair is exact for every row, whatever the groups."""
    w, h = problem(6, 40)
    consumer = Consumer.begin(w, h, 0.0)
    removed, losses = obs_neurons(consumer, torch.arange(40), count)
    assert len(set(removed)) == count
    assert len(losses) == 40
    free = [i for i in range(40) if i not in removed]
    for before, after in zip(w, consumer.weight, strict=True):
        torch.testing.assert_close(
            after,
            best_kept(before, h, torch.zeros(40, dtype=torch.float64), free),
            rtol=1e-7,
            atol=1e-9,
        )


def test_heads_and_neurons_of_one_consumer_share_its_inverse():
    """FLUX's single blocks: one projection reads [heads | neurons]."""
    w, h = problem(10, 4 * 5 + 30)
    consumer = Consumer.begin(w, h, 0.0)
    gone = [j for i in obs_heads([consumer], heads(4, 5), 1)[0] for j in range(5 * i, 5 * i + 5)]
    gone += [20 + i for i in obs_neurons(consumer, torch.arange(20, 50), 10)[0]]
    free = [i for i in range(50) if i not in gone]
    assert consumer.left.nonzero().flatten().tolist() == free
    for before, after in zip(w, consumer.weight, strict=True):
        torch.testing.assert_close(
            after,
            best_kept(before, h, torch.zeros(50, dtype=torch.float64), free),
            rtol=1e-7,
            atol=1e-9,
        )


def test_compensation_reduces_the_error_and_is_optional():
    w, h = problem(16, 64)
    errors = []
    for compensate in (True, False):
        consumer = Consumer.begin(w, h, 0.01)
        removed, _ = obs_neurons(consumer, torch.arange(64), 16, compensate)
        errors.append(layer_error(w, consumer.weight, h))
    kept = [i for i in range(64) if i not in removed]
    assert torch.equal(consumer.weight[:, kept], w[:, kept])
    assert errors[0] < 0.8 * errors[1]


def test_dead_inputs_are_removed_first():
    w, h = problem(8, 24)
    h[:, 7] = h[7] = 0
    removed, _ = obs_neurons(Consumer.begin(w, h, 0.01), torch.arange(24), 1)
    assert removed == [7]
