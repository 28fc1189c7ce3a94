"""What a model is known by: its weights, wherever and however they are stored."""

import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from obsdiff.evaluation.weights import weight_hashes
from obsdiff.pipelines.folder import open_folder

from ..conftest import sd3


def test_one_hash_for_the_same_tensors_however_stored(sd3_folder, tmp_path):
    sd3().to(torch.float16).save_pretrained(tmp_path / "shards", max_shard_size="100KB")
    first = weight_hashes(open_folder(Path(sd3_folder)))
    assert set(first) >= {"transformer", "vae"}
    assert len(list((tmp_path / "shards" / "transformer").glob("*.safetensors"))) > 1
    assert weight_hashes(open_folder(tmp_path / "shards")) == first


def test_one_changed_value_is_another_model(sd3_folder, tmp_path):
    folder = Path(shutil.copytree(sd3_folder, tmp_path / "other"))
    file = folder / "transformer" / "diffusion_pytorch_model.safetensors"
    tensors = load_file(file)
    with torch.no_grad():
        tensors["proj_out.bias"][0] += 1
    save_file(tensors, file, {"format": "pt"})
    first, other = (weight_hashes(open_folder(place)) for place in (Path(sd3_folder), folder))
    assert [name for name in first if first[name] != other[name]] == ["transformer"]
