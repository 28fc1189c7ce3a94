"""Pipeline folders, checked without torch: damage, quantised weights, variants, prompts."""

import json
import shutil
import struct
from pathlib import Path

import pytest

from obsdiff.errors import UserError
from obsdiff.pipelines.folder import open_folder
from obsdiff.pipelines.headers import read_header
from obsdiff.pipelines.partial_output import check_output

WEIGHTS = "transformer/diffusion_pytorch_model.safetensors"


@pytest.fixture
def model(sd3_folder, tmp_path) -> Path:
    """A copy of the tiny pipeline that a test may break."""
    return Path(shutil.copytree(sd3_folder, tmp_path / "model"))


def test_a_good_folder_is_read_without_torch(sd3_folder):
    folder = open_folder(Path(sd3_folder))
    assert folder.pipeline == "StableDiffusion3Pipeline"
    assert folder.denoiser(None) == "transformer"
    assert folder.components["transformer"].dtype == "float16"
    assert folder.components["transformer"].layers()["transformer_blocks.0.attn.to_q"] == (32, 32)
    assert {"text_encoder_3", "tokenizer_3"} <= set(folder.left_out)


def broken_index(model):
    (model / "model_index.json").write_text("{")
    return "can't be read as JSON"


def no_index(model):
    (model / "model_index.json").unlink()
    return "no model_index.json"


def no_class(model):
    (model / "model_index.json").write_text("{}")
    return "_class_name"


def missing_component(model):
    shutil.rmtree(model / "vae")
    return "'vae'"


def empty_component(model):
    for file in (model / "tokenizer").iterdir():
        file.unlink()
    return "is empty"


def climbing_component(model):
    index = json.loads((model / "model_index.json").read_text())
    (model / "model_index.json").write_text(
        json.dumps(index | {"../evil": ["diffusers", "AutoencoderKL"]})
    )
    return "'../evil'"


