"""One file under the authors' names: read back by diffusers and by obsdiff, bit for bit."""

import json
from types import SimpleNamespace

import diffusers
import pytest
import torch
from diffusers import FluxTransformer2DModel, SD3Transformer2DModel
from diffusers.loaders import single_file_utils
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers import CLIPTextModelWithProjection

from obsdiff import PruningConfig, prune_, save_pruned
from obsdiff.cli.main import main
from obsdiff.models.depth import remove_blocks_, stacks_of
from obsdiff.models.low_rank import correct_by_
from obsdiff.models.pruned_classes import mark_corrected_, pruned_class
from obsdiff.pipelines.load import load_pipeline
from obsdiff.pipelines.single_file import open_model

from ..conftest import PROMPTS, flux, randomise, sd, sd3, sdxl, text_config
from ..support.cut_heads import cut_
from ..support.lanes import first_quick
from ..support.original_layout import sd3_transformer, stable_diffusion

pytestmark = pytest.mark.filterwarnings("ignore::obsdiff.errors.CalibrationWarning")
QUICK = {"num_inference_steps": 2, "guidance_scale": 3.0, "height": 16, "width": 16}


def whole_sd3():
    """An SD3 as its single files are: no projection in the first CLIP, another width in the
    second."""
    pipe = sd3(dual=(0,))
    with torch.no_grad():
        pipe.text_encoder.text_projection.weight.copy_(torch.eye(16))
    pipe.text_encoder_2 = CLIPTextModelWithProjection(text_config(8)).eval()
    return pipe


def export(folder, *words) -> int:
    return main(["export", str(folder), "--to", "single-file", "--output", *map(str, words)])


def refused(capsys, folder, *words) -> str:
    capsys.readouterr()  # what diffusers printed while the folder was saved
    assert export(folder, *words) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    return line


def assert_same(found: torch.nn.Module, expected: torch.nn.Module) -> None:
    found, expected = found.state_dict(), expected.state_dict()
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], weight) for name, weight in expected.items())


def latents(pipe) -> torch.Tensor:
    noise = torch.Generator().manual_seed(0)
    return pipe(PROMPTS[0], generator=noise, output_type="latent", **QUICK).images


@pytest.mark.parametrize("make", first_quick([sd, sdxl, whole_sd3]), ids=lambda make: make.__name__)
@pytest.mark.slow
def test_a_whole_model_is_read_back_and_draws_the_same(make, tmp_path):
    pipe, file = make(), tmp_path / "model.safetensors"
    pipe.save_pretrained(tmp_path / "model")
    assert export(tmp_path / "model", file) == 0
    given = {"text_encoder_3": None, "tokenizer_3": None} if make is whole_sd3 else {}
    back = type(pipe).from_single_file(str(file), config=str(tmp_path / "model"), **given)
    for name, part in pipe.components.items():
        if isinstance(part, torch.nn.Module):
            assert_same(getattr(back, name), part)
    if make is not whole_sd3:  # its text encoders do not fit its transformer
        assert torch.equal(latents(back), latents(pipe))
    own, _ = load_pipeline(open_model(str(file), tmp_path / "model"), device="cpu")
    for name in ("unet", "transformer", "vae", "text_encoder"):
        if isinstance(getattr(pipe, name, None), torch.nn.Module):
            assert_same(getattr(own, name), getattr(pipe, name))


def test_the_names_are_those_of_the_authors(tmp_path):
    pipe = sd()
    pipe.save_pretrained(tmp_path / "sd")
    assert export(tmp_path / "sd", tmp_path / "sd.safetensors") == 0
    found, expected = load_file(tmp_path / "sd.safetensors"), stable_diffusion(pipe)
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], weight) for name, weight in expected.items())


def test_a_denoiser_alone_has_no_prefix(tmp_path):
    pipe, file = sd3(), tmp_path / "sd3.safetensors"
    pipe.save_pretrained(tmp_path / "sd3")
    assert export(tmp_path / "sd3", file, "--component", "transformer") == 0
    found = load_file(file)
    expected = sd3_transformer(pipe.transformer)
    prefix = "model.diffusion_model."
    assert {prefix + name for name in found} == expected.keys()
    assert all(torch.equal(found[name.removeprefix(prefix)], w) for name, w in expected.items())


