"""`obsdiff verify`: an unchanged folder passes, any change fails."""

import copy
import json
import os
from functools import cache

import pytest
import torch
from safetensors.torch import load_file, save_file

import obsdiff
from obsdiff import PruningConfig
from obsdiff.cli.main import main
from obsdiff.pipelines.record import RECORD, sealed
from obsdiff.runtime.file_hashing import file_hash

from ..conftest import PROMPTS, sd3

QUICK = {"num_inference_steps": 2, "height": 16, "width": 16}
WEIGHTS = "transformer/diffusion_pytorch_model.safetensors"
RUNS = [
    {"sparsity": 0.5},
    {"pattern": "2:4"},
    {"pattern": "structured", "sparsity": 0.5, "round_to": 1},
]


@cache
def pruned(settings):
    pipe = sd3()
    return pipe, obsdiff.prune_(pipe, PROMPTS[:2], PruningConfig(**QUICK | dict(settings)))


def saved(folder, dtype=torch.float32, **settings):
    pipe, report = copy.deepcopy(pruned(tuple(settings.items())))
    return obsdiff.save_pruned(pipe.to(dtype), folder / "out", report)


def change_weights(folder, change):
    """Change the weights and their hash in the record, so that the layers are checked."""
    weights = load_file(folder / WEIGHTS)
    change(weights)
    save_file(weights, folder / WEIGHTS, {"format": "pt"})
    record = json.loads((folder / RECORD).read_text())
    record["hashes"]["files"][WEIGHTS] = file_hash(folder / WEIGHTS)
    (folder / RECORD).write_text(json.dumps(sealed(record)))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("settings", RUNS, ids=["unstructured", "2:4", "structured"])
@pytest.mark.slow
def test_an_unchanged_folder_is_as_recorded(capsys, tmp_path, settings, dtype):
    folder = saved(tmp_path, dtype, **settings)
    assert main(["verify", str(folder)]) == 0
    assert "as recorded" in capsys.readouterr().out


@pytest.mark.slow
def test_every_file_and_every_byte_counts_but_for_the_card(capsys, tmp_path):
    folder = saved(tmp_path)
    (folder / "README.md").write_text("mine")
    assert main(["verify", str(folder)]) == 0
    for file in [
        path
        for path in folder.rglob("*")
        if path.is_file() and path.name not in (RECORD, "README.md")
    ]:
        before = file.read_bytes()
        for after, word in ((before + b" ", "has changed"), (None, "is missing")):
            file.unlink() if after is None else file.write_bytes(after)
            assert main(["verify", str(folder)]) == 1
            assert f"{file.relative_to(folder)} {word}" in capsys.readouterr().err
        file.write_bytes(before)
    (folder / "transformer" / "more.safetensors").write_bytes(b"")
    assert main(["verify", str(folder)]) == 1
    assert "more.safetensors is not in the record" in capsys.readouterr().err


def change_record(folder, **changes):
    """Change entries of the record, and leave its hash as it is."""
    record = json.loads((folder / RECORD).read_text())
    (folder / RECORD).write_text(json.dumps(record | changes))


@pytest.mark.parametrize(
    "changes",
    [
        {"prompts": ["other", "prompts"]},
        {"seeds": [7, 8]},
        {"versions": {"torch": "1.0"}},
        {"layers": []},
        {"settings": {}},
        {"fingerprint": {"prompts": "0"}},
        {"more": 1},
    ],
)
def test_every_entry_of_the_record_counts(capsys, tmp_path, changes):
    folder = saved(tmp_path)
    change_record(folder, **changes)
    assert main(["verify", str(folder)]) == 1
    assert f"{RECORD} has changed" in capsys.readouterr().err


def test_the_hashes_in_the_record_count_too(capsys, tmp_path):
    folder = saved(tmp_path)
    hashes = json.loads((folder / RECORD).read_text())["hashes"]
    for changed in (
        hashes | {"prompts": "0"},
        hashes | {"card": "0"},
        {name: value for name, value in hashes.items() if name != "record"},
    ):
        change_record(folder, hashes=changed)
        assert main(["verify", str(folder)]) == 1
        assert f"{RECORD} has changed" in capsys.readouterr().err
    record = json.loads((folder / RECORD).read_text())
    (folder / RECORD).write_text(json.dumps(sealed(record | {"hashes": hashes, "seeds": [3, 4]})))
    assert main(["verify", str(folder)]) == 1
    assert "other prompts or seeds" in capsys.readouterr().err


def test_another_layout_of_the_record_is_the_same_record(tmp_path):
    folder = saved(tmp_path)
    record = json.loads((folder / RECORD).read_text())
    (folder / RECORD).write_text(json.dumps(record, indent=4, sort_keys=True))
    assert main(["verify", str(folder)]) == 0


@pytest.mark.parametrize(
    "name",
    [
        "scheduler/evil.py",
        "None.py",
        "transformer/diffusion_pytorch_model.bin",
        "transformer/diffusion_pytorch_model.safetensors.index.json",
        "text_encoder/README.md",
        ".hidden",
        "new/folder/file",
    ],
)
def test_a_file_that_is_not_in_the_record_is_named(capsys, tmp_path, name):
    folder = saved(tmp_path)
    (folder / "empty" / "folders").mkdir(parents=True)
    assert main(["verify", str(folder)]) == 0
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text("{}")
    assert main(["verify", str(folder)]) == 1
    assert f"{name} is not in the record" in capsys.readouterr().err


