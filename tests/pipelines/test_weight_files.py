"""A component's weights are the files that its library loads, by their names."""

import json
import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from transformers import CLIPTextModelWithProjection

from obsdiff.errors import UserError
from obsdiff.pipelines.headers import read_component
from obsdiff.pipelines.weight_files import (
    DIFFUSERS,
    TRANSFORMERS,
    listing,
    stem_of,
    weight_files,
)

from ..conftest import sd3, text_config

STEMS = (DIFFUSERS, TRANSFORMERS)


def store(file: Path, *names: str, dtype: torch.dtype = torch.float32) -> None:
    save_file({name: torch.zeros(2, 2, dtype=dtype) for name in names}, file, {"format": "pt"})


def index_of(folder: Path, stem: str, weight_map: object, variant: str = "") -> Path:
    file = folder / f"{stem}.safetensors.index{variant}.json"
    file.write_text(json.dumps({"weight_map": weight_map}))
    return file


def test_names_of_weights():
    for stem in STEMS:
        names = {
            f"{stem}.safetensors": None,
            f"{stem}.fp16.safetensors": "fp16",
            f"{stem}-00002-of-00003.safetensors": None,
            f"{stem}.fp16-00002-of-00003.safetensors": "fp16",
            f"{stem}-00002-of-00003.fp16.safetensors": "fp16",
            f"{stem}.safetensors.index.json": None,
            f"{stem}.safetensors.index.fp16.json": "fp16",
        }
        for name, variant in names.items():
            assert listing_of([name], stem).variants == {variant}, name


def listing_of(names, stem):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "listdir", lambda folder: names)
        return listing(Path("any"), stem)


@pytest.mark.parametrize("stem", STEMS)
def test_other_files_neither_count_nor_set_the_format(stem, tmp_path):
    store(tmp_path / f"{stem}.safetensors", "w")
    before = read_component(tmp_path, stem)
    others = [
        "zz_backup",
        "model_old",
        "vae-ft-mse",
        f"{stem} (1)",
        f"{stem}.old.1",
        f"copy_{stem}",
    ]
    for name in others:
        store(tmp_path / f"{name}.safetensors", "w", "x", "y", dtype=torch.float16)
    (tmp_path / f"._{stem}.safetensors").write_bytes(b"no safetensors file")
    (tmp_path / f"{stem}.bin").write_bytes(b"pickled")
    (tmp_path / "broken.safetensors").write_bytes(b"no safetensors file")
    after = read_component(tmp_path, stem)
    assert (after.size, after.dtype, after.files) == (before.size, "float32", before.files)
    assert after.variant is None
    assert set(after.strays) == {f"{name}.safetensors" for name in [*others, "broken"]}


def test_names_of_the_other_library_are_strays(tmp_path):
    store(tmp_path / "model.safetensors", "w")
    with pytest.raises(UserError, match=r"found model\.safetensors, which its library does not"):
        read_component(tmp_path, DIFFUSERS)
    store(tmp_path / "diffusion_pytorch_model.safetensors", "w")
    assert read_component(tmp_path, DIFFUSERS).strays == ("model.safetensors",)


def test_the_library_of_a_part_of_a_pipeline_shows_in_its_config(tmp_path):
    (tmp_path / "config.json").write_text('{"_class_name": "ProjectionModel"}')
    assert stem_of("audioldm2", tmp_path) == DIFFUSERS
    (tmp_path / "config.json").write_text('{"model_type": "clip"}')
    assert stem_of("stable_diffusion", tmp_path) == TRANSFORMERS
    assert stem_of("transformers", tmp_path) == TRANSFORMERS


def test_what_each_library_loads_of_a_whole_file_beside_shards(tmp_path):
    """Loaded with the libraries themselves: diffusers takes the shards, transformers the file."""
    denoiser = sd3().transformer
    encoder = CLIPTextModelWithProjection(text_config())
    for stem, model in ((DIFFUSERS, denoiser), (TRANSFORMERS, encoder)):
        folder, whole = tmp_path / stem, tmp_path / f"{stem}-whole"
        model.save_pretrained(folder, max_shard_size="16KB")
        with torch.no_grad():
            for p in model.parameters():
                p.add_(1)
        model.save_pretrained(whole)
        (whole / f"{stem}.safetensors").rename(folder / f"{stem}.safetensors")
        loaded = type(model).from_pretrained(folder, use_safetensors=True)
        from_whole = torch.equal(next(iter(loaded.parameters())), next(iter(model.parameters())))
        chosen = read_component(folder, stem).files
        assert from_whole == ([f.name for f in chosen] == [f"{stem}.safetensors"])
        assert from_whole == (stem == TRANSFORMERS)


def test_a_count_in_a_name_is_never_counted_up_to(tmp_path):
    for stem in STEMS:
        store(tmp_path / f"{stem}-00001-of-9999999999.safetensors", "w")
        with pytest.raises(UserError, match=rf"1 shards \({stem}-00001-of-9999999999.*no index"):
            read_component(tmp_path, stem)


@pytest.mark.parametrize(
    ("weight_map", "words"),
    [
        ({"w": "../outside.safetensors"}, "files beside it"),
        ({"w": "/etc/passwd"}, "files beside it"),
        ({"w": "sub/x.safetensors"}, "files beside it"),
        ({"w": "..\\x.safetensors"}, "files beside it"),
        ({"w": "model.bin"}, "files beside it"),
        ({"w": 5}, "files in weight_map"),
        ([], "files in weight_map"),
        ({}, "found none"),
        (None, "files in weight_map"),
        ({"w": "gone.safetensors"}, "gone.safetensors is missing: expected 1 shards"),
        ({"other": "a.safetensors"}, "lacks other"),
        (
            {"w": "a.safetensors", "x": "b.safetensors"},
            "w is in a.safetensors and in b.safetensors",
        ),
        ({"w": "pipe.safetensors"}, "a pipe"),
        ({"w": "link.safetensors"}, "where nothing is"),
        ({"w": "folder.safetensors"}, "a folder"),
    ],
)
@pytest.mark.parametrize("stem", STEMS)
def test_an_index_is_compared_with_what_is_there(stem, weight_map, words, tmp_path):
    folder = tmp_path / "component"
    folder.mkdir()
    store(tmp_path / "outside.safetensors", "w")
    store(folder / "a.safetensors", "w")
    store(folder / "b.safetensors", "w", "x")
    (folder / "folder.safetensors").mkdir()
    (folder / "link.safetensors").symlink_to("gone")
    os.mkfifo(folder / "pipe.safetensors")
    index_of(folder, stem, weight_map)
    with pytest.raises(UserError) as error:
        read_component(folder, stem)
    assert words in str(error.value)


def test_shards_by_any_name_that_the_index_has(tmp_path):
    store(tmp_path / "first.safetensors", "w")
    (tmp_path / "blob").write_bytes((tmp_path / "first.safetensors").read_bytes())
    store(tmp_path / "blob", "x")
    (tmp_path / "second.safetensors").symlink_to("blob")
    index_of(tmp_path, DIFFUSERS, {"w": "first.safetensors", "x": "second.safetensors"})
    found = weight_files(tmp_path, DIFFUSERS)
    assert found is not None
    assert [file.name for file in found.files] == ["first.safetensors", "second.safetensors"]
    assert set(read_component(tmp_path, DIFFUSERS).shapes) == {"w", "x"}
