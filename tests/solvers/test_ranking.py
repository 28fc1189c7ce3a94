"""Rankings of heads and neurons: fusion and groups by hand, and figures of the authors' code."""

import math

import pytest
import torch

from obsdiff.config import choices
from obsdiff.errors import NotPositiveDefinite
from obsdiff.solvers.obs_structured import Consumer, obs_heads, obs_neurons
from obsdiff.solvers.ranking import AUTHORS, RANKINGS, fused, fused_as_authors

HEADS = list(torch.arange(36).split(6))
KEPT = [
    *(0, 5, 6, 9, 10, 19, 20, 23, 28, 29, 33, 34, 38, 43, 45),
    *(47, 48, 49, 52, 53, 63, 67, 68, 72, 77, 78, 81, 82, 86, 87),
    *(91, 92, 96, 106, 112, 116, 117, 120, 121, 125, 126, 130, 134, 136, 139),
    *(142, 145, 150, 154, 158, 159, 163, 164, 165, 169, 170, 178, 188, 194, 198),
]  # neurons of 200 that the authors' code keeps


def wave(outputs: int, inputs: int, shift: float) -> tuple[torch.Tensor, torch.Tensor]:
    """A weight and a Hessian without random numbers, both float64."""
    number = torch.arange(outputs * inputs, dtype=torch.float64)
    weight = torch.sin(0.7 * number * number % 97 + shift).reshape(outputs, inputs)
    row = torch.arange(inputs, dtype=torch.float64)
    token = torch.arange(1, 3 * inputs + 1, dtype=torch.float64)
    x = torch.sin(torch.outer((row + 1) ** 1.5, token) * 0.61 + shift)
    x = x * (1 + 0.5 * torch.cos(row * 1.3 + shift))[:, None]
    x = x + 0.6 * x.roll(1, 0)
    return weight, 2 * x @ x.T / x.shape[1]


def test_the_settings_name_every_ranking():
    assert tuple(RANKINGS) == choices.RANKINGS


def test_rankings_are_fused_by_reciprocal_ranks():
    """By hand: the streams rank the heads 2, 0, 1 and 0, 1, 2 (most important first)."""
    found = fused([torch.tensor([2.0, 1.0, 3.0]), torch.tensor([9.0, 8.0, 7.0])])
    expected = torch.tensor([1 / 62 + 1 / 61, 1 / 63 + 1 / 62, 1 / 61 + 1 / 63])
    torch.testing.assert_close(found, expected.double(), rtol=1e-6, atol=0)


def test_the_authors_rank_the_least_important_first_and_the_image_stream_decides():
    """By hand: ranks (2, 1, 3) and (3, 2, 1): sums 1/62 + 1/63, 1/61 + 1/62, 1/63 + 1/61; then a
    tie of ranks (1, 2) and (2, 1), where the first stream's least important head leaves."""
    three = [torch.tensor([2.0, 1.0, 3.0]), torch.tensor([9.0, 8.0, 7.0])]
    assert fused_as_authors(three).tolist() == [2, 0, 1]
    assert fused_as_authors([torch.tensor([5.0, 4.0]), torch.tensor([1.0, 2.0])]).tolist() == [1, 0]
    assert fused_as_authors([torch.tensor([5.0, 4.0])]).tolist() == [5.0, 4.0]


@pytest.mark.parametrize("ranking", RANKINGS)
@pytest.mark.parametrize("count", [0, 1, 63, 200, 700, 4000, 9000])
def test_groups_sum_to_the_count(ranking, count):
    sizes = list(RANKINGS[ranking].groups(count))
    assert sum(sizes) == count
    assert all(size > 0 for size in sizes)


def test_groups_shrink():
    sizes = list(RANKINGS["equations"].groups(1536))
    assert sizes[0] == 192
    assert sizes == sorted(sizes, reverse=True)


