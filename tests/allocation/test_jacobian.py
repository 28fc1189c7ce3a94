"""Effects of all layers from one backward pass: the gradient is right, and nothing else changes."""

import json
from collections import Counter
from dataclasses import replace
from functools import partial

import diffusers
import pytest
import torch
from diffusers.hooks import apply_group_offloading

from obsdiff import PruningConfig, dense_pass, prune_
from obsdiff.allocation import jacobian, probes
from obsdiff.allocation.jacobian import call_figures, effects_of, figures_of, signs
from obsdiff.allocation.probes import Probes, probed
from obsdiff.calibration.calibration_set import CalibrationSet
from obsdiff.calibration.context import CalibrationContext
from obsdiff.errors import CalibrationError, RunFailed, UserError
from obsdiff.layerwise.journal import TRIALS, NullJournal
from obsdiff.models.discovery import find_blocks
from obsdiff.models.linear_view import layer_at, layer_shapes
from obsdiff.pipelines.differentiable import differentiable
from obsdiff.pipelines.placement import placed
from obsdiff.pipelines.run import prepared
from obsdiff.pipelines.stored_activations import OneByOne
from obsdiff.runtime.scratch import open_scratch

from ..conftest import PROMPTS, ddpm, flux, sd, sd3
from ..support.pretend_gpu import NAME, pretend_gpu
from ..support.pretend_offload import group_offloading

CALL = {"num_inference_steps": 2, "height": 16, "width": 16, "guidance_scale": 3.0}
ONE_STEP = CALL | {"num_inference_steps": 1}
CPU = torch.device("cpu")
QUICK = CALL | {"num_prompts": 3, "allocation_prompts": 2, "batch_size": 1}
SENSITIVITY = QUICK | {"allocation": "sensitivity", "blocks": "0-1"}


def denoiser_of(pipe) -> torch.nn.Module:
    return getattr(pipe, "transformer", None) or pipe.unet


def changes_of(denoiser, size: float = 0.02, every: int = 5) -> dict[str, dict[str, torch.Tensor]]:
    """A random change of every few layers of the blocks."""
    noise = torch.Generator().manual_seed(0)
    layers = [layer for block in find_blocks(layer_shapes(denoiser)) for layer in block.layers]
    return {
        layer: {layer: size * torch.randn(weight.shape, generator=noise).to(weight)}
        for layer in layers[::every]
        for weight in [layer_at(denoiser, layer).weight]
    }


def noted(names: list[str], name: str, forward, *args, **kwargs):
    """Call a forward, and note its name."""
    names.append(name)
    return forward(*args, **kwargs)


class Measuring:
    """A pipeline prepared to measure effects."""

    def __init__(self, pipe, call=CALL, prompts=PROMPTS[:3], **settings):
        self.pipe, self.denoiser, self.call = pipe, denoiser_of(pipe), call
        self.prompts, self.settings = prompts, settings

    def __enter__(self) -> CalibrationContext:
        self.scratch, self.run = open_scratch(1e9), prepared(self.pipe)
        seeds = list(range(5, 5 + len(self.prompts)))
        return CalibrationContext(
            self.run.__enter__(),
            self.denoiser,
            find_blocks(layer_shapes(self.denoiser)),
            CalibrationSet(self.prompts, seeds, self.call, **self.settings),
            self.scratch.__enter__(),
        )

    def __exit__(self, *error) -> None:
        self.run.__exit__(*error)
        self.scratch.__exit__(*error)


@pytest.mark.parametrize(
    ("make", "call", "prompt"),
    [(sd, CALL, PROMPTS[0]), (ddpm, {"num_inference_steps": 2}, {"batch_size": 2})],
)
def test_the_sums_are_the_derivative_of_the_latents(make, call, prompt):
    pipe = make().to(torch.float64)
    changes = changes_of(denoiser_of(pipe), every=3)
    layer = list(changes)[1]
    with Measuring(pipe, call, [prompt]) as context, torch.no_grad():
        run, denoiser = context.run, context.denoiser
        sums = Probes({layer: changes[layer][layer]}, lambda: run.step)
        weight = layer_at(denoiser, layer).weight
        with differentiable(run, denoiser, context.blocks), probed(denoiser, sums):
            latents = run.latents([prompt], [5], call)
            v = signs(latents, [1])
            latents.backward(v)
            moved = []
            for sign in (1, -1):
                weight.add_(sign * 1e-4 * changes[layer][layer])
                moved.append(run.latents([prompt], [5], call).detach())
                weight.sub_(sign * 1e-4 * changes[layer][layer])
    slope = ((moved[0] - moved[1]) * v).sum() / 2e-4
    assert sums.sums[layer].sum().item() == pytest.approx(slope.item(), rel=1e-4)
    assert sums.passed == {0, 1}


