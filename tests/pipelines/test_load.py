"""Missing weights, which diffusers fills with random numbers, are an error that names them."""

import json
import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from obsdiff import UserError
from obsdiff.pipelines.folder import open_folder
from obsdiff.pipelines.load import load_pipeline
from tests.cli.test_main import refused

from ..conftest import sd, sd3

FILES = {
    "transformer": "diffusion_pytorch_model",
    "vae": "diffusion_pytorch_model",
    "text_encoder_2": "model",
}


@pytest.mark.parametrize("component", FILES)
def test_keys_that_weights_lack_are_named(sd3_folder, capsys, prompts_file, tmp_path, component):
    folder = Path(shutil.copytree(sd3_folder, tmp_path / "model"))
    file = folder / component / f"{FILES[component]}.safetensors"
    weights = load_file(file)
    gone = sorted(name for name in weights if name.endswith("bias"))[:5]
    save_file(
        {name: w for name, w in weights.items() if name not in gone},
        file,
        metadata={"format": "pt"},
    )
    argv = ["prune", str(folder), "--output", str(tmp_path / "out"), "--prompts", prompts_file]
    refused(
        capsys,
        argv,
        f"{folder / component}: its weights lack {gone[0]}, {gone[1]}, {gone[2]} and 2 more",
    )
    assert not (tmp_path / "out").exists()


def test_old_names_of_attention_weights_are_no_missing_keys(tmp_path):
    """The VAEs of Stable Diffusion's first releases call to_q query; diffusers renames them."""
    pipe = sd()
    pipe.register_modules(
        vae=type(pipe.vae)(**{**pipe.vae.config, "mid_block_add_attention": True})
    )
    pipe.save_pretrained(tmp_path / "model")
    file = tmp_path / "model" / "vae" / "diffusion_pytorch_model.safetensors"
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    weights = load_file(file)
    for ours, theirs in old.items():
        weights = {name.replace(f".{ours}.", f".{theirs}."): w for name, w in weights.items()}
    assert any("query" in name for name in weights)
    save_file(weights, file, metadata={"format": "pt"})
    found = load_pipeline(open_folder(tmp_path / "model"), device="cpu")[0].vae.state_dict()
    assert all((found[name] == w).all() for name, w in pipe.vae.state_dict().items())


def test_shapes_that_do_not_fit_the_config_are_one_line(sd3_folder, tmp_path):
    folder = Path(shutil.copytree(sd3_folder, tmp_path / "model"))
    file = folder / "transformer" / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"num_attention_heads": 2}))
    with pytest.raises(UserError, match="diffusers can't load this StableDiffusion3Pipeline"):
        load_pipeline(open_folder(folder), device="cpu")


@pytest.mark.parametrize(
    ("key", "value", "line"),
    [
        ("patch_size", 1930, "diffusers can't load this StableDiffusion3Pipeline"),
        ("num_attention_heads", 0, "num_attention_heads is 0: expected a number from 1"),
        ("pos_embed_max_size", -1, "pos_embed_max_size is -1: expected a number from 1"),
    ],
)
def test_a_config_that_diffusers_fails_on_is_one_line(tmp_path, key, value, line):
    folder = tmp_path / "model"
    sd3().save_pretrained(folder)
    file = folder / "transformer" / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {key: value}))
    with pytest.raises(UserError, match=line):
        load_pipeline(open_folder(folder))
