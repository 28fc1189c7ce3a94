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

from obsdiff.calibration.context import CalibrationSet
from obsdiff.calibration.hooks import calibrate
from obsdiff.errors import CalibrationError
from obsdiff.models.discovery import find_blocks
from obsdiff.models.linear_view import layer_shapes
from obsdiff.models.structure import Tap
from obsdiff.pipelines.run import prepared

from ..conftest import PROMPTS, flux, sd, sd3
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
    weighting=("log_decrease", 0.8, 1.2),
    **settings,
) -> CalibrationSet:
    return CalibrationSet(
        PROMPTS[:prompts],
        list(range(prompts)),
        {"num_inference_steps": steps, "guidance_scale": guidance} | settings,
        batch,
        weighting,
    )


def gather(pipe, pruning_plan: CalibrationSet, taps=None):
    with prepared(pipe) as run:
        return calibrate(run, denoiser_of(pipe), taps or taps_of(pipe), pruning_plan)


def by_hand(pipe, layer: str, pruning_plan: CalibrationSet, weights: list[float]) -> torch.Tensor:
    """2 sum_t alpha_t E[x x^T] from inputs recorded in a plain pipeline call, one prompt at a time."""
    seen = []
    handle = (
        denoiser_of(pipe)
        .get_submodule(layer)
        .register_forward_pre_hook(lambda m, args: seen.append(args[0].double().flatten(0, -2)))
    )
    for prompt, seed in zip(pruning_plan.prompts, pruning_plan.seeds, strict=True):
        pipe(
            prompt,
            generator=torch.Generator().manual_seed(seed),
            output_type="latent",
            **pruning_plan.settings,
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
    pipe, pruning_plan = sd3(), calibration_set()
    weights = [
        1.2,
        0.8 + 0.4 * torch.tensor(2.0).log().item() / torch.tensor(3.0).log().item(),
        0.8,
    ]
    found = {x: h for tap, h in gather(pipe, pruning_plan).items() for x in tap.layers}[layer]
    torch.testing.assert_close(
        found.matrix().double(), by_hand(pipe, layer, pruning_plan, weights), rtol=1e-4, atol=1e-6
    )


@pytest.mark.parametrize("make", [sd3, lambda: sd3(dual=(0, 1)), sd, flux])
def test_one_hessian_for_each_input_and_every_call_counted(make):
    pipe = make()
    hessians = gather(pipe, calibration_set(height=16, width=16))
    assert all(
        h.samples > 0 and h.xx.isfinite().all() and (h.xx.diagonal() >= 0).all()
        for h in hessians.values()
    )
    assert set(hessians) == set(taps_of(pipe))


def test_batch_size_changes_nothing_but_rounding():
    one, four = (gather(sd3(), calibration_set(prompts=4, batch=b)) for b in (1, 4))
    for tap, h in one.items():
        torch.testing.assert_close(h.xx, four[tap].xx, rtol=1e-3, atol=1e-4)
        assert h.samples == four[tap].samples


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
    (hessian,) = gather(pipe, calibration_set(prompts=1), [taps_of(pipe)[0]]).values()
    assert hessian.samples == calls * 2 * 64


def test_heun_in_flow_matching_and_a_single_step():
    pipe = sd3()
    (one,) = gather(pipe, calibration_set(prompts=1, steps=1), [taps_of(pipe)[0]]).values()
    assert one.samples == 2 * 16
    pipe.scheduler = FlowMatchHeunDiscreteScheduler()
    (heun,) = gather(pipe, calibration_set(prompts=1), [taps_of(pipe)[0]]).values()
    assert heun.samples == 5 * 2 * 16


def test_without_guidance_the_batch_is_not_doubled():
    pipe = sd3()
    (h,) = gather(pipe, calibration_set(prompts=1, guidance=1.0), [taps_of(pipe)[0]]).values()
    assert h.samples == 3 * 16


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
    (h,) = gather(pipe, calibration_set(prompts=1, steps=1), text).values()
    assert h.samples == 2 * (24 + 256)
    assert h.distinct <= 2 * (24 + 1)


class Routed(torch.nn.Module):
    """Two experts; `order` says which of them each call is sent to."""

    def __init__(self, order: list[tuple[int, ...]]):
        super().__init__()
        self.experts = torch.nn.ModuleList(torch.nn.Linear(4, 4) for _ in range(2))
        self.order = iter(order)

    def forward(self) -> torch.Tensor:
        return sum(self.experts[i](torch.randn(3, 4)) for i in next(self.order))


def gather_routed(order: list[tuple[int, ...]], prefix: str = "experts"):
    model = Routed(order)
    if prefix != "experts":
        model._modules[prefix] = model._modules.pop("experts")
        model.forward = lambda: sum(
            model._modules[prefix][i](torch.randn(3, 4)) for i in next(model.order)
        )
    pipe = DirectPipeline(model, dict, steps=len(order))
    taps = [Tap((f"{prefix}.{i}",), "ffn") for i in range(2)]
    with prepared(pipe) as run:
        return calibrate(run, model, taps, CalibrationSet([{}], [0], {}))


def test_every_expert_has_the_tokens_it_was_sent():
    hessians = gather_routed([(0,), (0, 1), (0, 0)], "experts")
    assert [h.samples for h in hessians.values()] == [12, 3]


def test_an_idle_expert_is_named():
    with pytest.raises(
        CalibrationError, match=r"1 experts saw no token: experts\.1; take more prompts"
    ):
        gather_routed([(0,), (0,)])


def test_a_module_may_be_used_more_than_once_in_a_call_but_always_as_often():
    assert [h.samples for h in gather_routed([(0, 1, 0), (0, 1, 0)], "shared").values()] == [12, 6]
    with pytest.raises(
        CalibrationError,
        match=r"of 2 denoiser calls these layers saw fewer or more: shared\.0 \(3\)",
    ):
        gather_routed([(0, 1, 0), (0, 1)], "shared")