@pytest.mark.parametrize("make", [sd, flux])
@pytest.mark.slow
def test_stored_activations_change_no_figure_and_are_as_many_as_there_is_room_for(make):
    pipe, found, forwards = make(), {}, {}
    denoiser = denoiser_of(pipe)
    with Measuring(pipe, prompts=PROMPTS[:1]) as context:
        changes = changes_of(denoiser, every=3)
        first = layer_at(denoiser, next(iter(changes)))
        counted = []
        for name, module in (("denoiser", denoiser), ("layer", first)):
            module.forward = partial(noted, counted, name, module.forward)
        for room in (0.0, 1.0, 1e9):
            counted.clear()
            found[room] = figures_of(context, changes, [0], room)[0]
            forwards[room] = Counter(counted)
    assert found[0.0] == found[1.0] == found[1e9]
    steps = CALL["num_inference_steps"]
    assert forwards[0.0] == {"denoiser": 2 * steps, "layer": 3 * steps}
    assert forwards[1.0] == {"denoiser": 2 * steps + 1, "layer": 3 * steps + 1}
    assert forwards[1e9] == dict.fromkeys(("denoiser", "layer"), steps + 1)  # one call is counted


@pytest.mark.parametrize("make", [sd3, flux])
def test_the_latents_are_those_of_the_pipeline_and_it_is_left_as_it_was(make):
    pipe = make()
    denoiser, before = denoiser_of(pipe), torch.get_rng_state()
    denoiser.train()
    frozen = next(denoiser.parameters()).requires_grad_(False)
    flags = [p.requires_grad for p in denoiser.parameters()]
    with Measuring(pipe, prompts=PROMPTS[:1]) as context:
        plain = context.run.latents(PROMPTS[:1], [5], CALL)
        figures = figures_of(context, changes_of(denoiser), [0])[0]
        again = context.run.latents(PROMPTS[:1], [5], CALL)
    assert torch.equal(plain, again)
    assert not again.requires_grad
    assert figures["sum"] == pytest.approx(plain.double().sum().item(), rel=1e-5)
    assert min(figures["effects"].values()) > 0
    assert denoiser.training
    assert not frozen.requires_grad
    assert flags == [p.requires_grad for p in denoiser.parameters()]
    assert all(p.grad is None for p in denoiser.parameters())
    assert not any("forward" in vars(m) or m._forward_hooks for m in denoiser.modules())
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        "EulerAncestralDiscreteScheduler",
        "HeunDiscreteScheduler",
        "PNDMScheduler",
        "UniPCMultistepScheduler",
    ],
)
def test_samplers_of_other_orders_pass_gradients(name):
    pipe, call = sd(), CALL | {"num_inference_steps": 4}
    pipe.scheduler = getattr(diffusers, name).from_config(pipe.scheduler.config)
    with Measuring(pipe, call, PROMPTS[:1]) as context:
        torch.manual_seed(5)
        latents = context.run.latents(PROMPTS[:1], [5], call)
        figures = figures_of(context, changes_of(pipe.unet), [0])[0]
    assert figures["sum"] == pytest.approx(latents.double().sum().item(), rel=1e-4)
    assert min(figures["effects"].values()) > 0