def scaled_torch(width: int) -> SimpleNamespace:
    """torch, with the one constant of diffusers' FLUX converter, a width of 3072, scaled."""

    def split(tensor, sizes, dim=0):
        return torch.split(tensor, [size * width // 3072 for size in sizes], dim)

    return SimpleNamespace(split=split, chunk=torch.chunk, cat=torch.cat)


@pytest.mark.parametrize("guidance", [True, False])
def test_flux_is_read_back(guidance, tmp_path, monkeypatch):
    torch.manual_seed(0)
    pipe = flux()
    config = dict(pipe.transformer.config) | {"guidance_embeds": guidance}
    pipe.transformer = randomise(FluxTransformer2DModel.from_config(config))
    pipe.save_pretrained(tmp_path / "flux")
    file = tmp_path / "flux.safetensors"
    assert export(tmp_path / "flux", file) == 0
    names = set(load_file(file))
    assert "text_encoders.t5xxl.transformer.shared.weight" in names
    assert any("guidance_in" in name for name in names) == guidance
    assert "model.diffusion_model.single_blocks.1.linear1.weight" in names
    monkeypatch.setattr(single_file_utils, "torch", scaled_torch(32))
    weights = {k: w for k, w in load_file(file).items() if k.startswith("model.diff")}
    back = single_file_utils.convert_flux_transformer_checkpoint_to_diffusers(weights)
    expected = pipe.transformer.state_dict()
    assert back.keys() == expected.keys()
    assert all(torch.equal(back[name], weight) for name, weight in expected.items())


def cut_sd3(folder, *kinds):
    """A folder of an SD3 whose transformer lost items of these kinds."""
    pipe = sd3()
    cut_(pipe.transformer, *kinds)
    pipe.register_modules(transformer=pipe.transformer)  # its class is another one now
    pipe.save_pretrained(folder)
    return pipe


def test_fewer_neurons_keep_their_shapes_and_the_layout_is_in_the_metadata(tmp_path):
    pipe, file = cut_sd3(tmp_path / "cut", "neurons"), tmp_path / "cut.safetensors"
    assert export(tmp_path / "cut", file, "--component", "transformer") == 0
    cls = pruned_class("PrunedSD3Transformer2DModel")
    back = cls.from_single_file(str(file), config=str(tmp_path / "cut"), subfolder="transformer")
    assert_same(back, pipe.transformer)
    own, _ = load_pipeline(open_model(str(file), tmp_path / "cut"), device="cpu")
    assert_same(own.transformer, pipe.transformer)
    with safe_open(file, "pt") as opened:
        notes = opened.metadata()
    layout = pipe.transformer.config["pruned_layout"]
    assert json.loads(notes["obsdiff"])["pruned_layout"] == {"transformer": layout}
    assert json.loads(notes["transformer/config.json"])["pruned_layout"] == layout


UP = "up_blocks.0.attentions.0.transformer_blocks"


def fewer_blocks(folder, *away):
    pipe = sdxl()
    remove_blocks_(pipe.unet, stacks_of(pipe.unet), away)
    pipe.save_pretrained(folder)
    return pipe


def test_a_unet_with_fewer_blocks_is_read_back(tmp_path):
    """Blocks out of an attention, and all of the middle's."""
    middle = [f"mid_block.attentions.0.transformer_blocks.{i}" for i in range(2)]
    pipe, file = fewer_blocks(tmp_path / "model", f"{UP}.0", *middle), tmp_path / "a.safetensors"
    assert export(tmp_path / "model", file, "--component", "unet") == 0
    back = type(pipe.unet).from_single_file(
        str(file), config=str(tmp_path / "model"), subfolder="unet"
    )
    assert_same(back, pipe.unet)


def test_an_attention_without_any_block_is_refused(capsys, tmp_path):
    fewer_blocks(tmp_path / "model", f"{UP}.0", f"{UP}.1")
    line = refused(capsys, tmp_path / "model", tmp_path / "a.safetensors", "--component", "unet")
    assert "expected a transformer block in up_blocks.0.attentions.0, found none" in line
    assert not (tmp_path / "a.safetensors").exists()


@pytest.mark.slow
def test_removed_heads_are_refused_and_padded_on_request(capsys, tmp_path):
    pipe, file = cut_sd3(tmp_path / "cut", "heads", "neurons"), tmp_path / "cut.safetensors"
    words = (file, "--component", "transformer")
    line = refused(capsys, tmp_path / "cut", *words)
    assert "found that heads were removed" in line
    assert "with --pad, which puts zeros in their place" in line
    assert not file.exists()
    assert export(tmp_path / "cut", *words, "--pad") == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cut", "cut.safetensors"]
    dense = SD3Transformer2DModel.from_single_file(
        str(file), config=str(tmp_path / "cut"), subfolder="transformer"
    )
    assert type(dense) is SD3Transformer2DModel
    x = torch.randn(1, 4, 8, 8)
    call = {
        "encoder_hidden_states": torch.randn(1, 5, 32),
        "pooled_projections": torch.randn(1, 32),
        "timestep": torch.tensor([5.0]),
    }
    with torch.no_grad():
        found, expected = (model(x, **call)[0] for model in (dense, pipe.transformer))
    assert (found - expected).abs().max() <= 1e-5 * expected.abs().max()


def test_corrections_of_low_rank_are_refused_and_merged_on_request(capsys, tmp_path):
    pipe, file = sd3(), tmp_path / "corrected.safetensors"
    layer = pipe.transformer.transformer_blocks[0].ff.net[2]
    wanted = layer.weight + (up := torch.randn(32, 2)) @ (down := torch.randn(2, 128))
    correct_by_(layer, up, down)
    pipe.register_modules(transformer=mark_corrected_(pipe.transformer))
    pipe.save_pretrained(tmp_path / "corrected")
    words = (file, "--component", "transformer")
    assert "corrections of low rank beside" in refused(capsys, tmp_path / "corrected", *words)
    assert export(tmp_path / "corrected", *words, "--pad") == 0
    assert "ComfyUI builds 0 for this width" in (said := capsys.readouterr().err)
    assert "computes as many heads as blocks" in said
    torch.testing.assert_close(load_file(file)["joint_blocks.0.x_block.mlp.fc2.weight"], wanted)


def test_zeros_stay_zeros_in_the_stored_format(tmp_path):
    pipe = sd().to(torch.float16)
    config = PruningConfig(method="magnitude", packages=1, pattern="2:4", **QUICK)
    folder = save_pruned(pipe.to(torch.float32), tmp_path / "p", prune_(pipe, PROMPTS[:1], config))
    assert export(folder, tmp_path / "p.safetensors", "--component", "unet") == 0
    unet = load_file(folder / "unet" / "diffusion_pytorch_model.safetensors")
    found = load_file(tmp_path / "p.safetensors")
    assert sum((w == 0).sum() for w in found.values()) == sum((w == 0).sum() for w in unet.values())
    assert {w.dtype for w in found.values()} == {w.dtype for w in unet.values()}


def test_a_vae_of_older_names_is_written_under_the_same(tmp_path):
    pipe = sd()
    settings = dict(pipe.vae.config) | {"mid_block_add_attention": True}
    pipe.vae = randomise(diffusers.AutoencoderKL.from_config(settings))
    pipe.save_pretrained(tmp_path / "sd")
    assert export(tmp_path / "sd", tmp_path / "a.safetensors") == 0
    file = tmp_path / "sd/vae/diffusion_pytorch_model.safetensors"
    older = {"to_q.": "query.", "to_k.": "key.", "to_v.": "value.", "to_out.0.": "proj_attn."}
    weights = load_file(file)
    for new, old in older.items():
        weights = {name.replace(new, old): weight for name, weight in weights.items()}
    save_file(weights, file, {"format": "pt"})
    assert export(tmp_path / "sd", tmp_path / "b.safetensors") == 0
    a, b = (load_file(tmp_path / f"{name}.safetensors") for name in "ab")
    assert a.keys() == b.keys()
    assert a["first_stage_model.encoder.mid.attn_1.q.weight"].shape == (16, 16, 1, 1)
    assert all(torch.equal(a[name], b[name]) for name in a)


def changed(folder, component, **settings) -> None:
    file = folder / component / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | settings))


