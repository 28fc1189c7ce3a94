"""The kept tokens: unbiased, and the same whatever the batch, the processes and the order."""

from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from obsdiff import PruningConfig, UserError, dense_pass, prune_
from obsdiff.calibration.call_audit import CallAudit
from obsdiff.calibration.hessian import Hessian
from obsdiff.calibration.hooks import calibrate, new_inputs, tapped
from obsdiff.calibration.thinning import Thinning, batch_rows, kept_of_image, parts_of
from obsdiff.cli.inspect import describe
from obsdiff.models.linear_view import matrix, tokens, tokens_at
from obsdiff.models.structure import Tap
from obsdiff.pipelines.folder import open_folder
from obsdiff.pipelines.run import Run, denoiser_call

from ..conftest import PROMPTS, sd, sd3
from ..models.test_linear_view import SHAPES, convolution
from ..support.contexts import context_of
from ..support.pretend_gpu import NAME, pretend_gpu
from .replay.test_run import replay_all
from .test_hooks import calibration_set, gather, taps_of

pytestmark = pytest.mark.filterwarnings("ignore::obsdiff.errors.CalibrationWarning")
WAITING = {"_local_scalar_dense", "item", "equal", "is_nonzero", "_unique2", "nonzero"}


def thinning(target: float | None, seeds: tuple[int, ...] = (0, 1), prompts: int = 2) -> Thinning:
    """The draw of a call with both guidance halves, of a run of one step."""
    run = Run(None, prompts=len(seeds), seeds=seeds, recorded_steps=1)
    found = Thinning(target, prompts, run)
    found.begin(0, (torch.empty(2 * len(seeds), 3),), {})
    return found


def summed(draw: Thinning, layer: nn.Module, x: torch.Tensor) -> Hessian:
    columns = matrix(layer).shape[1]
    hessian = Hessian.zeros(columns, dtype=torch.float64)
    for part, represented in parts_of(layer, x, draw.kept(layer, x, columns)):
        hessian.update(part, 1.0, represented)
    return hessian


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("at_once", [1, 1000, 10**9])
def test_some_patches_of_a_convolution_are_those_of_all(shape, at_once):
    layer, x = convolution(**shape)
    whole = torch.cat([part[0] for part in tokens(layer, x)])
    index = torch.randint(len(whole), (30,))
    assert torch.equal(torch.cat(list(tokens_at(layer, x, index, at_once))), whole[index])
    alone = torch.cat([part[0] for part in tokens(layer, x[0])])
    assert torch.equal(
        torch.cat(list(tokens_at(layer, x[0], index % len(alone)))), alone[index % len(alone)]
    )


def test_tokens_of_a_part_of_longer_rows_are_picked_without_a_copy_of_it():
    """One stream of a joint attention's output is a slice of both."""
    layer, draw = nn.Linear(6, 2), thinning(2.0)
    both = torch.randn(4, 90, 6)
    with pretend_gpu() as counts:
        there = both.to(NAME)
        for part in (there[:, :60], there[:, 60:]):
            kept = draw.kept(layer, part, 6)
            counts.clear()
            ((rows, represented),) = kept.rows(layer, part)
            assert counts.peak - counts.held < part.nbytes / 2
            ((wanted, _),) = kept.rows(layer, part.contiguous())
            assert torch.equal(rows, wanted)
            assert represented == 4 * part.shape[1]
        counts.clear()
        list(draw.kept(layer, there[:, 30:], 6).rows(layer, there[:, 30:]))
        assert counts.launches.total() == 1  # where to is known from the first slice of 60


def layers() -> list[tuple[nn.Module, torch.Tensor]]:
    torch.manual_seed(0)
    flat = torch.randn(4, 10, 3, dtype=torch.float64)
    picture = torch.randn(4, 2, 5, 4, dtype=torch.float64)
    return [
        (nn.Linear(3, 2).double(), flat),
        (nn.Linear(3, 2).double(), flat.view(4, 2, 5, 3)),
        (nn.Conv2d(2, 3, 3, padding=1, stride=2).double(), picture),
        (nn.Conv2d(2, 3, (1, 2), dilation=(1, 2)).double(), picture),
    ]


