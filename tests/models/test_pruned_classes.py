"""Features of diffusers, torch and accelerate, applied to pruned models."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from accelerate import cpu_offload, disk_offload, dispatch_model
from diffusers import DiffusionPipeline, PipelineQuantizationConfig, TorchAoConfig
from torch import nn

import obsdiff
from obsdiff import PruningConfig, UserError, prune_, save_pruned

from ..conftest import PROMPTS, flux, sd, sd3
from ..support.lanes import first_quick

pytestmark = pytest.mark.filterwarnings("ignore::obsdiff.errors.CalibrationWarning")
QUICK = {"num_inference_steps": 2, "guidance_scale": 3.0, "height": 16, "width": 16}
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict[str, Path]:
    """Pruned pipelines on disk."""
    config = PruningConfig(method="random", pattern="structured", packages=1, **QUICK)
    saved = {}
    for name, make in {"sd3": sd3, "sd": sd, "flux": flux}.items():
        pipe = make()
        saved[name] = save_pruned(
            pipe, tmp_path_factory.mktemp("pruned") / name, prune_(pipe, PROMPTS[:1], config)
        )
    return saved


@pytest.fixture(params=first_quick(["sd3", "sd", "flux"]))
def folder(folders, request) -> Path:
    return folders[request.param]


def load(folder: Path, **settings):
    missing = {"text_encoder_3": None, "tokenizer_3": None} if folder.name == "sd3" else {}
    return DiffusionPipeline.from_pretrained(folder, **missing, **settings)


def component(folder: Path) -> str:
    return "unet" if folder.name == "sd" else "transformer"


def denoiser_of(pipe):
    return getattr(pipe, "transformer", None) or pipe.unet


def latents(pipe):
    return pipe(
        PROMPTS[0], generator=torch.Generator().manual_seed(0), output_type="latent", **QUICK
    ).images


def close(pipe, folder: Path, tolerance: float = 1e-5) -> bool:
    """Whether pipeline and folder draw the same, but for rounding at other memory addresses."""
    expected = latents(load(folder))
    return ((latents(pipe) - expected).abs().max() <= tolerance * expected.abs().max()).item()


@pytest.mark.slow
def test_compiled_after_loading(folders):
    pipe = load(folders["sd3"])
    pipe.transformer.compile(backend="aot_eager", fullgraph=True)
    assert close(pipe, folders["sd3"])


@pytest.mark.slow
def test_compiled_in_memory(folders):
    pipe = sd3()
    prune_(
        pipe, PROMPTS[:1], PruningConfig(method="random", pattern="structured", packages=1, **QUICK)
    )
    pipe.transformer = torch.compile(pipe.transformer, backend="eager")
    assert close(pipe, folders["sd3"])


@pytest.mark.slow
@pytest.mark.parametrize("name", ["sd", "flux"])  # diffusers lists no repeated blocks for SD3
def test_compile_repeated_blocks(folders, name):
    pipe = load(folders[name])
    denoiser_of(pipe).compile_repeated_blocks(backend="eager", fullgraph=True)
    assert close(pipe, folders[name])


@pytest.mark.slow
def test_compiled_by_inductor(folders):
    """The pruned block, without a graph break; a whole model would need a minute."""
    if not any(shutil.which(name) for name in ("g++", "clang++", "c++")):
        pytest.skip("inductor needs a C++ compiler (g++ or clang++), and there is none")
    pipe = load(folders["sd3"])
    block = pipe.transformer.transformer_blocks[1]
    inputs = [torch.randn(1, 16, 32), torch.randn(1, 8, 32), torch.randn(1, 32)]
    with torch.no_grad():
        expected = block(*inputs)
        block.compile(fullgraph=True)
        assert all(
            torch.allclose(a, b, atol=1e-5) for a, b in zip(block(*inputs), expected, strict=True)
        )


def by_turns(model: nn.Module) -> dict[str, str]:
    """A device map: half of the parts in memory, half on disk."""
    return {name: ("cpu", "disk")[i % 2] for i, (name, _) in enumerate(model.named_children())}


OFFLOADS = {
    "cpu_offload": lambda model, where: cpu_offload(model, execution_device=CPU),
    "disk_offload": lambda model, where: disk_offload(model, where, execution_device=CPU),
    "dispatch_model": lambda model, where: dispatch_model(
        model, by_turns(model), main_device="cpu", offload_dir=where
    ),
    "group_offload": lambda model, where: model.enable_group_offload(
        onload_device=CPU, offload_type="leaf_level"
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("offload", OFFLOADS.values(), ids=OFFLOADS.keys())
def test_offloaded_by_hooks(folder, offload, tmp_path):
    pipe = load(folder)
    offload(denoiser_of(pipe), str(tmp_path))
    assert close(pipe, folder)


@pytest.mark.slow
def test_loaded_with_a_device_map(folder, tmp_path):
    plain = denoiser_of(load(folder))
    for device_map in ("auto", by_turns(plain)):
        model = type(plain).from_pretrained(
            folder, subfolder=component(folder), device_map=device_map, offload_folder=str(tmp_path)
        )
        assert close(load(folder, **{component(folder): model}), folder)
    assert close(load(folder, device_map="balanced"), folder)


@pytest.mark.slow
def test_model_cpu_offload_of_the_pipeline(folder):
    pipe = load(folder)
    pipe.enable_model_cpu_offload(device="cpu")
    assert close(pipe, folder)


@pytest.mark.parametrize("low", [True, False])
def test_loaded_with_and_without_low_cpu_mem_usage(folder, low):
    assert close(load(folder, low_cpu_mem_usage=low), folder)


def test_layerwise_casting_stores_it_in_half_precision(folder):
    pipe = load(folder)
    denoiser_of(pipe).enable_layerwise_casting(
        storage_dtype=torch.bfloat16, compute_dtype=torch.float32
    )
    assert close(pipe, folder, 0.02)


def int8() -> TorchAoConfig:
    quantization = pytest.importorskip("torchao.quantization")
    return TorchAoConfig(quantization.Int8WeightOnlyConfig(version=2))


def kinds(pipe) -> set[str]:
    return {
        type(module.weight).__name__
        for module in denoiser_of(pipe).modules()
        if isinstance(module, nn.Linear)
    }


@pytest.fixture
def quantised(folder):
    """The pipeline with its denoiser quantised while it is loaded, at pipeline level."""
    return load(
        folder,
        dtype=torch.float32,
        quantization_config=PipelineQuantizationConfig(quant_mapping={component(folder): int8()}),
    )


@pytest.mark.slow
def test_quantised_at_pipeline_level_saved_and_loaded_again(quantised, folder, tmp_path):
    assert kinds(quantised) == {"Int8Tensor"}
    assert close(quantised, folder, 0.05)
    quantised.save_pretrained(tmp_path / folder.name)
    again = load(tmp_path / folder.name, dtype=torch.float32)
    assert kinds(again) == {"Int8Tensor"}
    assert type(denoiser_of(again)) is type(denoiser_of(quantised))
    assert torch.equal(latents(again), latents(quantised))


def test_quantised_at_component_level(folder):
    name = type(denoiser_of(load(folder))).__name__
    model = getattr(obsdiff, name).from_pretrained(
        folder, subfolder=component(folder), quantization_config=int8(), dtype=torch.float32
    )
    pipe = load(folder, **{component(folder): model})
    assert kinds(pipe) == {"Int8Tensor"}
    assert close(pipe, folder, 0.05)


def test_a_quantised_pruned_pipeline_is_not_pruned_again(quantised):
    with pytest.raises(UserError, match="then quantise the result"):
        prune_(quantised, PROMPTS[:1], PruningConfig(pattern="structured", packages=1, **QUICK))


def test_from_config_gives_the_pruned_shapes_on_any_device(folders):
    config = json.loads((folders["sd3"] / "transformer" / "config.json").read_text())
    with torch.device("meta"):
        model = obsdiff.PrunedSD3Transformer2DModel.from_config(config)
    assert model.transformer_blocks[1].attn.to_q.weight.shape == (16, 32)
    assert model.device.type == "meta"
