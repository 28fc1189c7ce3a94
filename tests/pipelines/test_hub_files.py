"""Which files of a hub's repository a plan and a run ask for."""

import pytest

from obsdiff.errors import UserError
from obsdiff.pipelines.hub_files import components_in, small_files, weight_files

NAMES = {
    "model_index.json",
    "README.md",
    "picture.png",
    "whole.safetensors",
    "whole.ckpt",
    "scheduler/scheduler_config.json",
    "tokenizer/vocab.json",
    "tokenizer/merges.txt",
    "unet/config.json",
    "unet/diffusion_pytorch_model.safetensors",
    "unet/diffusion_pytorch_model.fp16.safetensors",
    "unet/diffusion_pytorch_model.non_ema.safetensors",
    "unet/diffusion_pytorch_model.bin",
    "unet/diffusion_flax_model.msgpack",
    "unet/model.onnx",
    "unet/old/diffusion_pytorch_model.safetensors",
    "text_encoder/config.json",
    "text_encoder/model-00001-of-00002.safetensors",
    "text_encoder/model-00002-of-00002.safetensors",
    "text_encoder/model.safetensors.index.json",
    "text_encoder/model.fp16.safetensors",
    "vae/config.json",
    "vae/diffusion_pytorch_model.safetensors",
    "vae_1_0/config.json",
    "vae_1_0/diffusion_pytorch_model.safetensors",
}
COMPONENTS = ["scheduler", "tokenizer", "unet", "text_encoder", "vae"]


def test_components_are_named_with_a_class():
    index = {
        "_class_name": "P",
        "unet": ["diffusers", "U"],
        "image_encoder": [None, None],
        "force_zeros": True,
        "../x": ["a", "b"],
    }
    assert components_in(index) == ["unet"]


def test_a_plan_asks_for_json_alone():
    assert small_files(NAMES, COMPONENTS, (".json",)) == [
        "model_index.json",
        "scheduler/scheduler_config.json",
        "tokenizer/vocab.json",
        "unet/config.json",
        "text_encoder/config.json",
        "text_encoder/model.safetensors.index.json",
        "vae/config.json",
    ]
    assert "tokenizer/merges.txt" in small_files(NAMES, COMPONENTS)


@pytest.mark.parametrize(
    ("variant", "files"),
    [
        (
            None,
            [
                "unet/diffusion_pytorch_model.safetensors",
                "text_encoder/model-00001-of-00002.safetensors",
                "text_encoder/model-00002-of-00002.safetensors",
                "vae/diffusion_pytorch_model.safetensors",
            ],
        ),
        (
            "fp16",
            [
                "unet/diffusion_pytorch_model.fp16.safetensors",
                "text_encoder/model.fp16.safetensors",
                "vae/diffusion_pytorch_model.safetensors",
            ],
        ),
    ],
)
def test_one_variant_of_every_component(variant, files):
    assert weight_files(NAMES, COMPONENTS, variant) == files


def test_a_variant_if_there_is_nothing_plain():
    names = {"unet/config.json", "unet/diffusion_pytorch_model.fp16.safetensors"}
    assert weight_files(names, ["unet"], None) == ["unet/diffusion_pytorch_model.fp16.safetensors"]


@pytest.mark.parametrize(
    ("names", "variant", "words"),
    [
        ({"unet/pytorch_model.bin"}, None, "only pickled weights"),
        ({"unet/model.onnx"}, None, "no weights"),
        ({"unet/diffusion_pytorch_model.safetensors"}, "fp8", "plain files only; found 'fp8'"),
        ({"unet/diffusion_pytorch_model.fp16.safetensors"}, "bf16", "fp16"),
        ({"unet/model-00001-of-00003.safetensors"}, None, "expected 3 shards, found 1"),
    ],
)
def test_refusals(names, variant, words):
    with pytest.raises(UserError, match=words):
        weight_files({"unet/config.json", *names}, ["unet"], variant)
