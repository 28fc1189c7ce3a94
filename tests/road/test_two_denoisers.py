"""Pipelines with two denoisers: which one is pruned, and calls in a part of the steps."""

import json
import warnings
from collections import Counter

import pytest
import torch
from diffusers import (
    AutoencoderKLWan,
    DDIMScheduler,
    PriorTransformer,
    StableDiffusion3Pipeline,
    StableUnCLIPPipeline,
    UNet2DConditionModel,
    UniPCMultistepScheduler,
    WanPipeline,
    WanTransformer3DModel,
)
from diffusers.pipelines.stable_diffusion import StableUnCLIPImageNormalizer
from transformers import CLIPTextModel, CLIPTextModelWithProjection, T5Config, T5EncoderModel

from obsdiff import PruningConfig, prune_
from obsdiff.calibration.calibrated_input import CalibratedInput
from obsdiff.calibration.calibration_set import CalibrationSet
from obsdiff.calibration.hooks import CallAudit, calibrate
from obsdiff.calibration.step_weights import step_weight
from obsdiff.cli.main import main
from obsdiff.errors import CalibrationError, CalibrationWarning
from obsdiff.models.structure import Tap
from obsdiff.pipelines.call import scheduler_name

from ..conftest import PROMPTS, randomise, sd3, text_config, tokenizer, vae
from ..support.contexts import context_of

QKV = Tap(("blocks.0.attn1.to_q", "blocks.0.attn1.to_k", "blocks.0.attn1.to_v"), "attention")
VIDEO = {"height": 16, "width": 16, "num_frames": 5, "max_sequence_length": 16}


def wan(boundary: float | None = 0.9) -> WanPipeline:
    """Wan 2.2: transformer draws the noisy steps, transformer_2 the others."""
    torch.manual_seed(0)
    transformers = [
        WanTransformer3DModel(
            patch_size=(1, 2, 2),
            num_attention_heads=2,
            attention_head_dim=12,
            in_channels=16,
            out_channels=16,
            text_dim=32,
            freq_dim=32,
            ffn_dim=32,
            num_layers=2,
            rope_max_seq_len=32,
        )
        for _ in range(2)
    ]
    video_vae = AutoencoderKLWan(
        base_dim=3,
        z_dim=16,
        dim_mult=[1, 1, 1, 1],
        num_res_blocks=1,
        temperal_downsample=[False, True, True],
    )
    text = T5EncoderModel(
        T5Config(
            vocab_size=514,
            d_model=32,
            d_kv=8,
            d_ff=32,
            num_layers=1,
            num_heads=2,
            pad_token_id=513,
            eos_token_id=513,
        )
    ).eval()
    scheduler = UniPCMultistepScheduler(
        prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0
    )
    one, two = (randomise(model) for model in transformers)
    return WanPipeline(tokenizer(), text, video_vae, scheduler, one, two, boundary_ratio=boundary)


def unclip() -> StableUnCLIPPipeline:
    """A prior computes an embedding, in steps of its own scheduler; a UNet draws the picture."""
    torch.manual_seed(0)
    prior = PriorTransformer(
        num_attention_heads=2,
        attention_head_dim=8,
        embedding_dim=16,
        num_layers=1,
        num_embeddings=24,
    )
    unet = UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(16, 32),
        layers_per_block=1,
        norm_num_groups=4,
        cross_attention_dim=16,
        attention_head_dim=4,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        class_embed_type="projection",
        projection_class_embeddings_input_dim=32,
    )
    schedulers = [
        DDIMScheduler(prediction_type="sample", clip_sample=False),
        DDIMScheduler(),
        DDIMScheduler(clip_sample=False),
    ]
    return StableUnCLIPPipeline(
        tokenizer(),
        CLIPTextModelWithProjection(text_config()),
        randomise(prior),
        schedulers[0],
        StableUnCLIPImageNormalizer(16),
        schedulers[1],
        tokenizer(),
        CLIPTextModel(text_config()),
        randomise(unet),
        schedulers[2],
        vae(),
    )


def video_plan(steps: int, guidance: float, **more) -> CalibrationSet:
    return CalibrationSet(
        [{"prompt": "red apple"} | VIDEO | more],
        [0],
        {"num_inference_steps": steps, "guidance_scale": guidance},
    )


def gather(pipe, component: str, drawn: CalibrationSet) -> CalibratedInput:
    with context_of(pipe, drawn, component) as context:
        return calibrate(context, [QKV])[QKV]


