import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    FlowMatchHeunDiscreteScheduler,
    HeunDiscreteScheduler,
    PNDMScheduler,
)

from obsdiff.calibration.calibration_set import DEFAULT_WEIGHTS, CalibrationSet
from obsdiff.calibration.context import CalibratedInputs
from obsdiff.calibration.hessian import Hessian
from obsdiff.calibration.hooks import CallAudit, calibrate, new_inputs
from obsdiff.calibration.step_weights import StepWeights
from obsdiff.errors import CalibrationError
from obsdiff.models.discovery import find_blocks
from obsdiff.models.linear_view import layer_shapes
from obsdiff.models.structure import Tap

from ..conftest import PROMPTS, flux, sd, sd3
from ..support.contexts import context_of
from ..support.direct import DirectPipeline


def denoiser_of(pipe):
    return getattr(pipe, "transformer", None) or pipe.unet


def taps_of(pipe) -> list[Tap]:
    return [
        tap
        for block in find_blocks(layer_shapes(denoiser_of(pipe)))
        for unit in block.units
        for tap in unit
    ]


def calibration_set(
    prompts: int = 2,
    steps: int = 3,
    batch: int = 4,
    guidance: float = 3.0,
    step_weights: StepWeights = DEFAULT_WEIGHTS,
    **settings,
) -> CalibrationSet:
    return CalibrationSet(
        PROMPTS[:prompts],
        list(range(prompts)),
        {"num_inference_steps": steps, "guidance_scale": guidance} | settings,
        batch,
        step_weights,
    )


def gather(pipe, drawn: CalibrationSet, taps: list[Tap] | None = None) -> CalibratedInputs:
    with context_of(pipe, drawn) as context:
        return calibrate(context, taps or taps_of(pipe))


def by_hand(pipe, layer: str, drawn: CalibrationSet, weights: list[float]) -> torch.Tensor:
    """2 sum_t alpha_t E[x x^T] of inputs recorded in plain pipeline calls, prompt by prompt."""
    seen = []
    handle = (
        denoiser_of(pipe)
        .get_submodule(layer)
        .register_forward_pre_hook(lambda m, args: seen.append(args[0].double().flatten(0, -2)))
    )
    for prompt, seed in zip(drawn.prompts, drawn.seeds, strict=True):
        pipe(
            prompt,
            generator=torch.Generator().manual_seed(seed),
            output_type="latent",
            **drawn.settings,
        )
    handle.remove()
    tokens = sum(len(x) for x in seen)
    return 2 * sum(weights[i % len(weights)] * x.T @ x for i, x in enumerate(seen)) / tokens


@pytest.mark.parametrize(
    "layer",
    [
        "transformer_blocks.0.attn.to_q",
        "transformer_blocks.1.ff_context.net.2",
        "transformer_blocks.2.attn.add_k_proj",
    ],
)
def test_the_hessian_is_its_definition_with_both_guidance_halves(layer):
    pipe, drawn = sd3(), calibration_set()
    weights = [
        1.2,
        0.8 + 0.4 * torch.tensor(2.0).log().item() / torch.tensor(3.0).log().item(),
        0.8,
    ]
    found = {x: h for tap, h in gather(pipe, drawn).items() for x in tap.layers}[layer]
    torch.testing.assert_close(
        found.matrix().double(), by_hand(pipe, layer, drawn, weights), rtol=1e-4, atol=1e-6
    )


@pytest.mark.parametrize("make", [sd3, lambda: sd3(dual=(0, 1)), sd, flux])
def test_one_hessian_for_each_input_and_every_call_counted(make):
    pipe = make()
    inputs = gather(pipe, calibration_set(height=16, width=16))
    hessians = [calibrated.hessian for calibrated in inputs.values()]
    assert all(
        h.samples > 0 and h.xx.isfinite().all() and (h.xx.diagonal() >= 0).all() for h in hessians
    )
    assert set(inputs) == set(taps_of(pipe))
    assert all((c.held_out, c.cross, c.order) == (None, None, None) for c in inputs.values())


