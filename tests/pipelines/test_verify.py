"""`obsdiff verify`: an unchanged folder passes, any change fails."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

import obsdiff
from obsdiff import PruningConfig
from obsdiff.cli.main import main
from obsdiff.pipelines.record import RECORD
from obsdiff.runtime.file_hashing import file_hash

from ..conftest import PROMPTS, sd3

QUICK = {"num_inference_steps": 2, "height": 16, "width": 16}
WEIGHTS = "transformer/diffusion_pytorch_model.safetensors"
RUNS = [
    {"sparsity": 0.5},
    {"pattern": "2:4"},
    {"pattern": "structured", "sparsity": 0.5, "round_to": 1},
]


def saved(folder, dtype=torch.float32, **settings):
    pipe = sd3()
    report = obsdiff.prune_(pipe, PROMPTS[:2], PruningConfig(**QUICK | settings))
    return obsdiff.save_pruned(pipe.to(dtype), folder / "out", report)


def change_weights(folder, change):
    """Change the weights and their hash in the record, so that the layers are checked."""
    weights = load_file(folder / WEIGHTS)
    change(weights)
    save_file(weights, folder / WEIGHTS, {"format": "pt"})
    record = json.loads((folder / RECORD).read_text())
    record["hashes"]["files"][WEIGHTS] = file_hash(folder / WEIGHTS)
    (folder / RECORD).write_text(json.dumps(record))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("settings", RUNS, ids=["unstructured", "2:4", "structured"])
def test_an_unchanged_folder_is_as_recorded(capsys, tmp_path, settings, dtype):
    folder = saved(tmp_path, dtype, **settings)
    assert main(["verify", str(folder)]) == 0
    assert "as recorded" in capsys.readouterr().out


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
