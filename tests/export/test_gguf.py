"""One GGUF file: read back by gguf's own reader and by diffusers."""

import json
from types import SimpleNamespace

import diffusers
import numpy as np
import pytest
import torch
from diffusers import GGUFQuantizationConfig, SD3Transformer2DModel, UNet2DConditionModel
from safetensors import safe_open
from safetensors.torch import save_file

from obsdiff import PruningConfig, prune_, save_pruned
from obsdiff.cli.main import main
from obsdiff.export.gguf_file import stored
from obsdiff.runtime import extras

from ..conftest import PROMPTS, sd3, sdxl
from ..support.cut_heads import cut_
from ..support.original_layout import sd3_transformer

gguf = pytest.importorskip("gguf")
diffusers.utils.logging.set_verbosity_error()
PREFIX = "model.diffusion_model."
CALL = {
    "num_prompts": 2, "num_inference_steps": 2, "height": 16, "width": 16, "batch_size": 2,
}  # fmt: skip


def export(folder, *words) -> int:
    return main(["export", str(folder), "--to", "gguf", "--output", *map(str, words)])


def text(reader, name: str) -> str:
    field = reader.get_field(name)
    return str(field.parts[field.data[-1]], encoding="utf-8")


def weights(reader) -> dict[str, np.ndarray]:
    return {t.name: gguf.quants.dequantize(t.data, t.tensor_type) for t in reader.tensors}


def sd3_call():
    """Arguments of the tiny SD3's transformer, always the same."""
    torch.manual_seed(0)
    return {
        "hidden_states": torch.randn(1, 4, 8, 8),
        "encoder_hidden_states": torch.randn(1, 5, 32),
        "pooled_projections": torch.randn(1, 32),
        "timestep": torch.tensor([5.0]),
    }


def sparse(model: torch.nn.Module) -> torch.nn.Module:
    """A model with zeros in half of every matrix, and whole blocks of them."""
    with torch.no_grad():
        for weight in model.parameters():
            if weight.ndim == 2:
                weight.mul_(torch.rand_like(weight) < 0.5)
                weight[0, :32] = 0
    return model


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    pipe = sd3()
    sparse(pipe.transformer)
    pipe.save_pretrained(tmp_path_factory.mktemp("gguf") / "sd3")
    return tmp_path_factory.getbasetemp() / "gguf0" / "sd3", pipe.transformer


def test_f16_is_the_weights_rounded(folder, tmp_path):
    path, model = folder
    assert export(path, tmp_path / "a.gguf") == 0
    reader = gguf.GGUFReader(tmp_path / "a.gguf")
    assert text(reader, "general.architecture") == "sd3"
    own = json.loads(text(reader, "obsdiff"))
    assert own["configs"]["transformer/config.json"]["num_layers"] == 3
    found, expected = weights(reader), sd3_transformer(model)
    assert {PREFIX + name for name in found} == expected.keys()
    for name, value in found.items():
        close = torch.from_numpy(np.array(value))
        assert torch.equal(close.half().float(), expected[PREFIX + name].half().float()), name


def test_q8_0_keeps_zeros_and_is_read_by_diffusers(folder, tmp_path):
    path, model = folder
    assert export(path, tmp_path / "a.gguf", "--type", "q8_0") == 0
    reader = gguf.GGUFReader(tmp_path / "a.gguf")
    kinds = {t.name: t.tensor_type.name for t in reader.tensors}
    assert kinds["joint_blocks.0.x_block.attn.qkv.weight"] == "Q8_0"
    assert kinds["joint_blocks.0.x_block.attn.qkv.bias"] == "F32"
    assert kinds["x_embedder.proj.weight"] == "F16"
    assert kinds["pos_embed"] == "F32"
    found, expected = weights(reader), sd3_transformer(model)
    for name, value in found.items():
        dense = expected[PREFIX + name].numpy()
        assert not value[dense == 0].any(), name
        assert np.abs(value - dense).max() <= np.abs(dense).max() / 120, name
    back = SD3Transformer2DModel.from_single_file(
        str(tmp_path / "a.gguf"),
        config=str(path),
        subfolder="transformer",
        quantization_config=GGUFQuantizationConfig(compute_dtype=torch.float32),
        dtype=torch.float32,
    )
    with torch.no_grad():
        out, dense = (m(**sd3_call(), return_dict=False)[0] for m in (back, model.eval()))
    assert (out - dense).square().mean() <= 1e-3 * dense.square().mean()