def truncated(model):
    data = (model / WEIGHTS).read_bytes()
    (model / WEIGHTS).write_bytes(data[: len(data) // 2])
    return "cut off or damaged"


def empty(model):
    (model / WEIGHTS).write_bytes(b"")
    return "no whole safetensors file"


def huge_header(model):
    (model / WEIGHTS).write_bytes(struct.pack("<Q", 2**60) + b"{}")
    return "no whole safetensors file"


def nonsense_header(model):
    (model / WEIGHTS).write_bytes(struct.pack("<Q", 8) + b'{"a": 3}')
    return "header can't be read"


def lying_header(model):
    header = json.dumps({"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 4]}}).encode()
    (model / WEIGHTS).write_bytes(struct.pack("<Q", len(header)) + header + b"1234")
    return "header can't be read"


def pickled(model):
    (model / WEIGHTS).rename(model / "transformer/diffusion_pytorch_model.bin")
    return "only pickled weights (diffusion_pytorch_model.bin)"


def gguf_only(model):
    (model / WEIGHTS).rename(model / "transformer/diffusion_pytorch_model.gguf")
    return "only GGUF weights"


def lora_only(model):
    (model / "model_index.json").rename(model / "pytorch_lora_weights.safetensors")
    return "call pipe.fuse_lora(); pipe.unload_lora_weights()"


def weightless(model):
    (model / WEIGHTS).unlink()
    return "has no weights"


@pytest.mark.parametrize(
    "damage",
    [
        broken_index,
        no_index,
        no_class,
        missing_component,
        climbing_component,
        empty_component,
        truncated,
        empty,
        huge_header,
        nonsense_header,
        lying_header,
        pickled,
        gguf_only,
        lora_only,
        weightless,
    ],
)
def test_damage_is_named_in_one_line(model, damage):
    words = damage(model)
    with pytest.raises(UserError) as error:
        open_folder(model)
    assert words in str(error.value)
    assert "\n" not in str(error.value)


def test_a_pipeline_without_a_denoiser(model):
    index = json.loads((model / "model_index.json").read_text())
    index.pop("transformer")
    (model / "model_index.json").write_text(json.dumps(index))
    with pytest.raises(UserError, match="has no denoiser"):
        open_folder(model).denoiser(None)
    with pytest.raises(UserError, match="'prior'"):
        open_folder(model).denoiser("prior")


def declared(model):
    file = model / "transformer" / "config.json"
    file.write_text(
        json.dumps(
            json.loads(file.read_text()) | {"quantization_config": {"quant_method": "bitsandbytes"}}
        )
    )
    return "transformer: expected unquantised weights, found quantization_config of 'bitsandbytes'"


def declared_by_another_component(model):
    file = model / "text_encoder" / "config.json"
    file.write_text(
        json.dumps(
            json.loads(file.read_text()) | {"quantization_config": {"quant_method": "torchao"}}
        )
    )
    return "text_encoder: expected unquantised weights, found quantization_config of 'torchao'"


def stored_as(format):
    def store(model):
        header = {"a.to_q.weight": {"dtype": format, "shape": [4, 2], "data_offsets": [0, 8]}}
        raw = json.dumps(header).encode()
        (model / WEIGHTS).write_bytes(struct.pack("<Q", len(raw)) + raw + bytes(8))
        return f"found {format} in a.to_q.weight"

    return store


QUANTISED = [
    declared,
    declared_by_another_component,
    *map(stored_as, ("I8", "U8", "F8_E4M3", "F8_E5M2")),
]


@pytest.mark.parametrize("quantise", QUANTISED)
def test_quantised_folders_are_refused(model, quantise):
    words = quantise(model)
    with pytest.raises(UserError) as error:
        open_folder(model).denoiser(None)
    assert words in str(error.value)
    assert "then quantise the result" in str(error.value)
    assert "\n" not in str(error.value)


def test_integers_that_are_no_linear_layers_are_no_quantisation(model):
    header = {
        "position_ids": {"dtype": "I64", "shape": [1, 2], "data_offsets": [0, 16]},
        "a.weight": {"dtype": "F32", "shape": [1, 1], "data_offsets": [16, 20]},
    }
    raw = json.dumps(header).encode()
    (model / WEIGHTS).write_bytes(struct.pack("<Q", len(raw)) + raw + bytes(20))
    assert open_folder(model).denoiser(None) == "transformer"


VARIANTS = {"transformer": "fp16", "vae": "fp16", "text_encoder": None, "text_encoder_2": None}


def test_variants_are_found(model):
    for component in ("transformer", "vae"):
        (model / component / "diffusion_pytorch_model.safetensors").rename(
            model / component / "diffusion_pytorch_model.fp16.safetensors"
        )
    assert {
        name: tensors.variant for name, tensors in open_folder(model).components.items()
    } == VARIANTS


def test_a_variant_is_used_where_it_is(model):
    plain = model / "vae" / "diffusion_pytorch_model.safetensors"
    shutil.copy(plain, plain.with_suffix(".fp16.safetensors"))
    found = {n: t.variant for n, t in open_folder(model, variant="fp16").components.items()}
    assert {name for name, variant in found.items() if variant == "fp16"} == {"vae"}
    assert open_folder(model).components["vae"].variant is None
    with pytest.raises(UserError, match="which has fp16 beside plain files; found 'bf16'"):
        open_folder(model, variant="bf16")
    plain.with_suffix(".fp16.safetensors").unlink()
    with pytest.raises(UserError, match="plain files only; found 'fp16'"):
        open_folder(model, variant="fp16")


def test_outputs(tmp_path):
    check_output(tmp_path / "new" / "deep", overwrite=False)
    assert not (tmp_path / "new").exists()
    with pytest.raises(UserError, match="--overwrite"):
        check_output(tmp_path, overwrite=False)
    check_output(tmp_path, overwrite=True)
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="can't be written"):
        check_output(tmp_path / "file" / "out", overwrite=False)
    with pytest.raises(UserError, match="can't be written"):
        check_output(Path("/proc/out"), overwrite=False)


def test_the_header_reader_agrees_with_safetensors(sd3_folder):
    from safetensors import safe_open

    file = Path(sd3_folder) / WEIGHTS
    with safe_open(file, "pt") as opened:
        names = opened.keys()
        shapes = {name: opened.get_slice(name).get_shape() for name in names}
    assert {name: info["shape"] for name, info in read_header(file).items()} == shapes
