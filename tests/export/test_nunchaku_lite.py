"""`export --to nunchaku-lite`: diffusers' own loader and modules compute what the folder computes.

The kernels are CUDA's: here a decoder of their layouts, by addresses, takes their place.
"""

import functools
import json
import sys
from types import SimpleNamespace

import diffusers
import pytest
import torch
from diffusers import SD3Transformer2DModel, StableDiffusion3Pipeline
from safetensors.torch import load_file

from obsdiff import PruningConfig, prune_, save_pruned
from obsdiff.cli.main import main

from ..conftest import PROMPTS, randomise, sd3
from .test_nunchaku_layouts import awq_address, svdq_address

pytest.importorskip("torchao", reason="pip install 'obsdiff[torchao]'")
SETTINGS = {
    "num_prompts": 2, "num_inference_steps": 2, "height": 16, "width": 16, "batch_size": 2,
    "bits": 4, "group_size": 64, "pattern": "2:4",
}  # fmt: skip
FILE = "transformer/diffusion_pytorch_model.safetensors"


def wide() -> StableDiffusion3Pipeline:
    """The tiny SD3 with a transformer of 4 heads of 32."""
    pipe = sd3()
    torch.manual_seed(0)
    transformer = SD3Transformer2DModel(
        sample_size=8, patch_size=2, in_channels=4, out_channels=4, num_layers=3,
        attention_head_dim=32, num_attention_heads=4, joint_attention_dim=32,
        caption_projection_dim=128, pooled_projection_dim=32, pos_embed_max_size=8,
        qk_norm="rms_norm",
    )  # fmt: skip
    pipe.transformer = randomise(transformer)
    return pipe


def made(folder, **changes):
    """A pruned and rounded folder in bfloat16, and its export."""
    pipe = wide().to(torch.bfloat16)
    report = prune_(pipe, PROMPTS, PruningConfig(**SETTINGS | changes))
    save_pruned(pipe, folder / "out", report)
    assert main(["export", str(folder / "out"), "--to", "nunchaku-lite",
                 "--output", str(folder / "packed")]) == 0  # fmt: skip
    return folder / "out", folder / "packed"


@functools.cache
def awq_places(outputs, inputs):
    """Word and bit of every code of awq_w4a16."""
    places = [[awq_address(row, column) for column in range(inputs)] for row in range(outputs)]
    return torch.tensor(places).unbind(-1)


@functools.cache
def svdq_places(outputs, inputs):
    """Word and bit of every code of svdq_w4a4."""
    places = [
        [svdq_address(row, column, inputs) for column in range(inputs)] for row in range(outputs)
    ]
    return torch.tensor(places).unbind(-1)


def awq_values(qweight, scales, zeros):
    """W (O, I) of awq_w4a16's tensors."""
    outputs, inputs = 4 * qweight.shape[0], 2 * qweight.shape[1]
    words, found = qweight.view(torch.int16), torch.empty(outputs, inputs)
    four, word, bit = awq_places(outputs, inputs)
    found = (words[four, word].int() >> bit & 15).float()
    groups = torch.arange(inputs) // 64
    return found * scales.float()[groups].T + zeros.float()[groups].T


