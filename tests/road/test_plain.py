"""obsdiff against the plain algorithm of `benchmarks.plain`: the same masks, the same errors."""

import pytest
import torch

from benchmarks.plain.hessian import RunningHessian
from benchmarks.plain.prune import prune_plain_
from benchmarks.plain.solve import solve
from benchmarks.plain.structured import remove_parts
from obsdiff import PruningConfig, prune_
from obsdiff.calibration.hessian import Hessian
from obsdiff.models.client_marker import MARKER_KEY
from obsdiff.models.linear_view import layer_shapes
from obsdiff.solvers.obs import obs
from obsdiff.solvers.obs_structured import Consumer, obs_heads, obs_neurons
from obsdiff.solvers.problem import Inputs, Target, layer_error

from ..conftest import PROMPTS, sd3
from ..support.lanes import first_quick


def problem(
    rows: int, columns: int, seed: int = 0, dtype: torch.dtype = torch.float64
) -> tuple[torch.Tensor, torch.Tensor]:
    """A weight (O, I) and the Hessian (I, I) of correlated inputs, the third of which is always
    zero."""
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(4 * columns, columns, generator=g, dtype=torch.float64)
    x = x @ (
        torch.eye(columns, dtype=torch.float64)
        + torch.randn(columns, columns, generator=g, dtype=torch.float64) / columns**0.5
    )
    x[:, 2] = 0
    return torch.randn(rows, columns, generator=g, dtype=torch.float64).to(dtype), (
        2 * x.T @ x / len(x)
    ).to(dtype)


def ours(weights: list[torch.Tensor], hessian: torch.Tensor, target: Target) -> list[torch.Tensor]:
    nothing = hessian.new_zeros(len(hessian))
    return [solution.weight for solution in obs(weights, Inputs(hessian, nothing, nothing), target)]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize(
    ("columns", "group", "sparsity"),
    [(384, None, 0.5), (200, None, 0.3), (384, (2, 4), 0.5), (200, (4, 8), 0.5)],
)
def test_the_masks_and_errors_are_those_of_the_plain_algorithm(columns, group, sparsity, dtype):
    w, h = problem(96, columns)
    three = [w, w.flip(0), w.roll(1, 1)]
    answers = ours([v.to(dtype) for v in three], h.to(dtype), Target(sparsity, group))
    for before, mine in zip(three, answers, strict=True):
        plain = solve(before, h, sparsity, group)
        same = ((plain == 0) == (mine == 0)).double().mean().item()
        assert same >= 0.999
        assert layer_error(before, mine, h) == pytest.approx(
            layer_error(before, plain, h), rel=0.005
        )


def test_the_plain_algorithm_in_float32_answers_as_in_float64():
    w, h = problem(96, 256)
    low, high = solve(w.float(), h.float(), 0.5), solve(w, h, 0.5)
    assert ((low == 0) == (high == 0)).double().mean() >= 0.999


@pytest.mark.parametrize(
    ("parts", "count", "heads"),
    [(list(torch.arange(96).split(8)), 5, True), (list(torch.arange(24, 120).split(1)), 40, False)],
)
def test_the_same_heads_and_neurons_leave(parts, count, heads):
    """The neurons' layer has 24 columns before theirs, which are kept."""
    streams = [problem(48, 96 if heads else 120, seed) for seed in ((0, 1) if heads else (2,))]
    for _, h in streams:
        h[2, 2] = 1.0  # an input that is always zero has no loss: a tie
    consumers = [Consumer.begin(w, h, 0.01) for w, h in streams]
    mine, _ = (
        obs_heads(consumers, parts, count)
        if heads
        else obs_neurons(consumers[0], torch.cat(parts), count)
    )
    plain, weights = remove_parts(streams, parts, count, heads)
    assert mine == plain
    for consumer, weight in zip(consumers, weights, strict=True):
        torch.testing.assert_close(consumer.weight, weight, rtol=1e-8, atol=1e-10)


def test_both_hessians_are_one_but_for_the_tokens_of_an_image():
    g = torch.Generator().manual_seed(0)
    plain, mine = RunningHessian(12, torch.float64), Hessian.zeros(12, dtype=torch.float64)
    for alpha in (1.2, 1.0, 0.8):
        x = torch.randn(4, 9, 12, generator=g, dtype=torch.float64)
        plain.update(x, alpha)
        mine.update(x.flatten(0, 1), alpha)
    torch.testing.assert_close(plain.matrix, 9 * mine.matrix())


LIVE = (
    {"calibration": "live"} if "calibration" in PruningConfig.__dataclass_fields__ else {}
)  # the plain algorithm calibrates live


@pytest.mark.filterwarnings("ignore::obsdiff.errors.CalibrationWarning")
@pytest.mark.parametrize("packages", first_quick([1, 2]))
@pytest.mark.parametrize(
    "pattern", [{}, {"pattern": "2:4"}, {"pattern": "structured", "sparsity": 0.25}]
)
def test_a_whole_pipeline_is_pruned_as_by_the_plain_algorithm(pattern, packages):
    config = PruningConfig(
        packages=packages,
        tokens_per_column="all",  # the plain algorithm keeps every token
        num_inference_steps=3,
        guidance_scale=4.0,
        height=16,
        width=16,
        **pattern,
        **LIVE,
    )
    plain, mine = sd3(), sd3()
    prune_plain_(plain, PROMPTS[:6], config)
    report = prune_(mine, PROMPTS[:6], config)
    pruned = [row.name + ".weight" for row in report.layers]
    assert layer_shapes(plain.transformer) == layer_shapes(mine.transformer)
    expected, found = plain.transformer.state_dict(), mine.transformer.state_dict()
    same = torch.cat([((found[name] == 0) == (expected[name] == 0)).flatten() for name in pruned])
    assert same.double().mean() >= 0.999
    assert set(found) - set(expected) <= {MARKER_KEY}  # of removed heads
    for name, p in found.items():
        if name == MARKER_KEY:
            continue
        assert ((p - expected[name]).norm() / expected[name].norm()).item() < 0.05, name