def inputs_by_step(pipe, component: str, drawn: CalibrationSet) -> list[list[torch.Tensor]]:
    """What the tapped layer reads in each scheduler step of a plain call."""
    seen: list[list[torch.Tensor]] = [[]]
    step = pipe.scheduler.step

    def stepping(*args, **kwargs):
        seen.append([])
        return step(*args, **kwargs)

    pipe.scheduler.step = stepping
    handle = (
        getattr(pipe, component)
        .get_submodule(QKV.layers[0])
        .register_forward_pre_hook(lambda m, args: seen[-1].append(args[0].double().flatten(0, -2)))
    )
    pipe(
        **drawn.prompts[0],
        generator=torch.Generator().manual_seed(0),
        output_type="latent",
        **drawn.settings,
    )
    handle.remove()
    del pipe.scheduler.step
    return seen[:-1]


@pytest.mark.parametrize("component", ["transformer", "transformer_2"])
def test_weights_of_a_part_of_the_steps_stay_those_of_the_schedule(component):
    pipe, drawn = wan(), video_plan(steps=5, guidance=3.0)
    steps = inputs_by_step(pipe, component, drawn)
    ran = [i for i, inputs in enumerate(steps) if inputs]
    assert 0 < len(ran) < 5
    assert all(len(steps[i]) == 2 for i in ran)  # guidance: two calls a step
    expected = sum(
        2 * step_weight("log_decrease", i, 5, 0.8, 1.2) * x.T @ x for i in ran for x in steps[i]
    ) / sum(len(x) for i in ran for x in steps[i])
    found = gather(pipe, component, drawn)
    torch.testing.assert_close(found.matrix().double(), expected, rtol=1e-4, atol=1e-6)


def test_each_denoiser_has_its_own_number_of_calls_a_step():
    drawn = video_plan(steps=5, guidance=3.0, guidance_scale_2=1.0)
    assert all(
        gather(wan(), component, drawn).hessian.samples > 0
        for component in ("transformer", "transformer_2")
    )


def test_a_denoiser_that_never_runs_is_no_success():
    with pytest.raises(CalibrationError, match="in none of the 2 steps, others did"):
        gather(wan(boundary=None), "transformer_2", video_plan(steps=2, guidance=1.0))


def counted(per_step: dict[int, int], others: dict[int, int]) -> CallAudit:
    """The account of a run whose layer took part in every call of the denoiser."""
    calls = sum(per_step.values())
    return CallAudit(
        calls,
        Counter(per_step),
        Counter(others),
        layers=Counter({"a": calls}),
        present=Counter({"a": calls}),
    )


def test_only_steps_of_another_denoiser_may_be_left_out():
    counted({0: 2, 1: 2, 3: 2}, {2: 2}).check(["a"], 4)
    counted({0: 4, 1: 2}, {2: 2}).check(["a"], 3)  # guidance in a part of the steps
    with pytest.raises(CalibrationError, match="no denoiser ran in step 3"):
        counted({0: 2, 1: 2, 3: 2}, {}).check(["a"], 4)


class TwoSD3(StableDiffusion3Pipeline):
    """SD3 whose first step one transformer computes, and a second one the others, as in Wan."""

    def __init__(
        self,
        transformer,
        transformer_2,
        scheduler,
        vae,
        text_encoder,
        tokenizer,
        text_encoder_2,
        tokenizer_2,
        text_encoder_3,
        tokenizer_3,
        image_encoder=None,
        feature_extractor=None,
    ):
        super().__init__(
            transformer,
            scheduler,
            vae,
            text_encoder,
            tokenizer,
            text_encoder_2,
            tokenizer_2,
            text_encoder_3,
            tokenizer_3,
        )
        self.register_modules(transformer_2=transformer_2)

    def __call__(
        self,
        prompt=None,
        num_inference_steps=28,
        guidance_scale=7.0,
        generator=None,
        output_type="pil",
        return_dict=True,
    ):
        first = self.transformer

        def swap(pipe, *_):
            pipe.transformer = pipe.transformer_2
            return {}

        try:
            return super().__call__(
                prompt,
                num_inference_steps=num_inference_steps,
                guidance_scale=guidance_scale,
                generator=generator,
                output_type=output_type,
                return_dict=return_dict,
                callback_on_step_end=swap,
            )
        finally:
            self.transformer = first


def two_sd3() -> TwoSD3:
    return TwoSD3(transformer_2=randomise(sd3().transformer), **sd3().components)


