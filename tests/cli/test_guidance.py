"""inspect's tokens per column are those of a run, for pipelines with and without guidance."""

from pathlib import Path

import pytest
from diffusers import (
    Flux2KleinPipeline,
    LatentConsistencyModelPipeline,
    LCMScheduler,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
    WanPipeline,
)

from obsdiff import PruningConfig
from obsdiff.cli.guidance import latent_frames, step_passes
from obsdiff.cli.inspect import describe
from obsdiff.pipelines.folder import Folder, open_folder

from ..conftest import flux, sd, sd3, sdxl
from ..support.kin_pipelines import wan


def schnell():
    """FLUX without a guidance embedding."""
    pipe = flux()
    config = dict(pipe.transformer.config) | {"guidance_embeds": False}
    pipe.register_modules(transformer=type(pipe.transformer).from_config(config).eval())
    return pipe


def lcm():
    """A UNet that embeds the guidance scale, in the pipeline that draws without guidance."""
    return LatentConsistencyModelPipeline(
        **sd().components | {"unet": distilled(sd().unet), "scheduler": LCMScheduler()}
    )


def distilled(unet):
    """The UNet with an embedding of the guidance scale, as distilled models have it."""
    config = {key: value for key, value in unet.config.items() if not key.startswith("_")}
    return UNet2DConditionModel.from_config(config | {"time_cond_proj_dim": 8}).eval()


def sdxl_lcm():
    pipe = sdxl()
    pipe.register_modules(unet=distilled(pipe.unet))
    return pipe


KINDS = {
    "sd": (sd, {}),
    "sd, no guidance": (sd, {"guidance_scale": 1.0}),
    "sdxl": (sdxl, {}),
    "sdxl-turbo": (sdxl, {"guidance_scale": 0.0}),
    "sdxl, distilled": (sdxl_lcm, {}),
    "lcm": (lcm, {}),
    "sd3": (sd3, {}),
    "sd3, no guidance": (sd3, {"guidance_scale": 1.0}),
    "flux dev": (flux, {}),
    "flux schnell": (schnell, {"guidance_scale": 4.0}),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.slow
def test_tokens_per_column_are_those_of_a_run(kind, tmp_path):
    make, settings = KINDS[kind]
    pipe = make()
    pipe.set_progress_bar_config(disable=True)
    pipe.save_pretrained(tmp_path / "model")
    size = {"height": 16, "width": 16, "num_inference_steps": 2}
    config = PruningConfig(num_prompts=2, tokens_per_column="all", **size | settings)
    plan = describe(open_folder(tmp_path / "model"), config, 2)
    taps = {tap.layers[0]: tap for package in plan.packages for tap in package.taps}
    name = next(name for name in taps if name.endswith(("attn.to_q", "attn1.to_q")))
    assert taps[name].kept_per_column == taps[name].tokens_per_column
    layer = getattr(pipe, plan.component).get_submodule(name)
    seen: list[int] = []
    layer.register_forward_pre_hook(lambda _, args: seen.append(args[0][..., 0].numel()))
    for prompt in ("a cat", "a red apple"):
        pipe(prompt, **size | settings, output_type="latent")
    assert taps[name].tokens_per_column == pytest.approx(
        sum(seen) / layer.weight.shape[1], abs=0.01
    )


def test_tokens_of_a_video_are_those_of_its_frames(tmp_path):
    pipe = wan()
    pipe.set_progress_bar_config(disable=True)
    pipe.save_pretrained(tmp_path / "model")
    size = {"height": 64, "width": 64, "num_inference_steps": 2}
    plan = describe(open_folder(tmp_path / "model"), PruningConfig(num_prompts=1, **size), 1)
    tap = next(
        tap for package in plan.packages for tap in package.taps if "attn1.to_q" in tap.layers[0]
    )
    layer = pipe.transformer.get_submodule(tap.layers[0])
    seen: list[int] = []
    layer.register_forward_pre_hook(lambda _, args: seen.append(args[0][..., 0].numel()))
    pipe("a cat", **size, output_type="latent")  # 81 frames, which is its default
    assert tap.tokens_per_column == pytest.approx(sum(seen) / layer.weight.shape[1], abs=0.01)


def test_what_a_class_says_of_itself(tmp_path):
    from diffusers import HunyuanVideoPipeline, QwenImagePipeline

    (tmp_path / "model_index.json").write_text('{"is_distilled": true}')
    (tmp_path / "transformer").mkdir()
    (tmp_path / "transformer" / "config.json").write_text("{}")
    folder = Folder(Path(tmp_path), "x", {"transformer": None})
    assert step_passes(QwenImagePipeline, folder, "transformer", 4.0) == 1
    assert step_passes(HunyuanVideoPipeline, folder, "transformer", 6.0) == 1
    assert step_passes(Flux2KleinPipeline, folder, "transformer", 4.0) == 1
    assert step_passes(WanPipeline, folder, "transformer", 5.0) == 2
    assert step_passes(WanPipeline, folder, "transformer", 1.0) == 1
    (tmp_path / "model_index.json").write_text("{}")
    assert step_passes(Flux2KleinPipeline, folder, "transformer", 4.0) == 2


def test_frames_of_latents():
    assert latent_frames(StableDiffusionXLPipeline, {}) == 1
    assert latent_frames(WanPipeline, {"scale_factor_temporal": 4}) == 21
    assert latent_frames(WanPipeline, {"temperal_downsample": [False, True, True]}) == 21
    assert latent_frames(WanPipeline, {"_class_name": "AutoencoderKLWan"}) == 21  # its defaults
    assert latent_frames(WanPipeline, {"_class_name": "WanPipeline"}) is None
    assert latent_frames(WanPipeline, {}) is None