@pytest.mark.slow
def test_batch_size_changes_nothing_but_rounding():
    one, four = (gather(sd3(), calibration_set(prompts=4, batch=b)) for b in (1, 4))
    for tap, calibrated in one.items():
        h, other = calibrated.hessian, four[tap].hessian
        torch.testing.assert_close(h.xx, other.xx, rtol=1e-3, atol=1e-4)
        assert h.samples == other.samples


@pytest.mark.parametrize(
    ("scheduler", "calls"),
    [
        (DDIMScheduler, 3),
        (PNDMScheduler, 4),
        (HeunDiscreteScheduler, 5),
        (EulerDiscreteScheduler, 3),
        (DPMSolverMultistepScheduler, 3),
    ],
)
def test_every_scheduler_has_its_own_number_of_calls(scheduler, calls):
    pipe = sd()
    pipe.scheduler = scheduler(**({"skip_prk_steps": True} if scheduler is PNDMScheduler else {}))
    (calibrated,) = gather(pipe, calibration_set(prompts=1), [taps_of(pipe)[0]]).values()
    assert calibrated.hessian.samples == calls * 2 * 64


@pytest.mark.slow
def test_heun_in_flow_matching_and_a_single_step():
    pipe = sd3()
    (one,) = gather(pipe, calibration_set(prompts=1, steps=1), [taps_of(pipe)[0]]).values()
    assert one.hessian.samples == 2 * 16
    pipe.scheduler = FlowMatchHeunDiscreteScheduler()
    (heun,) = gather(pipe, calibration_set(prompts=1), [taps_of(pipe)[0]]).values()
    assert heun.hessian.samples == 5 * 2 * 16


def test_another_calibration_set_runs_in_the_same_context_with_its_own_counts():
    pipe, audits = sd3(), [CallAudit(), CallAudit()]
    one, two = calibration_set(prompts=1), calibration_set(prompts=2, batch=1)
    taps = taps_of(pipe)[:1]
    with context_of(pipe, one) as context:
        own = calibrate(context, taps, audit=audits[0])[taps[0]].hessian
        other = calibrate(context, taps, two, audits[1])[taps[0]].hessian
    assert (other.samples, own.samples) == (2 * 3 * 2 * 16, 3 * 2 * 16)
    assert [audit.denoiser for audit in audits] == [3, 6]
    assert audits[1].per_step == {0: 2, 1: 2, 2: 2}
    assert audits[1].layers == dict.fromkeys(taps[0].layers, 6)
    alone = gather(sd3(), two, taps)[taps[0]].hessian
    assert torch.equal(other.xx, alone.xx)


@pytest.mark.parametrize("room", [0, 1e9])
def test_new_inputs_are_empty_and_mapped_where_the_scratch_storage_has_no_memory(room):
    pipe = sd3()
    taps = taps_of(pipe)[:2]
    with context_of(pipe, calibration_set(), room=room) as context:
        found = new_inputs(context, taps, context.scratch, crossed=True)
        assert list(found) == taps
        assert bool(context.scratch.files) == (room == 0)
        for calibrated in found.values():
            assert calibrated.hessian.xx.shape == calibrated.cross.shape == (32, 32)
            assert calibrated.hessian.samples == calibrated.hessian.xx.count_nonzero() == 0
            assert calibrated.cross.count_nonzero() == 0
        assert all(c.cross is None for c in new_inputs(context, taps).values())


def test_without_guidance_the_batch_is_not_doubled():
    pipe = sd3()
    (calibrated,) = gather(
        pipe, calibration_set(prompts=1, guidance=1.0), [taps_of(pipe)[0]]
    ).values()
    assert calibrated.hessian.samples == 3 * 16