def test_what_has_no_single_file_is_refused(capsys, tmp_path, sd3_folder):
    out = tmp_path / "out.safetensors"
    line = refused(capsys, sd3_folder, out)
    assert "text_encoder and text_encoder_2 have the same width, 16" in line
    assert refused(capsys, sd3_folder, tmp_path / "out").endswith("'out'")
    line = refused(capsys, sd3_folder, out, "--component", "vae")
    assert "expected the denoiser of" in line
    assert "(transformer), found 'vae'" in line
    sd().save_pretrained(tmp_path / "sd")
    changed(tmp_path / "sd", "text_encoder", hidden_act="gelu")
    assert "that of SD 2" in refused(capsys, tmp_path / "sd", out)
    index = tmp_path / "sd" / "model_index.json"
    index.write_text(
        json.dumps(json.loads(index.read_text()) | {"unet": ["diffusers", "UNet2DModel"]})
    )
    line = refused(capsys, tmp_path / "sd", out, "--component", "unet")
    assert "unet is a UNet2DModel: expected UNet2DConditionModel" in line
    assert not out.exists()
    assert main(["export", sd3_folder, "--to", "padded", "--output", str(out), "--pad"]) == 2
    assert "pad: expected with --to single-file" in capsys.readouterr().err


def test_a_projection_that_the_format_lacks_is_refused(capsys, tmp_path):
    pipe = whole_sd3()
    with torch.no_grad():
        pipe.text_encoder.text_projection.weight[0, 1] = 1
    pipe.save_pretrained(tmp_path / "sd3")
    line = refused(capsys, tmp_path / "sd3", tmp_path / "out.safetensors")
    assert "expected a text_projection that is the identity" in line