@pytest.mark.parametrize("k", [1, 3, 4])
@pytest.mark.parametrize("number", range(4))
def test_the_mean_over_all_draws_is_the_hessian_of_all_tokens(number, k, monkeypatch):
    """Exactly, over a grid of as many draws as an image has tokens."""
    layer, x = layers()[number]
    each = len(torch.cat([part.flatten(0, -2) for part in tokens(layer, x)])) // 4
    columns = matrix(layer).shape[1]
    whole = summed(thinning(None), layer, x)
    total = torch.zeros_like(whole.matrix())
    for i in range(each):
        draw = thinning(k * 4 / columns)
        monkeypatch.setattr(
            draw, "uniform", lambda images, k, u=(i + 0.5) / each: torch.full((images, k), u)
        )
        hessian = summed(draw, layer, x)
        assert (hessian.samples, hessian.kept) == (4 * each, 4 * min(k, each))
        total += hessian.matrix() / each
    torch.testing.assert_close(total, whole.matrix())


@pytest.mark.slow
@pytest.mark.parametrize("make", [sd3, sd])
def test_the_mean_over_many_random_draws_is_near_the_hessian_of_all_tokens(make):
    """Both streams of a joint attention, and all layers of a UNet."""
    pipe, seen = make(), []
    taps = taps_of(pipe)[:6]
    denoiser = getattr(pipe, "transformer", None) or pipe.unet
    call = denoiser_call(pipe, denoiser, PROMPTS[0], {"num_inference_steps": 1})
    for tap in taps:
        layer = denoiser.get_submodule(tap.layers[0])
        layer.register_forward_pre_hook(lambda m, args: seen.append((m, args[0].double())))
    with torch.no_grad():
        denoiser(**call)
    assert len(seen) == len(taps)
    for layer, x in seen:
        draw, columns = thinning(4 / matrix(layer).shape[1], (7,), 1), matrix(layer).shape[1]
        total = torch.zeros(columns, columns, dtype=torch.float64)
        for number in range(500):
            draw.begin(number, (x,), {})
            total += summed(draw, layer, x).matrix() / 500
        whole = summed(thinning(None), layer, x).matrix()
        assert (total - whole).norm() < 0.1 * whole.norm()