def test_a_layer_that_misses_calls_fails_the_run():
    pipe = sd3()
    block = pipe.transformer.transformer_blocks[1]
    forward, calls = block.forward, []

    def lazy(hidden_states, encoder_hidden_states, **kwargs):
        calls.append(1)
        return (
            (encoder_hidden_states, hidden_states)
            if len(calls) == 2
            else forward(hidden_states, encoder_hidden_states, **kwargs)
        )

    block.forward = lazy
    with pytest.raises(CalibrationError, match=r"transformer_blocks\.1\.attn\.to_q \(2\)"):
        gather(pipe, calibration_set())


def test_inputs_that_a_table_wrongly_calls_shared_are_found():
    pipe = sd3()
    wrong = Tap(
        ("transformer_blocks.0.attn.to_q", "transformer_blocks.0.attn.add_q_proj"), "attention"
    )
    with pytest.raises(CalibrationError, match="inputs differ"):
        gather(pipe, calibration_set(), [wrong])


def test_nan_is_named_by_layer_and_step():
    pipe = sd3()
    calls = []

    def poison(module, args, output):
        calls.append(1)
        return output * float("nan") if len(calls) == 2 else output

    pipe.transformer.transformer_blocks[0].ff.net[0].register_forward_hook(poison)
    with pytest.raises(
        CalibrationError,
        match=r"transformer_blocks\.0\.ff\.net\.2: the input of step 2 has inf or NaN",
    ):
        gather(pipe, calibration_set())
    assert not any(m._forward_pre_hooks for m in pipe.transformer.modules())


def test_null_text_tokens_count_once():
    pipe = sd3()
    text = [tap for tap in taps_of(pipe) if tap.layers[0] == "transformer_blocks.0.attn.add_q_proj"]
    (calibrated,) = gather(pipe, calibration_set(prompts=1, steps=1), text).values()
    assert calibrated.hessian.samples == 2 * (24 + 256)
    assert calibrated.hessian.distinct <= 2 * (24 + 1)


class Routed(torch.nn.Module):
    """Two experts; `order` says which of them each call is sent to."""

    def __init__(self, order: list[tuple[int, ...]]):
        super().__init__()
        self.experts = torch.nn.ModuleList(torch.nn.Linear(4, 4) for _ in range(2))
        self.order = iter(order)

    def forward(self) -> torch.Tensor:
        return sum(self.experts[i](torch.randn(3, 4)) for i in next(self.order))


def gather_routed(order: list[tuple[int, ...]], prefix: str = "experts") -> list[Hessian]:
    model = Routed(order)
    if prefix != "experts":
        model._modules[prefix] = model._modules.pop("experts")
        model.forward = lambda: sum(
            model._modules[prefix][i](torch.randn(3, 4)) for i in next(model.order)
        )
    pipe = DirectPipeline(model, dict, steps=len(order))
    taps = [Tap((f"{prefix}.{i}",), "ffn") for i in range(2)]
    with context_of(pipe, CalibrationSet([{}], [0], {})) as context:
        inputs = calibrate(context, taps)
    return [inputs[tap].hessian for tap in taps]


def test_every_expert_has_the_tokens_it_was_sent():
    hessians = gather_routed([(0,), (0, 1), (0, 0)], "experts")
    assert [h.samples for h in hessians] == [12, 3]


def test_an_idle_expert_is_named():
    with pytest.raises(
        CalibrationError, match=r"1 experts received no token: experts\.1; use more prompts"
    ):
        gather_routed([(0,), (0,)])


def test_a_module_may_be_used_more_than_once_in_a_call_but_always_as_often():
    assert [h.samples for h in gather_routed([(0, 1, 0), (0, 1, 0)], "shared")] == [12, 6]
    with pytest.raises(
        CalibrationError,
        match=r"of 2 denoiser calls these layers received fewer or more: shared\.0 \(3\)",
    ):
        gather_routed([(0, 1, 0), (0, 1)], "shared")
