"""A convolution is the linear layer that reads its unfolded input; in float64."""

import itertools

import pytest
import torch
from torch import nn

from obsdiff.calibration.hessian import Hessian
from obsdiff.errors import RunFailed
from obsdiff.models.linear_view import matrix, tokens, unfolding_refusal, write_
from obsdiff.solvers.obs import obs
from obsdiff.solvers.problem import Target, squared_error
from tests.solvers.test_obs import seen

SHAPES = [
    {"kernel_size": 3, "padding": 1},
    {"kernel_size": 1},
    {"kernel_size": 3, "stride": 2, "padding": 1},  # a downsampler
    {"kernel_size": 3, "stride": 2},  # a downsampler with padded input
    {"kernel_size": (3, 5), "stride": (2, 1), "padding": (0, 2), "dilation": (2, 1)},
    {"kernel_size": 4, "stride": 3, "padding": 2, "dilation": 2},
]


def convolution(**shape) -> tuple[nn.Conv2d, torch.Tensor]:
    torch.manual_seed(0)
    return nn.Conv2d(5, 7, **shape).double(), torch.randn(3, 5, 11, 13, dtype=torch.float64)


def gathered(layer: nn.Module, x: torch.Tensor) -> Hessian:
    hessian = Hessian.zeros(matrix(layer).shape[1])
    for part in tokens(layer, x):
        hessian.update(part)
    return hessian


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("at_once", [1, 1000, 10**9])
def test_the_weight_as_a_matrix_computes_the_convolution(shape, at_once):
    """For any number of patches unfolded together: parts are rows of output positions, in order."""
    layer, x = convolution(**shape)
    out = layer(x)
    parts = [part[0] @ matrix(layer).T + layer.bias for part in tokens(layer, x, at_once)]
    torch.testing.assert_close(torch.cat(parts), out.permute(0, 2, 3, 1).flatten(0, 2))
    assert len(parts) == (len(x) * out.shape[2] if at_once == 1 else len(parts))


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_the_hessian_measures_the_squared_error_of_the_output(shape):
    """tr(D H D^T) is twice the mean over output positions of the output's squared change."""
    layer, x = convolution(**shape)
    before, out = matrix(layer).clone(), layer(x)
    hessian = gathered(layer, x)
    write_("layer", layer, before + torch.randn_like(before))
    change = (layer(x) - out).square().sum()
    assert hessian.samples == out.numel() / out.shape[1]
    assert squared_error(before, matrix(layer), hessian.matrix()) == pytest.approx(
        2 * change.item() / hessian.samples
    )


def test_memory_is_bounded():
    """At most `at_once` entries are unfolded together if one row of output positions fits."""
    layer, x = convolution(kernel_size=3, padding=1)
    row = 13 * 45
    sizes = [part.numel() for part in tokens(layer, x, 3 * row)]
    assert sizes == 3 * [3 * row, 3 * row, 3 * row, 2 * row]


def test_a_picture_without_a_batch_and_a_linear_layer():
    layer, x = convolution(kernel_size=3, padding=1)
    assert torch.equal(torch.cat(list(tokens(layer, x[0]))), torch.cat(list(tokens(layer, x[:1]))))
    (rows,) = tokens(nn.Linear(13, 2), x)
    assert torch.equal(rows, x.flatten(1, 2))
    (rows,) = tokens(nn.Linear(13, 2), x[0, 0])
    assert torch.equal(rows, x[0, 0])


def test_the_parts_of_a_picture_are_the_same_in_every_batch():
    layer, x = convolution(kernel_size=3, padding=1)
    alone = [part for picture in x for part in tokens(layer, picture, 1000)]
    assert all(torch.equal(a, b) for a, b in zip(alone, tokens(layer, x, 1000), strict=True))


def test_columns_are_in_the_order_of_the_weight_kernel_position_last():
    """An n:m group is m neighbours in memory: kernel positions, then those of the next channel."""
    layer = nn.Conv2d(2, 1, (2, 3), bias=False)
    for column, (channel, i, j) in enumerate(itertools.product(range(2), range(2), range(3))):
        x = torch.zeros(1, 2, 2, 3)
        x[0, channel, i, j] = 1
        (token,) = tokens(layer, x)
        assert token[0, 0].nonzero().flatten().tolist() == [column]
        assert layer(x).item() == matrix(layer)[0, column].item()


@pytest.mark.parametrize("group", [None, (2, 4)])
def test_obs_repairs_the_convolution(group):
    """Compared, on the convolution's output, with the same weights removed and no repair."""
    torch.manual_seed(0)
    layer, x = (
        nn.Conv2d(8, 6, 3, padding=1).double(),
        torch.randn(4, 8, 10, 10, dtype=torch.float64).cumsum(2),
    )
    before, out = matrix(layer).clone(), layer(x)
    (solution,) = obs([before], seen(gathered(layer, x).matrix()), Target(0.5, group))
    errors = []
    for weight in (solution.weight, before * solution.kept):
        write_("layer", layer, weight)
        errors.append((layer(x) - out).square().sum().item())
    assert errors[0] < 0.5 * errors[1]
    assert group is None or (layer.weight.flatten(1).unflatten(1, (-1, 4)) != 0).sum(2).max() == 2


@pytest.mark.parametrize(
    ("layer", "words"),
    [
        (nn.Conv2d(4, 4, 3, groups=2), "2 groups"),
        (nn.Conv2d(4, 4, 3, padding=1, padding_mode="circular"), "circular"),
        (nn.Conv2d(4, 4, 3, padding="same"), "same"),
        (nn.ConvTranspose2d(4, 4, 3), "ConvTranspose2d"),
        (nn.Conv2d(4, 4, 3, 2, 1, 2), None),
        (nn.Linear(4, 4), None),
    ],
)
def test_a_layer_without_a_linear_form_is_refused_with_the_reason(layer, words):
    reason = unfolding_refusal(layer)
    assert reason is None if words is None else words in reason


def test_a_weight_beyond_the_layers_number_format_is_refused():
    layer = nn.Linear(4, 2).half()
    with pytest.raises(
        RunFailed, match=r"block\.0\.up: the pruned weight, up to 1e\+05, has inf or NaN in float16"
    ):
        write_("block.0.up", layer, torch.full((2, 4), 1e5))