def test_a_small_change_has_the_effect_that_the_rows_sum_to():
    """Rows of random signs: the mean effect over many signs is the sum over the rows."""
    pipe = sd()
    changes = {
        "all": {k: v for one in changes_of(pipe.unet, 1e-3, 9).values() for k, v in one.items()}
    }
    with Measuring(pipe) as context:
        few = replace(context, calibration_set=replace(context.calibration_set))
        effect = effects_of(few, NullJournal(), changes, PruningConfig(allocation_prompts=3))["all"]
        base, drawn = draw(context), []
        for i in range(6):
            noise = torch.Generator().manual_seed(i)
            for layer, change in changes["all"].items():
                weight = layer_at(pipe.unet, layer).weight
                flips = 2.0 * torch.randint(0, 2, (len(weight), 1), generator=noise) - 1
                weight.data += flips * change
                changes["all"][layer] = change
                drawn.append((weight, flips * change))
        # every layer has been changed six times, by independent signs: six times the effect
        found = (draw(context) - base).square().sum() / (base - base.mean()).square().sum()
        for weight, change in drawn:
            weight.data -= change
    assert found.item() / 6 == pytest.approx(effect, rel=0.6)


def draw(context: CalibrationContext) -> torch.Tensor:
    few = context.calibration_set
    return torch.cat(
        [context.run.latents([p], [s], CALL) for p, s in zip(few.prompts, few.seeds, strict=True)]
    )


@pytest.mark.slow
def test_batch_size_and_number_of_processes_change_nothing():
    found = []
    for settings in (
        {"batch_size": 1},
        {"batch_size": 3},
        {"batch_size": 1, "rank": 1, "ranks": 2},
    ):
        pipe = sd3()
        with Measuring(pipe, **settings) as context:
            found.append(figures_of(context, changes_of(pipe.transformer), [1])[0])
    assert found[0] == found[1] == found[2]


@pytest.mark.parametrize("make", [sd, sd3, flux])
@pytest.mark.slow
def test_prompts_that_share_a_call_have_the_figures_of_each_alone(make):
    pipe = make()
    model = denoiser_of(pipe)
    calls, alone = [], []
    model.register_forward_pre_hook(lambda *_: calls.append(torch.is_grad_enabled()))
    with Measuring(pipe) as context:
        changes = changes_of(model, every=3)
        for i in range(3):
            alone += call_figures(context, changes, range(i, i + 1), 1e9)["prompts"]
        single = len(calls)
        shared = call_figures(context, changes, range(3), 1e9)["prompts"]
    assert (len(calls) - single) * 3 == single
    assert len(shared) == 3
    for together, one in zip(shared, alone, strict=True):
        assert together["effects"] == pytest.approx(one["effects"], rel=1e-3)
        for key in ("entries", "sum", "square"):
            assert together[key] == pytest.approx(one[key], rel=1e-5)


def without_room(context, model, monkeypatch) -> float:
    return 1.0


def group_offloaded(context, model, monkeypatch) -> float:
    apply_group_offloading(model, CPU, CPU, "leaf_level")
    return 1e9


def with_experts(context, model, monkeypatch) -> float:
    monkeypatch.setattr(probes, "is_expert", lambda name: True)
    return 1e9


@pytest.mark.parametrize("alone", [without_room, group_offloaded, with_experts])
@pytest.mark.slow
def test_prompts_that_cannot_share_a_call_run_one_by_one(alone, monkeypatch):
    pipe = sd3()
    model = pipe.transformer
    with Measuring(pipe) as context:
        changes = changes_of(model)
        expected = [figures_of(context, changes, [i])[0] for i in range(2)]
        room = alone(context, model, monkeypatch)
        with pytest.raises(OneByOne):
            figures_of(context, changes, range(2), room)
        assert call_figures(context, changes, range(2), room)["prompts"] == expected
    assert not any(
        "forward" in vars(m) and not hasattr(m, "_diffusers_hook") for m in model.modules()
    )


def test_layers_that_read_two_of_three_guidance_parts_share_no_call():
    """Perturbed attention: to_q reads four images of six, in the order of the parts."""
    pipe = diffusers.StableDiffusionPAGPipeline(**sd().components, pag_applied_layers=["mid"])
    with Measuring(pipe, CALL | {"pag_scale": 3.0}, PROMPTS[:2]) as context:
        changes = changes_of(pipe.unet, every=1)
        expected = [figures_of(context, changes, [i], 1e9)[0] for i in range(2)]
        assert call_figures(context, changes, range(2), 1e9)["prompts"] == expected