def test_one_token_is_kept_in_each_of_k_equal_parts_of_an_image():
    draw = thinning(2.0)
    index = draw.places(4, 100, 8, torch.device("cpu")).flat().view(4, 8)
    assert ((index // 100) == torch.arange(4).unsqueeze(1)).all()
    assert ((index % 100 * 8 // 100 - torch.arange(8)).abs() <= 1).all()
    assert len(index.unique()) == 32
    cpu = torch.device("cpu")
    assert draw.places(4, 100, 8, cpu) is draw.places(4, 100, 8, cpu)


def test_what_a_prompt_keeps_depends_on_its_seed_step_call_and_half_alone():
    together, alone = thinning(3.0, (5, 9), 8), thinning(3.0, (9,), 8)
    both, one = together.uniform(4, 6), alone.uniform(2, 6)
    assert torch.equal(both[1::2], one)
    for change in ({"seeds": (4,)}, {"step": 1}):
        other = thinning(3.0, (9,), 8)
        other.run = replace(other.run, **change)
        assert not torch.equal(other.uniform(2, 6), one)
    alone.begin(1, (torch.empty(2, 3),), {})
    assert not torch.equal(alone.uniform(2, 6), one)
    assert not torch.equal(one[0], one[1])


@pytest.mark.parametrize(
    ("each", "wanted", "images", "kept"),
    [(100, 320, 40, 8), (100, 321, 40, 9), (100, 1, 40, 1), (5, 320, 40, 5), (100, 0.5, 1, 1)],
)
def test_an_image_keeps_its_share_of_the_target_and_at_least_one_token(each, wanted, images, kept):
    assert kept_of_image(each, wanted, images) == kept


def test_the_images_of_a_call():
    x = torch.empty(6, 3)
    assert batch_rows((torch.empty(()), torch.empty(4), x), 2) == 6
    assert batch_rows(([x, x, x], torch.empty(3)), 1) == 3
    assert batch_rows((None, 1.0), 2) == 2


def test_tokens_without_an_image_are_all_kept():
    draw, layer = thinning(0.5), nn.Linear(3, 2)
    assert draw.kept(layer, torch.empty(40, 3), 3).count == 40
    assert draw.kept(layer, torch.empty(40, 3), 3, routed=True) is None
    assert draw.kept(layer, torch.empty(7, 3), 3) is None
    assert draw.kept(layer, torch.empty(4, 3), 3) is None  # one token for each image
    one_half = draw.kept(layer, torch.empty(2, 50, 3), 3)
    assert len(one_half.places.flat()) == 2


@pytest.mark.slow
@pytest.mark.parametrize("make", [sd3, sd])
def test_batch_size_and_processes_change_nothing_but_rounding(make):
    """Sums of processes of one prompt each, of batches of one, and of one batch."""
    drawn = replace(calibration_set(prompts=4), tokens_per_column=3.0)
    taps = taps_of(make())[:4] + taps_of(make())[-2:]
    whole, single = gather(make(), drawn, taps), gather(make(), replace(drawn, batch_size=1), taps)
    ranks = [gather(make(), replace(drawn, batch_size=1, rank=i, ranks=2), taps) for i in range(2)]
    full = gather(make(), calibration_set(prompts=4), taps)
    fewer = 0
    for tap in taps:
        one, other = whole[tap].hessian, single[tap].hessian
        parts = [found[tap].hessian for found in ranks]
        torch.testing.assert_close(one.xx, other.xx, rtol=1e-3, atol=1e-3)
        torch.testing.assert_close(one.xx, parts[0].xx + parts[1].xx, rtol=1e-3, atol=1e-3)
        assert one.samples == other.samples == sum(part.samples for part in parts)
        assert one.samples == full[tap].hessian.samples
        assert one.kept == other.kept == sum(part.kept for part in parts)
        assert one.alpha == pytest.approx(full[tap].hessian.alpha)
        assert one.kept == one.samples or one.kept >= 3 * one.columns
        fewer += one.kept < one.samples
    assert fewer


def test_a_target_above_all_tokens_changes_no_bit():
    drawn = calibration_set(prompts=2)
    taps = taps_of(sd3())[:4]
    whole, capped = (
        gather(sd3(), drawn, taps),
        gather(sd3(), replace(drawn, tokens_per_column=1e6), taps),
    )
    for tap in taps:
        assert torch.equal(whole[tap].hessian.xx, capped[tap].hessian.xx)


class Recorded(TorchDispatchMode):
    """The names of the operations that run inside."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names.append(func.overloadpacket.__name__)
        return func(*args, **kwargs or {})


@pytest.mark.parametrize("target", [None, 2.0])
@pytest.mark.parametrize("make", [sd3, sd])
def test_hooks_wait_for_no_device(make, target):
    pipe = make()
    denoiser = getattr(pipe, "transformer", None) or pipe.unet
    call = denoiser_call(pipe, denoiser, PROMPTS[0], {"num_inference_steps": 1})
    drawn = replace(calibration_set(prompts=1, steps=1), tokens_per_column=target)
    taps = taps_of(pipe)
    with context_of(pipe, drawn) as context, torch.no_grad():
        context.run.at_call(0, 1, 1, 1, (0,))
        with Recorded() as plain:
            denoiser(**call)
        inputs = new_inputs(context, taps)
        with tapped(context, inputs, CallAudit()), Recorded() as hooked:
            denoiser(**call)
    assert all(calibrated.hessian.kept for calibrated in inputs.values())
    waits = [[name for name in mode.names if name in WAITING] for mode in (plain, hooked)]
    assert waits[0] == waits[1]


def test_layers_of_one_tap_keep_the_same_tokens_once():
    pipe, drawn = sd3(), replace(calibration_set(prompts=1, steps=1), tokens_per_column=1.0)
    name = "transformer_blocks.0.attn.to_"
    together = Tap((f"{name}q", f"{name}k", f"{name}v"), "attention")
    alone = Tap((f"{name}q",), "attention")
    with context_of(pipe, drawn) as context:
        one, other = (calibrate(context, [tap])[tap].hessian for tap in (together, alone))
    assert torch.equal(one.xx, other.xx)
    assert one.kept == other.kept == 2 * 16


def test_cross_sums_compare_the_same_tokens():
    """A dense model whose inputs are all larger by one: C is the sum of the inputs, column-wise."""
    pipe, drawn = sd3(), replace(calibration_set(prompts=1, steps=1), tokens_per_column=0.5)
    (tap,), x = taps_of(pipe)[:1], torch.randn(2, 16, 32)
    with context_of(pipe, drawn) as context:
        context.run.at_call(0, 1, 1, 1, (0,))
        inputs = new_inputs(context, [tap], crossed=True)
        module = pipe.transformer.get_submodule(tap.layers[0])
        with tapped(context, inputs, CallAudit(), {tap: [x + 1]}), torch.no_grad():
            module(x)
    hessian, cross = inputs[tap].hessian, inputs[tap].cross
    assert (hessian.kept, hessian.samples) == (16, 32)
    torch.testing.assert_close(cross, hessian.x.expand_as(cross), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("make", [sd3, sd])
@pytest.mark.slow
def test_replay_keeps_the_tokens_of_the_dense_pass(make):
    drawn = replace(calibration_set(height=16, width=16), tokens_per_column=2.0)
    found, plans, _ = replay_all(make(), 3, lambda package: None, drawn=drawn)
    dense = gather(make(), drawn, [tap for plan in plans for tap in plan.taps])
    for tap, calibrated in dense.items():
        hessian, other = calibrated.hessian, found[tap.layers[0]]
        assert (other.xx - hessian.xx).norm() < 1e-5 * hessian.xx.norm()
        assert (other.samples, other.kept) == (hessian.samples, hessian.kept)


@pytest.mark.slow
@pytest.mark.parametrize("pattern", ["unstructured", "structured"])
def test_a_pruning_keeps_as_many_tokens_as_its_plan_says_and_records_them(pattern, tmp_path):
    pipe = sd3()
    pipe.set_progress_bar_config(disable=True)
    pipe.save_pretrained(tmp_path / "model")
    size = {"height": 16, "width": 16, "num_inference_steps": 2, "guidance_scale": 3.0}
    config = PruningConfig(num_prompts=3, tokens_per_column=1.5, pattern=pattern, **size)
    plan = describe(open_folder(tmp_path / "model"), config, 3)
    planned = {layer: tap for p in plan.packages for tap in p.taps for layer in tap.layers}
    report = prune_(pipe, PROMPTS[:3], config)
    assert any(row.kept_tokens < row.tokens for row in report.layers)
    for row in report.layers:
        tap, columns = planned[row.name], row.shape[1]
        assert row.kept_tokens / columns == pytest.approx(tap.kept_per_column, abs=0.01)
        assert row.tokens / columns == pytest.approx(tap.tokens_per_column, abs=0.01)
        assert row.tokens_per_column <= tap.kept_per_column + 0.01


def test_a_dense_pass_of_other_tokens_is_refused():
    few, more = (PruningConfig(num_inference_steps=2, tokens_per_column=n) for n in (1, 2))
    with (
        pytest.raises(UserError, match="tokens_per_column has to be the same"),
        dense_pass(sd3(), PROMPTS[:1], [few, more]),
    ):
        pass