def svdq_values(qweight, scales):
    """W (O, I) of svdq_w4a4's tensors, without the correction."""
    outputs, inputs = qweight.shape[0], 2 * qweight.shape[1]
    word, bit = svdq_places(outputs, inputs)
    codes = qweight.flatten().view(torch.int32)[word].long() >> bit & 15
    rows = torch.arange(outputs)
    r = rows % 128
    at = r // 16 * 16 + r % 8 // 2 * 4 + r // 8 % 2 * 2 + r % 2
    by_tile = scales.float().view(outputs // 128, inputs // 64, 128)
    each = by_tile[rows // 128, :, at]
    return torch.where(codes < 8, codes, codes - 16) * each[:, torch.arange(inputs) // 64]


def factor(packed, by_columns):
    """A correction's factor (M, R) of svdq_w4a4's tensor."""
    rows, rank = packed.shape
    row, k = torch.arange(rows).unsqueeze(1), torch.arange(rank)
    r, c = (k % 16, row % 16) if by_columns else (row % 16, k % 16)
    lanes = r % 8 * 4 + c % 8 // 2
    at = (row // 16 * (rank // 16) + k // 16) * 256
    return packed.flatten()[at + lanes * 8 + r // 8 * 4 + c // 8 * 2 + c % 2].float()


class Decoded:
    """What the kernels compute, with activations that are not rounded."""

    def __init__(self) -> None:
        self.read: torch.Tensor
        self.known: dict[int, torch.Tensor] = {}

    def once(self, tensor, make):
        return self.known.setdefault(tensor.data_ptr(), make())

    def awq_gemm_w4a16_g64_int32(self, x, qweight, scales, zeros):
        weight = self.once(qweight, lambda: awq_values(qweight, scales, zeros))
        return (x.float() @ weight.T).to(x.dtype)

    def gemv_awq(self, x, qweight, scales, zeros, m, n, k, group):
        assert (m, n, k, group) == (*x.shape[:1], 4 * len(qweight), x.shape[1], 64)
        return self.awq_gemm_w4a16_g64_int32(x, qweight, scales, zeros)

    def quantize_w4a4_act_fuse_lora(self, x, out, scales, down, lora, smooth, *_):
        assert torch.equal(smooth, torch.ones_like(smooth))
        self.read = x.float()
        lora[: len(x)] = self.read @ self.once(down, lambda: factor(down, True))

    def gemm_w4a4(self, act, qweight, out, *others):
        scales, lora, up, bias = others[2], others[5], others[6], others[12]
        weight = self.once(qweight, lambda: svdq_values(qweight, scales))
        found = self.read @ weight.T
        found += lora[: len(found)] @ self.once(up, lambda: factor(up, False)).T
        if bias is not None:
            r = torch.arange(len(bias)) % 128
            at = torch.arange(len(bias)) // 128 * 128 + r // 16 * 16 + r % 8 // 2 * 4
            found += bias.float()[at + r // 8 % 2 * 2 + r % 2]
        out.copy_(found)


@pytest.fixture
def kernels(monkeypatch):
    """diffusers' quantizer where there is neither CUDA nor the hub."""
    from diffusers.quantizers.nunchaku.nunchaku_quantizer import NunchakuLiteQuantizer

    stub = SimpleNamespace(get_kernel=lambda *_, **__: SimpleNamespace(ops=Decoded()))
    monkeypatch.setitem(sys.modules, "kernels", stub)
    monkeypatch.setattr(diffusers.utils, "is_kernels_available", lambda: True)
    monkeypatch.setattr(diffusers.utils, "is_kernels_version", lambda *_: True)
    monkeypatch.setattr(diffusers.utils.constants, "DIFFUSERS_TRUST_REMOTE_KERNELS", True)
    monkeypatch.setattr(NunchakuLiteQuantizer, "validate_environment", lambda *_, **__: None)
    monkeypatch.delitem(sys.modules, "diffusers.quantizers.nunchaku.utils", raising=False)
    yield
    sys.modules.pop("diffusers.quantizers.nunchaku.utils", None)


def latents(folder):
    pipe = StableDiffusion3Pipeline.from_pretrained(
        folder, torch_dtype=torch.bfloat16, text_encoder_3=None, tokenizer_3=None
    )
    size = {"height": 16, "width": 16, "num_inference_steps": 2, "output_type": "latent"}
    generator = torch.Generator().manual_seed(0)
    return pipe, pipe(PROMPTS[0], generator=generator, **size).images.float()


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes", [{}, {"low_rank": 0.1}], ids=["weights alone", "with corrections"]
)
def test_diffusers_opens_it_and_draws_the_same(tmp_path, kernels, changes):
    source, packed = made(tmp_path, **changes)
    config = json.loads((packed / "transformer/config.json").read_text())
    kernel = "svdq_w4a4" if changes else "awq_w4a16"
    declared = config["quantization_config"]
    assert declared.keys() == {"quant_method", "compute_dtype", kernel}
    assert (declared["compute_dtype"], config["_class_name"]) == (
        "bfloat16", "SD3Transformer2DModel",
    )  # fmt: skip
    tensors = load_file(packed / FILE)
    for name in declared[kernel]["targets"]:
        weight = tensors[f"{name}.qweight"]
        outputs, inputs = SD3Transformer2DModel.from_config(
            {k: v for k, v in config.items() if k != "quantization_config"}
        ).get_submodule(name).weight.shape  # fmt: skip
        assert weight.numel() * weight.element_size() == outputs * inputs // 2
    pipe, found = latents(packed)
    replaced = type(pipe.transformer.get_submodule(declared[kernel]["targets"][0])).__name__
    assert replaced == ("SVDQW4A4Linear" if changes else "AWQW4A16Linear")
    _, wanted = latents(source)
    assert (found - wanted).norm() < 0.02 * wanted.norm()  # bfloat16


@pytest.mark.slow
def test_narrower_ffns_open_in_their_shapes(tmp_path, kernels):
    structured = {"pattern": "structured", "sparsity": 0.5, "target": "ffn-alone"}
    source, packed = made(tmp_path, round_to=128, **structured)
    config = json.loads((packed / "transformer/config.json").read_text())
    assert config["_class_name"] == "PrunedSD3Transformer2DModel"
    tensors = load_file(packed / FILE)
    shape = tuple(tensors["transformer_blocks.1.ff.net.2.qweight"].shape)
    assert shape == (128 // 4, 256 // 2)  # four rows a word, 256 of 512 neurons
    pipe, found = latents(packed)
    ffn = pipe.transformer.transformer_blocks[1].ff
    assert type(ffn.net[2]).__name__ == "AWQW4A16Linear"
    _, wanted = latents(source)
    assert (found - wanted).norm() < 0.02 * wanted.norm()  # bfloat16


def test_what_the_kernels_do_not_read_is_one_line(tmp_path, capsys, sd3_folder):
    out = str(tmp_path / "packed")
    flags = ["--pattern", "2:4", "--bits", "8", "--group-size", "32", "--num-prompts", "1",
             "--num-inference-steps", "1", "--height", "16", "--width", "16"]  # fmt: skip
    pruned = str(tmp_path / "eight")
    assert main(["prune", sd3_folder, "--output", pruned, *flags]) == 0
    capsys.readouterr()
    assert main(["export", pruned, "--to", "nunchaku-lite", "--output", out]) == 2
    error = capsys.readouterr().err
    assert "expected weights of 4 bits in groups of 64, found 8 bits in groups of 32" in error
    assert error.count("\n") == 1
    assert main(["export", pruned, "--to", "padded", "--output", out]) == 2
    assert "expected weights that are not rounded" in capsys.readouterr().err