@pytest.mark.slow
def test_bfloat16_stays_what_it_is(tmp_path):
    pipe = sdxl().to(torch.bfloat16)
    pipe.save_pretrained(tmp_path / "sdxl")
    assert export(tmp_path / "sdxl", tmp_path / "a.gguf") == 0
    reader = gguf.GGUFReader(tmp_path / "a.gguf")
    assert text(reader, "general.architecture") == "sdxl"
    assert {t.tensor_type.name for t in reader.tensors} == {"BF16", "F16", "F32"}
    back = UNet2DConditionModel.from_single_file(
        str(tmp_path / "a.gguf"),
        config=str(tmp_path / "sdxl"),
        subfolder="unet",
        quantization_config=GGUFQuantizationConfig(compute_dtype=torch.float32),
        dtype=torch.float32,
    )
    call = {
        "sample": torch.randn(1, 4, 8, 8),
        "encoder_hidden_states": torch.randn(1, 5, 24),
        "timestep": torch.tensor([5.0]),
        "added_cond_kwargs": {"text_embeds": torch.randn(1, 16), "time_ids": torch.zeros(1, 6)},
    }
    with torch.no_grad():
        out, dense = (m(**call, return_dict=False)[0] for m in (back, pipe.unet.float()))
    assert (out - dense).abs().max() <= 1e-3 * dense.abs().max()


@pytest.mark.parametrize(
    ("bits", "changes"),
    [
        (4, {"pattern": "2:4"}),
        (4, {"pattern": "structured", "sparsity": 0.5, "target": "ffn-alone", "round_to": 64}),
        (8, {"sparsity": 0, "round_layers": "all"}),
    ],
)
def test_rounded_weights_keep_their_codes(bits, changes, tmp_path, capsys):
    """All bits of the values, in the file and as diffusers reads it; zeros too."""
    pytest.importorskip("torchao", reason="pip install 'obsdiff[torchao]'")
    pipe, config = sd3(), PruningConfig(**CALL | {"bits": bits, "group_size": 32} | changes)
    report = prune_(pipe, PROMPTS, config)
    save_pruned(pipe, tmp_path / "out", report)
    assert export(tmp_path / "out", tmp_path / "a.gguf") == 0
    assert f"Q{bits}_0; codes and scales are those of the folder" in capsys.readouterr().err
    reader = gguf.GGUFReader(tmp_path / "a.gguf")
    kinds = {t.name: t.tensor_type.name for t in reader.tensors}
    assert kinds["joint_blocks.0.x_block.attn.qkv.weight"] == (
        "F16" if "structured" in changes.values() else f"Q{bits}_0"
    )
    found, expected = weights(reader), sd3_transformer(pipe.transformer)
    rounded = [name for name, kind in kinds.items() if kind == f"Q{bits}_0"]
    assert len(rounded) >= 6
    for name in rounded:
        assert torch.equal(torch.from_numpy(found[name]), expected[PREFIX + name]), name
    own = json.loads(text(reader, "obsdiff"))["configs"]["transformer/config.json"]
    assert "quantization_config" not in own
    if "structured" not in changes.values():
        same_call(pipe.transformer, tmp_path, str(tmp_path / "out"))


def same_call(model, folder, config):
    """diffusers opens the file and computes what the model does."""
    plain = dict(model.config)
    plain.pop("quantization_config", None)
    place = folder / "plain"
    place.mkdir()
    (place / "config.json").write_text(json.dumps(plain | {"_class_name": "SD3Transformer2DModel"}))
    back = SD3Transformer2DModel.from_single_file(
        str(folder / "a.gguf"),
        config=str(place),
        quantization_config=GGUFQuantizationConfig(compute_dtype=torch.float32),
        dtype=torch.float32,
    )
    with torch.no_grad():
        out, own = (m.eval()(**sd3_call(), return_dict=False)[0] for m in (back, model))
    assert (out - own).square().mean() <= 1e-6 * own.square().mean()


@pytest.mark.parametrize(("scale", "kind"), [(6e4, "Q4_0"), (7e4, "F32")])
def test_scales_that_float16_does_not_hold_are_not_stored_in_it(scale, kind):
    steps = torch.full((2, 1024), scale)
    tensor = SimpleNamespace(name="a.weight", value=lambda: 7 * steps, steps=lambda: (steps, 4))
    found, data = stored(gguf, tensor, "F16")
    back = gguf.quants.dequantize(data, gguf.GGMLQuantizationType[found])
    assert found == kind
    assert np.allclose(back, 7 * scale, rtol=1e-3)


