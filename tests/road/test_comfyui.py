"""ComfyUI's own loader, on files of pruned models.

    OBSDIFF_COMFYUI=CHECKOUT:PACKAGES pytest tests/road/test_comfyui.py

OBSDIFF_COMFYUI is a PYTHONPATH: the checkout, then folders with what its requirements.txt names
and this environment lacks; docs/clients.md has the commands. Without it these tests are skipped.
Nothing is drawn: the modules in comfy/ run on the CPU, in a process of their own.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import diffusers
import pytest
import torch
from diffusers import SD3Transformer2DModel, UNet2DConditionModel
from safetensors.torch import load_file, save_file

from obsdiff.export.unet_names import unet_names
from obsdiff.models.client_marker import MARKER_KEY
from obsdiff.models.depth import remove_blocks_, stacks_of
from obsdiff.models.own_names import BITMASK, MODULE
from obsdiff.pipelines.bitmask_files import pack_component_

from ..conftest import flux, sd, sd3, sdxl
from ..support.cut_heads import cut_
from ..tiny_models import TINY

COMFYUI = os.environ.get("OBSDIFF_COMFYUI", "")
LOADER = Path(__file__).parents[1] / "support" / "comfyui_loader.py"
WEIGHTS = "diffusion_pytorch_model.safetensors"
REFUSED = "RuntimeError: ERROR: Could not detect model type of"
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not COMFYUI, reason="OBSDIFF_COMFYUI names no checkout of ComfyUI"),
]


def in_comfyui(models: dict[str, dict[str, torch.Tensor]], folder: Path) -> dict[str, list[str]]:
    """Return what ComfyUI's loader says of some weights, with its own shapes, then the file's."""
    files = [str(folder / f"{name}.safetensors") for name in models]
    for file, weights in zip(files, models.values(), strict=True):
        save_file({name: value.contiguous() for name, value in weights.items()}, file)
    done = subprocess.run(
        [sys.executable, str(LOADER), *files],
        env=os.environ | {"PYTHONPATH": COMFYUI},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found: dict[str, list[str]] = json.loads(done.stdout.splitlines()[-1])
    return found


def small_sd3(blocks: int = 2) -> SD3Transformer2DModel:
    """An SD3 of two heads of 64; with two blocks, ComfyUI's own loader opens it."""
    torch.manual_seed(0)
    return SD3Transformer2DModel(
        sample_size=8, patch_size=2, in_channels=16, out_channels=16, num_layers=blocks,
        attention_head_dim=64, num_attention_heads=2, joint_attention_dim=4096,
        caption_projection_dim=128, pooled_projection_dim=2048, pos_embed_max_size=8,
    )  # fmt: skip


def test_the_marker_is_what_stops_it(tmp_path):
    """The same weights open without it."""
    weights = small_sd3().state_dict()
    found = in_comfyui(
        {"dense": weights, "marked": weights | {MARKER_KEY: torch.zeros(1)}}, tmp_path
    )
    assert set(found["dense"]) == {"opened"}
    assert all(error.startswith(REFUSED) for error in found["marked"])


def test_a_unet_opens_with_fewer_blocks_and_wrongly_without_all_of_an_attention(tmp_path):
    """Under the authors' names; the second file is what `export --to single-file` refuses."""
    torch.manual_seed(0)
    unet = UNet2DConditionModel(
        sample_size=8, block_out_channels=(320, 320), cross_attention_dim=768, layers_per_block=1,
        transformer_layers_per_block=2, down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
    )  # fmt: skip
    up = "up_blocks.1.attentions.0.transformer_blocks"
    files = {}
    for name, away in {"fewer": [f"{up}.0"], "none": [f"{up}.0"]}.items():
        remove_blocks_(unet, stacks_of(unet), away)  # the second of two after the first
        weights = unet.state_dict()
        names = unet_names({k: w.shape for k, w in weights.items()}, unet.config)
        files[name] = dict(zip(names, map(torch.clone, weights.values()), strict=True))
    found = in_comfyui(files, tmp_path)
    assert {answer for answers in found.values() for answer in answers} == {"opened"}


def test_fewer_neurons_open_where_shapes_are_the_files(tmp_path):
    model = small_sd3()
    cut_(model, "neurons")
    without, *with_shapes = in_comfyui({"neurons": model.state_dict()}, tmp_path)["neurons"]
    assert "size mismatch" in without
    assert with_shapes in ([], ["opened"])  # older versions have no such layers


def test_a_packed_file_is_refused_by_its_marker(tmp_path):
    """Without it ComfyUI opens a file of packed FFNs, and leaves these without their weights."""
    model = small_sd3()
    layers = [n for n, m in model.named_modules() if isinstance(m, torch.nn.Linear)]
    names = {name for name in layers if ".ff." in name}
    with torch.no_grad():
        for name in names:
            model.get_submodule(name).weight[:, ::2] = 0
    for kind in ("plain", "packed"):
        model.save_pretrained(tmp_path / kind)
    assert set(pack_component_(tmp_path / "packed", names)) == names
    files = {kind: tmp_path / kind / WEIGHTS for kind in ("plain", "packed")}
    models = {kind: load_file(file) for kind, file in files.items()}
    marker = f"{MODULE}.{BITMASK}"
    models["unmarked"] = {k: value for k, value in models["packed"].items() if k != marker}
    assert marker in models["packed"]
    found = in_comfyui(models, tmp_path)
    assert set(found["plain"]) == {"opened"}
    assert all(error.startswith(REFUSED) for error in found["packed"])
    assert set(found["unmarked"]) == {"opened"}


def test_every_class_without_some_of_its_heads_is_refused(tmp_path):
    models = {make.__name__: make() for make in (sd, sdxl, sd3, flux)}
    models = {k: getattr(p, "transformer", None) or p.unet for k, p in models.items()}
    for name, (config, *_) in TINY.items():
        models[name] = getattr(diffusers, name)(**config)
    cut = {name: model for name, model in models.items() if "heads" in heads_of(model)}
    assert len(cut) > 60
    found = in_comfyui({name: model.state_dict() for name, model in cut.items()}, tmp_path)
    opened = {
        name: errors
        for name, errors in found.items()
        if not all(error.startswith(REFUSED) for error in errors)
    }
    assert not opened


def heads_of(model: torch.nn.Module) -> set[str]:
    """Remove a head wherever one can be removed; return the kinds that were removed."""
    return {kind for kinds in cut_(model, "heads").values() for kind in kinds}