@pytest.mark.parametrize(
    ("component", "pattern"),
    [("transformer_2", "unstructured"), (None, "unstructured"), ("transformer_2", "structured")],
)
@pytest.mark.slow
def test_component_names_the_one_to_prune(component, pattern, recwarn):
    pipe = two_sd3()
    before = {
        name: {k: w.clone() for k, w in getattr(pipe, name).state_dict().items()}
        for name in ("transformer", "transformer_2")
    }
    config = PruningConfig(
        component=component,
        pattern=pattern,
        packages=2,
        num_inference_steps=3,
        guidance_scale=3.0,
        keep_first_last=False,
    )
    report = prune_(pipe, PROMPTS[:2], config)
    pruned = component or "transformer"
    dense = "transformer" if component else "transformer_2"
    assert report.component == pruned
    assert all(
        torch.equal(w, before[dense][k]) for k, w in getattr(pipe, dense).state_dict().items()
    )
    after = getattr(pipe, pruned).state_dict()["transformer_blocks.0.attn.to_out.0.weight"]
    assert after.shape[1] < 32 if pattern == "structured" else (after == 0).float().mean() > 0.4
    said = [
        str(w.message)
        for w in recwarn
        if w.category is CalibrationWarning and "several denoisers" in str(w.message)
    ]
    assert said == (
        []
        if component
        else [
            "TwoSD3 has several denoisers: transformer is pruned, transformer_2 stays dense; "
            "component (--component) names another"
        ]
    )


def test_a_prior_has_its_own_scheduler():
    pipe = unclip()
    assert [scheduler_name(pipe, name) for name in ("unet", "prior")] == [
        "scheduler",
        "prior_scheduler",
    ]
    settings = {
        "num_inference_steps": 2,
        "prior_num_inference_steps": 3,
        "guidance_scale": 1.0,
        "prior_guidance_scale": 1.0,
        "height": 16,
        "width": 16,
    }
    drawn = CalibrationSet([{"prompt": "fish"} | settings], [0], {})
    for name, layer, steps in (
        ("prior", "transformer_blocks.0.attn1.to_q", 3),
        ("unet", "mid_block.attentions.0.transformer_blocks.0.attn1.to_q", 2),
    ):
        with context_of(pipe, drawn, name) as context:
            (calibrated,) = calibrate(context, [Tap((layer,), "attention")]).values()
            assert context.run.steps == steps
        assert calibrated.hessian.samples % steps == 0


@pytest.mark.slow
def test_prior_and_unet_through_the_command_line(prompts_file, tmp_path, capsys):
    unclip().save_pretrained(tmp_path / "model")
    assert main(["inspect", str(tmp_path / "model"), "--json"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert plan["component"] == "unet"
    assert plan["notes"] == [
        "StableUnCLIPPipeline has several denoisers: unet is pruned, prior stays dense; "
        "component (--component) names another"
    ]
    quick = [
        "--num-prompts",
        "1",
        "--num-inference-steps",
        "2",
        "--height",
        "16",
        "--width",
        "16",
        "--packages",
        "1",
    ]
    assert (
        main(
            [
                "prune",
                str(tmp_path / "model"),
                "--output",
                str(tmp_path / "out"),
                "--prompts",
                prompts_file,
                *quick,
            ]
        )
        == 0
    )
    assert (
        "warning: StableUnCLIPPipeline has several denoisers: unet is pruned"
        in capsys.readouterr().err
    )
    pipe = StableUnCLIPPipeline.from_pretrained(tmp_path / "out")
    assert (
        pipe.unet.mid_block.attentions[0].transformer_blocks[0].ff.net[2].weight == 0
    ).float().mean() > 0.4


class GuidedByAnother(StableDiffusion3Pipeline):
    """SD3 with a second transformer that runs in every step, as the guidance of Ideogram 4."""

    def __init__(
        self,
        transformer,
        unconditional_transformer,
        scheduler,
        vae,
        text_encoder,
        tokenizer,
        text_encoder_2,
        tokenizer_2,
        text_encoder_3,
        tokenizer_3,
        image_encoder=None,
        feature_extractor=None,
    ):
        super().__init__(
            transformer,
            scheduler,
            vae,
            text_encoder,
            tokenizer,
            text_encoder_2,
            tokenizer_2,
            text_encoder_3,
            tokenizer_3,
        )
        self.register_modules(unconditional_transformer=unconditional_transformer)


@pytest.mark.parametrize("component", [None, "unconditional_transformer"])
@pytest.mark.slow
def test_an_unconditional_transformer_is_a_denoiser_of_its_own(component):
    pipe = GuidedByAnother(**sd3().components, unconditional_transformer=sd3().transformer)
    other = pipe.unconditional_transformer
    pipe.transformer.register_forward_pre_hook(
        lambda _, args, kwargs: other(*args, **kwargs) and None, with_kwargs=True
    )
    pruned = component or "transformer"
    config = PruningConfig(component=component, num_inference_steps=2, height=16, width=16)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        report = prune_(pipe, PROMPTS[:1], config)
    noted = any("unconditional_transformer stays dense" in str(w.message) for w in caught)
    assert noted == (component is None)
    for name in ("transformer", "unconditional_transformer"):
        weight = getattr(pipe, name).get_submodule(report.layers[0].name).weight
        assert ((weight == 0).float().mean() > 0.4) == (name == pruned)