@pytest.mark.parametrize(
    ("shape", "images"),
    [
        ((4, 10, 6), 4),  # both guidance parts
        ((2, 10, 6), 2),  # one
        ((12, 10, 6), 4),  # three frames
        ((40, 6), 4),  # tokens of the images one after the other
        ((10, 4, 6), None),  # tokens first, as in the FFNs of ERNIE-Image
        ((12, 4, 6), None),
        ((12, 2, 6), None),
        ((6, 10, 6), None),
        ((1, 6), None),
    ],
)
def test_the_images_in_the_rows_of_an_input(shape, images):
    """Two prompts with guidance."""
    sums, layer = Probes({}, lambda: 0, prompts=2, images=4), torch.nn.Linear(6, 5)
    if images:
        assert sums.images_in("layer", layer, torch.zeros(shape)) == images
    else:
        with pytest.raises(OneByOne):
            sums.images_in("layer", layer, torch.zeros(shape))


def test_calls_are_shared_out_evenly_and_hold_every_prompt_once():
    few = CalibrationSet(list("abcdefg"), list(range(7)), CALL, batch_size=4)
    assert few.first(6) == [range(4), range(4, 6)]
    assert few.first(9) == [range(4), range(4, 7)]
    assert replace(few, ranks=2).first(4) == [range(2), range(2, 4)]
    assert replace(few, prompts=[{"prompt": "a"}] * 7).first(2) == [range(1), range(1, 2)]


@pytest.mark.parametrize(("dtype", "near"), [(torch.bfloat16, 0.2), (torch.float16, 0.1)])
@pytest.mark.slow
def test_half_precision_sees_nearly_the_same(dtype, near):
    figures = []
    for kind in (torch.float32, dtype):
        pipe = sd3().to(kind)
        with Measuring(pipe, prompts=PROMPTS[:1]) as context:
            figures.append(figures_of(context, changes_of(pipe.transformer), [0])[0]["effects"])
    for name, effect in figures[0].items():
        assert figures[1][name] == pytest.approx(effect, rel=near), name


@pytest.mark.slow
def test_gradients_that_do_not_come_back_are_one_line():
    pipe, step = sd3(), type(sd3().scheduler).step

    def detached(self, *args, **kwargs):
        out = step(self, *args, **kwargs)
        return (out[0].detach() if self.step_index == 1 else out[0],)

    scheduler = type("Detaching", (type(pipe.scheduler),), {"step": detached})
    pipe.scheduler = scheduler.from_config(pipe.scheduler.config)
    with pytest.raises(UserError, match=r"come back to 1 of 2 denoising steps.*allocation drawn"):
        prune_(pipe, PROMPTS, PruningConfig(**SENSITIVITY))

    def in_numpy(self, *args, **kwargs):
        out = step(self, *args, **kwargs)
        return (torch.from_numpy(out[0].numpy()),)

    scheduler = type("InNumpy", (type(pipe.scheduler),), {"step": in_numpy})
    pipe.scheduler = scheduler.from_config(pipe.scheduler.config)
    with pytest.raises(RunFailed, match="runs it with gradients: use allocation drawn"):
        prune_(pipe, PROMPTS, PruningConfig(**SENSITIVITY))


@pytest.mark.slow
def test_gradients_that_are_no_numbers_name_the_layer(monkeypatch):
    monkeypatch.setattr(jacobian, "signs", lambda latents, seeds: latents * float("nan"))
    with pytest.raises(CalibrationError, match=r"transformer_blocks\.0\.attn.* has inf or NaN"):
        prune_(sd3(), PROMPTS, PruningConfig(**SENSITIVITY))


@pytest.mark.parametrize(
    ("make", "level", "blocks"),
    [(sd3, "block_level", 2), (sd3, "leaf_level", None), (sd, "block_level", 1)],
)
@pytest.mark.slow
def test_group_offloading_changes_nothing(make, level, blocks):
    """The effects of diffusers' own hooks from the CPU to the CPU."""
    found = []
    for offloaded in (False, True):
        pipe = make()
        model = denoiser_of(pipe)
        if offloaded:
            apply_group_offloading(model, CPU, CPU, level, num_blocks_per_group=blocks)
        with Measuring(pipe, prompts=PROMPTS[:1]) as context:
            found.append(figures_of(context, changes_of(model), [0])[0])
            plain = context.run.latents(PROMPTS[:1], [5], CALL)  # the hooks work again
        assert found[-1]["sum"] == pytest.approx(plain.double().sum().item(), rel=1e-5)
    assert found[0] == found[1]


