"""The node pack: files for ComfyUI with removed heads, and ComfyUI's own model with their widths.

The runs in ComfyUI's modules are skipped unless OBSDIFF_COMFYUI names a checkout, as
test_comfyui.py and docs/clients.md say.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from diffusers import (
    FluxPipeline,
    FluxTransformer2DModel,
    SD3Transformer2DModel,
    UNet2DConditionModel,
)
from safetensors.torch import load_file, save_file

from obsdiff.cli.main import main
from obsdiff.models.client_marker import MARKER_KEY

from ..conftest import flux, randomise, sd, sd3, sdxl
from ..support.cut_heads import cut_
from .test_comfyui import COMFYUI, REFUSED, in_comfyui, small_sd3

RUNNER = Path(__file__).parents[1] / "support" / "comfyui_node.py"
needs_comfyui = pytest.mark.skipif(
    not COMFYUI, reason="OBSDIFF_COMFYUI names no checkout of ComfyUI"
)


def exported(pipe, name: str, folder: Path, *kinds: str) -> Path:
    """The file of a pipeline whose denoiser lost items of these kinds."""
    cut_(getattr(pipe, name), *kinds)
    pipe.register_modules(**{name: getattr(pipe, name)})
    pipe.save_pretrained(folder / "cut")
    file = folder / "cut.safetensors"
    assert main(["export", str(folder / "cut"), "--to", "comfyui", "--output", str(file)]) == 0
    return file


def narrow_sd3():
    """An SD3 with two heads of 64, the only size that ComfyUI builds."""
    pipe = sd3()
    config = {"attention_head_dim": 64, "num_attention_heads": 2, "caption_projection_dim": 128}
    transformer = SD3Transformer2DModel.from_config(dict(pipe.transformer.config) | config)
    pipe.register_modules(transformer=randomise(transformer))
    return pipe


@pytest.mark.parametrize(("make", "name"), [(sd, "unet"), (narrow_sd3, "transformer")])
@pytest.mark.slow
def test_a_file_without_heads_is_marked_and_has_no_prefix(make, name, tmp_path):
    pipe = make()
    names = set(load_file(exported(pipe, name, tmp_path, "heads")))
    assert MARKER_KEY in names
    assert not any(key.startswith("model.diffusion_model.") for key in names)
    (tmp_path / "b").mkdir()
    assert MARKER_KEY not in load_file(exported(make(), name, tmp_path / "b", "neurons"))


def test_removed_channels_are_refused(capsys, tmp_path):
    pipe = sd()
    cut_(pipe.unet, "channels", target="conv")
    pipe.register_modules(unet=pipe.unet)
    pipe.save_pretrained(tmp_path / "cut")
    output = tmp_path / "a.safetensors"
    assert main(["export", str(tmp_path / "cut"), "--to", "comfyui", "--output", str(output)]) == 2
    assert "found that channels were" in capsys.readouterr().err
    assert not output.exists()


def test_heads_that_comfyui_would_not_build_are_refused(capsys, tmp_path, sd3_folder):
    output = tmp_path / "a.safetensors"
    assert main(["export", sd3_folder, "--to", "comfyui", "--output", str(output)]) == 2
    assert "expected heads of 64" in (line := capsys.readouterr().err)
    assert "found heads of 8" in line
    assert not output.exists()


def in_node(file: Path, **inputs: torch.Tensor) -> tuple[torch.Tensor, int]:
    """What ComfyUI's model computes once the node has opened a file, and its number of weights."""
    places = [file.with_name(f"{name}.safetensors") for name in ("inputs", "output")]
    save_file(inputs, places[0])
    done = subprocess.run(
        [sys.executable, str(RUNNER), str(file), *map(str, places)],
        env=os.environ | {"PYTHONPATH": COMFYUI},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found = load_file(places[1])
    return found["out"], int(found["parameters"])


def assert_close(found: torch.Tensor, expected: torch.Tensor) -> None:
    assert (found - expected).abs().max() <= 2e-5 * expected.abs().max()


@pytest.mark.slow
@needs_comfyui
@pytest.mark.parametrize("blocks", [2, 3])  # ComfyUI itself builds two for a width of 128
def test_sd3_without_heads_is_computed_at_its_own_size(blocks, tmp_path):
    pipe = sd3()
    pipe.register_modules(transformer=randomise(small_sd3(blocks)))
    dense = sum(p.numel() for p in pipe.transformer.parameters())
    file = exported(pipe, "transformer", tmp_path, "heads", "neurons")
    x, t = torch.randn(1, 16, 8, 8), torch.tensor([500.0])
    context, y = torch.randn(1, 7, 4096), torch.randn(1, 2048)
    found, parameters = in_node(file, x=x, timesteps=t, context=context, y=y)
    with torch.no_grad():
        expected = pipe.transformer(x, context, y, t, return_dict=False)[0]
    assert_close(found, expected)
    assert parameters < dense
    own = in_comfyui({"cut": load_file(file)}, tmp_path)["cut"]
    assert all(error.startswith(REFUSED) for error in own)


@pytest.mark.slow
@needs_comfyui
def test_flux_without_heads_is_computed_at_its_own_size(tmp_path):
    torch.manual_seed(0)
    pipe = flux()
    transformer = FluxTransformer2DModel(
        in_channels=64, num_layers=1, num_single_layers=1, num_attention_heads=2,
        joint_attention_dim=4096, pooled_projection_dim=768, guidance_embeds=True,
    )  # fmt: skip
    pipe.register_modules(transformer=randomise(transformer))
    file = exported(pipe, "transformer", tmp_path, "heads", "neurons")
    x, t, guidance = torch.randn(1, 16, 8, 8), torch.tensor([0.5]), torch.tensor([3.5])
    context, y = torch.randn(1, 7, 4096), torch.randn(1, 768)
    found, _ = in_node(file, x=x, timestep=t, context=context, y=y, guidance=guidance)
    packed = FluxPipeline._pack_latents(x, 1, 16, 8, 8)
    places = FluxPipeline._prepare_latent_image_ids(1, 4, 4, "cpu", torch.float32)
    with torch.no_grad():
        expected = pipe.transformer(
            packed, context, y, t, places, torch.zeros(7, 3), guidance, return_dict=False
        )[0]
    assert_close(FluxPipeline._pack_latents(found, 1, 16, 8, 8), expected)


@pytest.mark.slow
@needs_comfyui
def test_a_unet_without_heads_is_computed_at_its_own_size(tmp_path):
    torch.manual_seed(0)
    pipe = sd()
    unet = UNet2DConditionModel(
        block_out_channels=(320, 320), layers_per_block=1, cross_attention_dim=768,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
    )  # fmt: skip
    pipe.register_modules(unet=randomise(unet))
    file = exported(pipe, "unet", tmp_path, "heads", "neurons")
    x, t, context = torch.randn(1, 4, 8, 8), torch.tensor([500.0]), torch.randn(1, 7, 768)
    found, _ = in_node(file, x=x, timesteps=t, context=context)
    with torch.no_grad():
        expected = pipe.unet(x, t, context, return_dict=False)[0]
    assert_close(found, expected)
    own = in_comfyui({"cut": load_file(file)}, tmp_path)["cut"]
    assert all(error.startswith(REFUSED) for error in own)


@pytest.mark.slow
@needs_comfyui
def test_sdxl_without_heads_is_computed_at_its_own_size(tmp_path):
    """SDXL's UNet with the depths of Segmind Vega, 320 features at every resolution."""
    torch.manual_seed(0)
    pipe = sdxl()
    unet = UNet2DConditionModel(
        block_out_channels=(320, 320, 320), layers_per_block=2, attention_head_dim=(5, 5, 5),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        transformer_layers_per_block=(1, 1, 2), use_linear_projection=True,
        cross_attention_dim=2048, addition_embed_type="text_time", addition_time_embed_dim=256,
        projection_class_embeddings_input_dim=2816,
    )  # fmt: skip
    pipe.register_modules(unet=randomise(unet))
    file = exported(pipe, "unet", tmp_path, "heads", "neurons")
    x, t, context = torch.randn(1, 4, 8, 8), torch.tensor([500.0]), torch.randn(1, 7, 2048)
    pooled, sizes = torch.randn(1, 1280), torch.tensor([[64.0, 64.0, 0.0, 0.0, 64.0, 64.0]])
    y = torch.cat([pooled, unet.add_time_proj(sizes.flatten()).reshape(1, -1)], dim=1)
    found, _ = in_node(file, x=x, timesteps=t, context=context, y=y)
    with torch.no_grad():
        more = {"text_embeds": pooled, "time_ids": sizes}
        expected = pipe.unet(x, t, context, added_cond_kwargs=more, return_dict=False)[0]
    assert_close(found, expected)
    own = in_comfyui({"cut": load_file(file)}, tmp_path)["cut"]
    assert all(error.startswith(REFUSED) for error in own)
