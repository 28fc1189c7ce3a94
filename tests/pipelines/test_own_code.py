"""No config of a checkpoint names code outside the installation."""

import json
import shutil
from pathlib import Path

import pytest

from obsdiff.errors import UserError
from obsdiff.evaluation.judges.files import find_clip
from obsdiff.pipelines.folder import open_folder
from obsdiff.pipelines.own_code import require_known_class, require_own_code

FOREIGN = {
    "attn_implementation": "kernels-community/flash-attn",
    "_attn_implementation": "evil/kernel",
    "_attn_implementation_internal": "evil/kernel@main:f",
    "experts_implementation": "evil/experts",
    "auto_map": {"AutoModel": "modeling_evil.Evil"},
    "use_kernels": True,
    "kernel_config": {"RMSNorm": "evil/kernel"},
    "trust_remote_code": True,
    "custom_pipeline": "evil",
    "custom_generate": "evil/generate",
    "custom_pipelines": {"x": {"impl": "evil.py"}},
    "transformers_weights": "other.safetensors",
    "_class_name": "evil.Module",
    "tokenizer_class": "../evil",
    "image_processor_type": ["evil", "Processor"],
}
HARMLESS = [
    {"attn_implementation": None, "_attn_implementation": "sdpa"},
    {"_attn_implementation": {"": "eager", "text_config": "sdpa"}},
    {"_attn_implementation_autoset": True, "use_kernels": False, "auto_map": None, "custom_x": []},
    {
        "experts_implementation": "grouped_mm",
        "_class_name": "UNet2DModel",
        "disable_custom_kernels": True,
    },
    {"tokenizer_class": "CLIPTokenizer", "processor_class": None, "_name_or_path": "a/b"},
]
CONFIGS = (
    "model_index.json",
    "transformer/config.json",
    "text_encoder/config.json",
    "vae/config.json",
    "scheduler/scheduler_config.json",
    "tokenizer/tokenizer_config.json",
    "text_encoder/generation_config.json",
    "tokenizer/processor_config.json",
)


@pytest.fixture
def model(sd3_folder, tmp_path) -> Path:
    return Path(shutil.copytree(sd3_folder, tmp_path / "model"))


@pytest.mark.parametrize("key", FOREIGN)
def test_a_setting_that_names_code_is_refused_at_any_depth(key):
    value = FOREIGN[key]
    for config in (
        {key: value},
        {"text_config": {key: value}},
        {"a": [{"b": [[{"c": {key: value}}]]}]},
    ):
        with pytest.raises(UserError, match="not part of the installation") as error:
            require_own_code(config, "x/config.json")
        assert key in str(error.value)
        assert "x/config.json" in str(error.value)


@pytest.mark.parametrize("part", ["attn_implementation", "experts_implementation"])
def test_an_implementation_of_one_sub_config_is_refused(part):
    with pytest.raises(UserError, match=part):
        require_own_code({part: {"": "eager", "vision_config": "evil/kernel"}}, "config.json")
    for value in ("flash_attention_2", 5, ["eager"], "evil/kernel"):
        with pytest.raises(UserError, match=part):
            require_own_code({part: value}, "config.json")


@pytest.mark.parametrize("config", HARMLESS)
def test_harmless_settings_are_fine(config):
    require_own_code(config, "config.json")
    require_own_code({"deep": [config]}, "config.json")


def test_depth_is_no_recursion():
    config: dict = {"auto_map": {"a": "b"}}
    for _ in range(5000):
        config = {"inner": config}
    with pytest.raises(UserError, match="auto_map"):
        require_own_code(config, "config.json")


@pytest.mark.parametrize("name", CONFIGS)
def test_every_config_of_a_pipeline_is_checked(name, model):
    file = model / name
    config = json.loads(file.read_text()) if file.exists() else {}
    file.write_text(json.dumps(config | {"auto_map": {"AutoModel": "evil--m.Evil"}}))
    with pytest.raises(UserError, match="auto_map names code"):
        open_folder(model)


def test_an_adapter_beside_the_weights_is_refused(model):
    (model / "text_encoder" / "adapter_config.json").write_text("{}")
    with pytest.raises(UserError, match="an adapter such as a LoRA"):
        open_folder(model)


def test_the_model_of_a_metric_is_checked(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "clip", "use_kernels": true}')
    with pytest.raises(UserError, match="use_kernels"):
        find_clip("clip", str(tmp_path))


@pytest.mark.parametrize(
    "value",
    [
        ["evil", "Model"],
        ["os", "system"],
        ["diffusers.models", "UNet2DModel"],
        ["transformers_modules.evil", "Model"],
        ["../evil", "Model"],
        ["diffusers", "evil.Model"],
        ["diffusers", "../Model"],
        ["diffusers", "DiffusionPipeline"],
        ["diffusers"],
        ["diffusers", None],
        ["diffusers", "A", "B"],
        [5, "A"],
        [{}, []],
    ],
)
def test_classes_are_those_of_the_installation(value, model):
    with pytest.raises(UserError, match="vae"):
        require_known_class(Path("model_index.json"), "vae", value)
    index = json.loads((model / "model_index.json").read_text())
    (model / "model_index.json").write_text(json.dumps(index | {"vae": value}))
    with pytest.raises(UserError, match="vae"):
        open_folder(model)


def test_modules_of_pipelines_are_part_of_diffusers():
    for library in ("diffusers", "transformers", "obsdiff", "stable_diffusion", "deepfloyd_if"):
        require_known_class(Path("x"), "vae", [library, "Model"])


@pytest.mark.parametrize(
    "value", ["evil.Pipeline", "a/b", ["evil", "Pipe"], {"a": 1}, 5, None, "", "../x"]
)
def test_the_class_of_the_pipeline_is_a_name(value, model):
    index = json.loads((model / "model_index.json").read_text())
    (model / "model_index.json").write_text(json.dumps(index | {"_class_name": value}))
    with pytest.raises(UserError, match="_class_name"):
        open_folder(model)