def test_groups_of_the_authors():
    """By hand, of 4,000: (4000 - 512) / 2 = 1744, cut to 1024; (1744 - 512) / 2 = 616; then 64."""
    sizes = list(AUTHORS.groups(4000))
    assert sizes[:4] == [1024, 616, 64, 64]
    assert sizes[-1] == (4000 - 1024 - 616) % 64


def test_heads_of_one_stream_as_the_authors_remove_them():
    """The sum and norm are of the authors' code (3383a4f) on the same W and H, damping 0.01."""
    consumer = Consumer.begin(*wave(8, 36, 0.0), 0.01)
    removed, _ = obs_heads([consumer], HEADS, 3, ranking=AUTHORS)
    assert sorted(removed) == [0, 2, 4]
    assert consumer.weight.norm().item() == pytest.approx(9.9283, rel=1e-5)
    assert consumer.weight.sum().item() == pytest.approx(15.4279, rel=1e-5)


@pytest.mark.parametrize(
    ("count", "expected", "norms", "sums"),
    [
        (1, [0], (14.1838, 14.7472), (14.0126, 16.1228)),
        (2, [0, 2], (13.3437, 15.3899), (15.5396, 15.0360)),
        (3, [0, 2, 3], (11.8568, 13.9987), (9.8314, 14.3685)),
        (4, [0, 1, 2, 3], (10.9387, 9.7711), (-5.4647, 9.6222)),
    ],
)
def test_heads_of_joint_attention_as_the_authors_remove_them(count, expected, norms, sums):
    """The figures are of the authors' code on the same W and H, without damping; the paper's
    equations remove heads 2, 4, 0, 3."""
    streams = [Consumer.begin(*wave(8, 36, shift), 0.0) for shift in (0.0, 1.0)]
    removed, _ = obs_heads(streams, HEADS, count, ranking=AUTHORS)
    assert sorted(removed) == expected
    for stream, norm, total in zip(streams, norms, sums, strict=True):
        assert stream.weight.norm().item() == pytest.approx(norm, rel=1e-5)
        assert stream.weight.sum().item() == pytest.approx(total, rel=2e-5)
    by_equations = [Consumer.begin(*wave(8, 36, shift), 0.0) for shift in (0.0, 1.0)]
    assert obs_heads(by_equations, HEADS, count)[0] == [2, 4, 0, 3][:count]


def test_neurons_as_the_authors_remove_them():
    """The figures are of the authors' code on the same W and H, damping 0.01: of 200 neurons 140
    leave, in groups of 64, 64 and 12."""
    consumer = Consumer.begin(*wave(4, 200, 0.3), 0.01)
    removed, _ = obs_neurons(consumer, torch.arange(200), 140, ranking=AUTHORS)
    assert sorted(removed) == sorted(set(range(200)) - set(KEPT))
    assert consumer.weight.norm().item() == pytest.approx(14.8218, rel=1e-5)
    assert consumer.weight.sum().item() == pytest.approx(28.4647, rel=1e-5)


def test_conditional_losses_are_those_of_columns_removed_one_after_the_other():
    """A head's loss is the sum of each column's, given that those before it have left, of the
    weight without any repair."""
    w, h = wave(8, 36, 0.0)
    found = Consumer.begin(w, h, 0.01).conditional_losses(HEADS)
    for head, losses in zip(HEADS, found, strict=True):
        consumer, expected = Consumer.begin(w, h, 0.01), []
        for column in head:
            expected.append(consumer.losses()[column].item())
            consumer.remove(column[None], compensate=False)
        torch.testing.assert_close(
            losses, torch.tensor(expected, dtype=torch.float64), rtol=1e-8, atol=0
        )


def test_a_block_that_is_not_positive_definite_is_named():
    consumer = Consumer.begin(*wave(8, 36, 0.0), 0.01)
    consumer.gone.append(torch.full((1, 36), math.sqrt(1e6), dtype=torch.float64))
    with pytest.raises(NotPositiveDefinite, match="inverse Hessian of 6 columns"):
        consumer.conditional_losses(HEADS)
