"""Numbers of configs are compared with the tensors before anything is built."""

import json
import shutil
from pathlib import Path

import pytest

from obsdiff.errors import UserError
from obsdiff.models.meta_device import build_on_meta, require_fitting
from obsdiff.pipelines.config_sizes import check_config_sizes
from obsdiff.pipelines.folder import open_folder
from obsdiff.pipelines.headers import Tensors

from ..tiny_models import TINY

HUGE = 10**6
OFTEN = {"FluxTransformer2DModel", "SD3Transformer2DModel", "UNet2DConditionModel", "UNet2DModel"}
WRONG = [
    ("transformer", "num_layers", HUGE),
    ("transformer", "num_layers", 1e6),
    ("transformer", "num_layers", 40),
    ("transformer", "num_layers", -1),
    ("transformer", "num_attention_heads", 10**7),
    ("transformer", "num_attention_heads", 0),
    ("transformer", "attention_head_dim", 10**7),
    ("transformer", "patch_size", 0),
    ("transformer", "patch_size", -2),
    ("transformer", "sample_size", -8),
    ("transformer", "sample_size", 10**9),
    ("transformer", "sample_size", 50_000),
    ("transformer", "in_channels", 0),
    ("transformer", "joint_attention_dim", 10**9),
    ("transformer", "pos_embed_max_size", 60_000),
    ("transformer", "pos_embed_max_size", 9),
    ("transformer", "dual_attention_layers", [HUGE]),
    ("vae", "layers_per_block", HUGE),
    ("vae", "block_out_channels", [8] * 5000),
    ("vae", "down_block_types", ["DownEncoderBlock2D"] * 5000),
    ("vae", "block_out_channels", [10**9, 10**9]),
    ("vae", "latent_channels", 0),
    ("vae", "sample_size", 10**9),
    ("text_encoder", "num_hidden_layers", HUGE),
    ("text_encoder", "hidden_size", 10**9),
    ("text_encoder", "vocab_size", 10**12),
    ("text_encoder", "max_position_embeddings", 10**12),
    ("text_encoder", "text_config", {"num_hidden_layers": HUGE}),
    ("text_encoder", "a", [{"b": {"num_layers": [[HUGE]]}}]),
]


@pytest.fixture
def model(sd3_folder, tmp_path) -> Path:
    return Path(shutil.copytree(sd3_folder, tmp_path / "model"))


def change(model: Path, component: str, key: str, value: object) -> Path:
    file = model / component / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {key: value}))
    return file


@pytest.mark.parametrize(("component", "key", "value"), WRONG)
def test_a_number_that_contradicts_the_weights_is_one_line(component, key, value, model):
    file = change(model, component, key, value)
    with pytest.raises(UserError) as error:
        open_folder(model)
    assert str(file) in str(error.value)
    assert key in str(error.value)


@pytest.mark.parametrize(
    ("component", "key", "value"),
    [case for case in WRONG if case[2] not in (40, 9, 50_000)],
)
def test_configs_without_weights_are_bounded_too(component, key, value, model):
    for file in model.rglob("*.safetensors"):
        file.unlink()
    change(model, component, key, value)
    with pytest.raises(UserError, match=key):
        open_folder(model, weights=False)


def test_numbers_that_build_nothing_are_left_alone(model):
    for key, value in {"bos_token_id": 10**7, "rope_theta": 10**9, "max_pixels": 10**8}.items():
        change(model, "text_encoder", key, value)
    open_folder(model)


@pytest.mark.parametrize(
    "name",
    [
        name if name in OFTEN else pytest.param(name, marks=pytest.mark.slow)
        for name in TINY
        if name != "Transformer2DModel"
    ],
)
def test_configs_of_good_models_fit(name, tmp_path):
    """With the defaults of the class, and with weights or without."""
    built = build_on_meta(TINY[name][0] | {"_class_name": name})
    file = tmp_path / "config.json"
    file.write_text(built.to_json_string())
    shapes = {key: tuple(value.shape) for key, value in built.state_dict().items()}
    check_config_sizes(file, Tensors(shapes))
    check_config_sizes(file, Tensors({}))
    require_fitting(json.loads(file.read_text()), shapes, "here")


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("num_layers", 2, "its weights have transformer_blocks.1"),
        ("num_layers", 4, "its weights lack transformer_blocks.2"),
        ("num_attention_heads", 8, "describes pos_embed"),
        ("joint_attention_dim", 48, "describes context_embedder.weight as"),
        ("patch_size", 4, "describes pos_embed.proj.weight as"),
    ],
)
def test_a_denoisers_config_describes_the_weights_exactly(key, value, words, sd3_folder):
    folder = open_folder(Path(sd3_folder))
    config = folder.config("transformer") | {key: value}
    with pytest.raises(UserError) as error:
        require_fitting(config, folder.components["transformer"].shapes, "here")
    assert words in str(error.value)