def link_file(folder, outside):
    (folder / WEIGHTS).rename(outside)
    (folder / WEIGHTS).symlink_to(outside)
    return f"{WEIGHTS} is a link"


def link_folder(folder, outside):
    (folder / "vae").rename(outside)
    (folder / "vae").symlink_to(outside)
    return "vae is a link"


def link_card(folder, outside):
    (folder / "README.md").rename(outside)
    (folder / "README.md").symlink_to(outside)
    return "README.md is a link"


def pipe_in_place(folder, outside):
    (folder / WEIGHTS).unlink()
    os.mkfifo(folder / WEIGHTS)
    return f"{WEIGHTS} is no file: a pipe or device"


@pytest.mark.parametrize("change", [link_file, link_folder, link_card, pipe_in_place])
def test_places_outside_the_folder_and_pipes_are_named(capsys, tmp_path, change):
    folder = saved(tmp_path)
    words = change(folder, tmp_path / "outside")
    assert main(["verify", str(folder)]) == 1
    assert words in capsys.readouterr().err


def test_the_links_of_a_hubs_cache_are_followed(capsys, tmp_path):
    folder = saved(tmp_path)
    (tmp_path / "blobs").mkdir()
    cached = tmp_path / "snapshots" / "abc"
    cached.parent.mkdir()
    folder.rename(cached)
    for i, file in enumerate(sorted(file for file in cached.rglob("*") if file.is_file())):
        file.rename(tmp_path / "blobs" / str(i))
        file.symlink_to(tmp_path / "blobs" / str(i))
    assert main(["verify", str(cached)]) == 0
    (tmp_path / "blobs" / "3").write_text("")
    assert main(["verify", str(cached)]) == 1


@pytest.mark.parametrize("component", ["../out/transformer", "/tmp", "transformer/..", ".", ""])
def test_a_component_outside_the_folder_is_refused(capsys, tmp_path, component):
    folder = saved(tmp_path)
    record = json.loads((folder / RECORD).read_text())
    (folder / RECORD).write_text(json.dumps(sealed(record | {"component": component})))
    assert main(["verify", str(folder)]) == 2
    assert "expected the name of a folder beside it" in capsys.readouterr().err


def test_a_record_of_an_older_version_is_verified_without_its_own_hash(capsys, tmp_path):
    folder = saved(tmp_path)
    record = json.loads((folder / RECORD).read_text())
    del record["fingerprint"], record["hashes"]["record"], record["hashes"]["card"]
    (folder / RECORD).write_text(json.dumps(record))
    capsys.readouterr()
    assert main(["verify", str(folder)]) == 0
    out, err = capsys.readouterr()
    assert "as recorded" in out
    warned, advice = err.splitlines()
    assert "no hash of its own content" in warned
    assert advice.startswith("next: ")


def fill_one_group(weights):
    weights["transformer_blocks.0.attn.to_q.weight"][0, :4] = 1


def fill_all(weights):
    weights["transformer_blocks.0.attn.to_q.weight"].fill_(1)


def cut(weights):
    weights["transformer_blocks.1.attn.to_out.0.weight"] = weights[
        "transformer_blocks.1.attn.to_out.0.weight"
    ][:, 1:].contiguous()


def drop(weights):
    del weights["transformer_blocks.1.attn.to_out.0.weight"]


@pytest.mark.parametrize(
    ("settings", "change", "word"),
    [
        (RUNS[0], fill_all, "transformer_blocks.0.attn.to_q has 0.0000% zeros, expected 50"),
        (
            RUNS[1],
            fill_one_group,
            "transformer_blocks.0.attn.to_q has 4 of 4 consecutive weights, expected at most 2",
        ),
        (RUNS[0], cut, "transformer_blocks.1.attn.to_out.0 is (32, 31), expected (32, 32)"),
        (RUNS[2], cut, "transformer_blocks.1.attn.to_out.0 has 15 columns, expected 16"),
        (RUNS[2], drop, "transformer_blocks.1.attn.to_out.0.weight is missing"),
    ],
)
def test_layers_are_checked_by_themselves(capsys, tmp_path, settings, change, word):
    folder = saved(tmp_path, **settings)
    change_weights(folder, change)
    assert main(["verify", str(folder)]) == 1
    assert word in capsys.readouterr().err


def test_a_folder_without_a_record_is_refused(capsys, tmp_path):
    assert main(["verify", str(tmp_path)]) == 2
    assert "no " in capsys.readouterr().err
    (tmp_path / RECORD).write_text('{"schema": 1, "layers": 3}')
    assert main(["verify", str(tmp_path)]) == 2
    assert "does not follow schema 1" in capsys.readouterr().err


def test_a_record_with_a_shape_of_other_than_two_numbers_is_refused(capsys, tmp_path):
    folder = saved(tmp_path)
    record = json.loads((folder / RECORD).read_text())
    for shape in ([], [32], [32, 32, 1]):
        record["layers"][1]["shape"] = shape
        (folder / RECORD).write_text(json.dumps(record))
        assert main(["verify", str(folder)]) == 2
        assert f"layers[1].shape: expected two numbers, found {shape}" in capsys.readouterr().err