HEADS = {"pattern": "structured", "sparsity": 0.5, "round_to": 32}


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        (HEADS, "found that heads were removed"),
        pytest.param(
            {"pattern": "2:4", "low_rank": 2},
            "found corrections of low rank",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_rounded_weights_that_cannot_be_padded_have_another_way(changes, found, tmp_path, capsys):
    """The line names one that works: the same pruning without bits, padded, as Q8_0."""
    pytest.importorskip("torchao", reason="pip install 'obsdiff[torchao]'")
    words = (tmp_path / "a.gguf", "--pad", "--type", "q8_0")
    for folder, bits in (("rounded", {"bits": 8, "group_size": 32}), ("plain", {})):
        pipe = sd3()
        torch.manual_seed(0)
        report = prune_(pipe, PROMPTS, PruningConfig(**CALL | changes | bits))
        save_pruned(pipe, tmp_path / folder, report)
    assert export(tmp_path / "rounded", tmp_path / "a.gguf") == 2
    (line,) = [row for row in capsys.readouterr().err.splitlines() if "export:" in row]
    assert found in line
    assert "the same pruning without bits, and export that to gguf with --pad --type q8_0" in line
    assert export(tmp_path / "rounded", *words) == 2
    assert "use the same pruning without bits" in capsys.readouterr().err
    assert export(tmp_path / "plain", *words) == 0
    kinds = {t.name: t.tensor_type.name for t in gguf.GGUFReader(tmp_path / "a.gguf").tensors}
    assert kinds["joint_blocks.1.x_block.attn.qkv.weight"] == "Q8_0"


def test_a_changed_scale_is_found_before_anything_is_written(tmp_path, capsys):
    pytest.importorskip("torchao", reason="pip install 'obsdiff[torchao]'")
    pipe = sd3()
    report = prune_(pipe, PROMPTS, PruningConfig(**CALL | {"bits": 4, "group_size": 32}))
    save_pruned(pipe, tmp_path / "out", report)
    file = tmp_path / "out/transformer/diffusion_pytorch_model.safetensors"
    with safe_open(file, "pt") as opened:
        about, tensors = opened.metadata(), {k: opened.get_tensor(k) for k in opened.keys()}  # noqa: SIM118
    name = next(name for name in tensors if name.endswith("_weight_scale"))
    tensors[name][0, 0] = 0
    save_file(tensors, file, about)
    assert export(tmp_path / "out", tmp_path / "a.gguf") != 0
    assert "expected" in capsys.readouterr().err
    assert not (tmp_path / "a.gguf").exists()
    assert main(["export", str(tmp_path / "out"), "--to", "single-file", "--output",
                 str(tmp_path / "a.safetensors")]) == 2  # fmt: skip
    assert "expected weights that are not rounded" in capsys.readouterr().err


def test_widths_that_are_no_blocks_stay_half_precision(tmp_path, capsys):
    pipe = sd3()
    cut_(pipe.transformer, "neurons")  # 127 of 128
    pipe.register_modules(transformer=pipe.transformer)
    pipe.save_pretrained(tmp_path / "cut")
    assert export(tmp_path / "cut", tmp_path / "a.gguf", "--type", "q8_0") == 0
    assert "F16" in capsys.readouterr().err
    kinds = {t.name: t.tensor_type.name for t in gguf.GGUFReader(tmp_path / "a.gguf").tensors}
    assert kinds["joint_blocks.0.x_block.mlp.fc1.weight"] == "Q8_0"
    assert kinds["joint_blocks.0.x_block.mlp.fc2.weight"] == "F16"


def test_what_float16_does_not_hold_stays_float32(tmp_path):
    pipe = sd3()
    with torch.no_grad():
        pipe.transformer.transformer_blocks[0].ff.net[2].weight[0, 0] = 1e5
    pipe.save_pretrained(tmp_path / "sd3")
    assert export(tmp_path / "sd3", tmp_path / "a.gguf") == 0
    found = {t.name: t for t in gguf.GGUFReader(tmp_path / "a.gguf").tensors}
    large = found["joint_blocks.0.x_block.mlp.fc2.weight"]
    assert large.tensor_type.name == "F32"
    assert large.data.max() == 1e5


def test_wrong_words_are_refused(folder, tmp_path, capsys, monkeypatch):
    assert export(folder[0], tmp_path / "a.gguf", "--type", "q4_0") == 2
    assert "type: expected one of f16, bf16, q8_0; found 'q4_0'" in capsys.readouterr().err
    assert export(folder[0], tmp_path / "a.safetensors") == 2
    assert "expected a name that ends in .gguf" in capsys.readouterr().err
    monkeypatch.setitem(extras.EXTRAS, "gguf", ("no_such_package",))
    assert export(folder[0], tmp_path / "a.gguf") == 2
    assert "pip install 'obsdiff[gguf]'" in capsys.readouterr().err
    assert not any(tmp_path.iterdir())