@pytest.mark.slow
def test_group_offloading_on_a_device_has_few_blocks_there_at_a_time():
    """The backward pass finds the weights on the device; the parameters rest on the host."""
    figures, peaks = [], []
    for offload in ("none", "group"):
        with pretend_gpu() as counts, group_offloading():
            pipe = sd3(5)
            config = PruningConfig(device=NAME, offload=offload)
            with placed(pipe, "transformer", config), Measuring(pipe, ONE_STEP) as context:
                own = [p.device.type for p in pipe.transformer.parameters()]
                counts.clear()
                figures.append(figures_of(context, changes_of(pipe.transformer), [0])[0])
                peaks.append(counts.peak)
                assert [p.device.type for p in pipe.transformer.parameters()] == own
            assert set(own) == {"cpu" if offload == "group" else NAME}
            blocks = sum(p.nbytes for p in pipe.transformer.transformer_blocks.parameters())
        assert counts.own_products == 0, counts.host_products
    assert figures[0] == figures[1]
    assert peaks[0] - peaks[1] > blocks * 2 / 5


@pytest.mark.slow
@pytest.mark.parametrize("settings", [{}, {"pattern": "structured", "sparsity": 0.3}])
def test_a_killed_run_measures_only_the_missing_prompts(tmp_path, monkeypatch, settings):
    config = PruningConfig(**SENSITIVITY | settings)
    expected, real, seen = prune_(sd3(), PROMPTS, config), jacobian.call_figures, []

    def dying(context, changes, numbers, room):
        if numbers[0]:
            raise ZeroDivisionError
        return real(context, changes, numbers, room)

    def noting(context, changes, numbers, room):
        seen.append(numbers)
        return real(context, changes, numbers, room)

    monkeypatch.setattr(jacobian, "call_figures", dying)
    with pytest.raises(ZeroDivisionError):
        prune_(sd3(), PROMPTS, config, journal=tmp_path)
    assert len(list((tmp_path / TRIALS).iterdir())) == 1
    monkeypatch.setattr(jacobian, "call_figures", noting)
    found = prune_(sd3(), PROMPTS, config, journal=tmp_path)
    assert seen == [range(1, 2)]
    assert found.sensitivity == expected.sensitivity
    assert [row.error for row in found.layers] == [row.error for row in expected.layers]
    assert json.dumps(found.to_dict()["config"]) == json.dumps(expected.to_dict()["config"])


@pytest.mark.slow
def test_several_sparsities_of_one_dense_pass_are_measured_once(monkeypatch):
    real, seen = jacobian.call_figures, []
    monkeypatch.setattr(jacobian, "call_figures", lambda *args: seen.append(args[2]) or real(*args))
    configs = [PruningConfig(sparsity=share, **SENSITIVITY) for share in (0.3, 0.6)]
    pipe = sd3()
    with dense_pass(pipe, PROMPTS, configs) as dense:
        shared = [prune_(sd3(), PROMPTS, config, dense=dense) for config in configs]
    assert seen == [range(1), range(1, 2)]
    alone = prune_(sd3(), PROMPTS, configs[1])
    assert [row.sparsity for row in alone.layers] == [row.sparsity for row in shared[1].layers]
    assert sum(shared[0].sensitivity.values()) < sum(shared[1].sensitivity.values())


@pytest.mark.slow
@pytest.mark.parametrize("pattern", ["unstructured", "structured"])
def test_offloading_and_a_memory_budget_change_nothing(pattern):
    config = PruningConfig(pattern=pattern, sparsity=0.4, **SENSITIVITY)
    plain = prune_(sd3(), PROMPTS, config)
    pipe = sd3()
    pipe.enable_model_cpu_offload(device="cpu")
    offloaded = prune_(pipe, PROMPTS, config)
    assert offloaded.sensitivity == plain.sensitivity
    budget = PruningConfig(**config.to_dict() | {"memory_budget_gib": 0.001})
    assert prune_(sd3(), PROMPTS, budget).sensitivity == plain.sensitivity
