"""`low_rank`: pruned, recorded, resumed, saved, verified, opened, merged."""

import json
import shutil
from dataclasses import asdict

import pytest
import torch
from safetensors.torch import load_file, save_file

import obsdiff
from obsdiff import PruningConfig, UserError, prune_, save_pruned
from obsdiff.errors import RunFailed
from obsdiff.models.low_rank import ranks_of
from obsdiff.pipelines.record import sealed
from obsdiff.pipelines.verify import verify_folder
from obsdiff.runtime.file_hashing import file_hash

from ..conftest import PROMPTS, sd, sd3

SETTINGS = {
    "num_prompts": 2, "num_inference_steps": 2, "height": 16, "width": 16, "pattern": "2:4",
    "low_rank": "20%", "batch_size": 2,
}  # fmt: skip
FILE = "transformer/diffusion_pytorch_model.safetensors"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A pruned pipeline, its report, its folder, and the journal of its run."""
    pipe, folder = sd3(), tmp_path_factory.mktemp("low-rank")
    report = prune_(pipe, PROMPTS, PruningConfig(**SETTINGS), journal=folder / "journal")
    save_pruned(pipe, folder / "out", report)
    return pipe, report, folder


def test_each_layer_has_its_pattern_and_a_correction_that_lowers_its_error(made):
    pipe, report, _ = made
    assert report.config["low_rank"] == 0.2
    plain = prune_(sd3(), PROMPTS, PruningConfig(**SETTINGS | {"low_rank": None}))
    for row, bare in zip(report.layers, plain.layers, strict=True):
        layer = pipe.transformer.get_submodule(row.name)
        assert int((layer.weight.unflatten(1, (-1, 4)) != 0).sum(2).max()) <= 2
        assert row.rank == len(layer.low_rank_down)
        assert 0 < row.rank * sum(row.shape) <= 0.2 * row.shape[0] * row.shape[1]
        assert row.error < bare.error
        assert bare.rank is None
    assert ranks_of(pipe.transformer).keys() == {row.name for row in report.layers}
    assert report.parameters["after"] > report.parameters["before"]
    assert "have a correction of rank" in repr(report)


def test_a_resumed_run_gives_the_same_model(made):
    pipe, report, folder = made
    again = sd3()
    resumed = prune_(again, PROMPTS, PruningConfig(**SETTINGS), journal=folder / "journal")
    assert [asdict(row) | {"seconds": 0} for row in resumed.layers] == [
        asdict(row) | {"seconds": 0} for row in report.layers
    ]
    wanted = pipe.transformer.state_dict()
    found = again.transformer.state_dict()
    assert found.keys() == wanted.keys()
    assert all(torch.equal(found[key], wanted[key]) for key in wanted)


def test_the_folder_opens_and_is_verified(made, tmp_path):
    pipe, report, folder = made
    assert verify_folder(folder / "out").layers == len(report.layers)
    opened = type(pipe).from_pretrained(folder / "out", text_encoder_3=None, tokenizer_3=None)
    wanted = pipe.transformer.state_dict()
    assert all(torch.equal(opened.transformer.state_dict()[key], wanted[key]) for key in wanted)
    card = (folder / "out" / "README.md").read_text()
    assert "import obsdiff" in card
    assert "correction of low rank" in card
    assert "Not in ComfyUI" in card
    record = json.loads((folder / "out" / "obsdiff.json").read_text())
    assert all(row["rank"] for row in record["layers"])
    with pytest.raises(UserError, match="expected a weight without a correction of low rank"):
        prune_(opened, PROMPTS, PruningConfig(**SETTINGS))


def test_a_missing_correction_is_found(made, tmp_path):
    _, report, folder = made
    shutil.copytree(folder / "out", tmp_path / "out")
    file = tmp_path / "out" / FILE
    tensors = load_file(file)
    name = f"{report.layers[0].name}.low_rank_down"
    save_file({key: value for key, value in tensors.items() if key != name}, file)
    with pytest.raises(RunFailed, match="has changed"):
        verify_folder(tmp_path / "out")
    record = json.loads((tmp_path / "out" / "obsdiff.json").read_text())
    record["hashes"]["files"][FILE] = file_hash(file)
    (tmp_path / "out" / "obsdiff.json").write_text(json.dumps(sealed(record)))
    with pytest.raises(RunFailed, match=f"{name} is missing"):
        verify_folder(tmp_path / "out")


def test_a_whole_number_is_the_rank_of_every_layer(tmp_path):
    config = PruningConfig(**SETTINGS | {"low_rank": 3}, blocks="1")
    pipe = sd3()
    report = prune_(pipe, PROMPTS, config)
    assert report.config["low_rank"] == 3
    assert {row.rank for row in report.layers} == {3}
    save_pruned(pipe, tmp_path / "out", report)
    assert verify_folder(tmp_path / "out").layers == len(report.layers)
    assert "rank 3 to 3" in (tmp_path / "out" / "README.md").read_text()
    (note,) = (
        line for line in obsdiff.inspect(tmp_path / "out", low_rank=3).notes if "rank" in line
    )
    assert note.startswith("low_rank 3: corrections of rank 3 to 3 add")


@pytest.mark.slow
def test_held_out_prompts_and_a_unet(tmp_path):
    config = PruningConfig(
        **SETTINGS | {"num_prompts": 4, "held_out": 2, "pattern": "unstructured", "method": "alps"}
    )
    pipe = sd()
    report = prune_(pipe, PROMPTS, config)
    assert all((row.rank is None) == (row.repaired is False) for row in report.layers)
    assert any(row.rank for row in report.layers)
    save_pruned(pipe, tmp_path / "out", report)
    assert type(pipe.unet) is obsdiff.PrunedUNet2DConditionModel
    assert verify_folder(tmp_path / "out").layers == len(report.layers)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        (
            {"low_rank": 0},
            "low_rank: expected between 0 and 1, as 0.1 or 10%, or a rank .* found 0",
        ),
        ({"low_rank": 1}, "or a rank as a whole number from 2 up, found 1"),
        ({"low_rank": 2.5}, "from 2 up, found 2.5"),
        ({"low_rank": 16.0}, "from 2 up, found 16.0"),
        ({"low_rank": -16}, "from 2 up, found -16"),
        ({"low_rank": True}, "from 2 up, found True"),
        ({"low_rank": "200%"}, "from 2 up, found 2.0"),
        ({"low_rank": "16"}, "from 2 up, found '16'"),
        ({"low_rank": 0.1, "pattern": "structured"}, "pattern structured leaves dense ones"),
        ({"low_rank": 0.1, "target": "conv"}, "expected linear layers, found target conv"),
        ({"low_rank": 0.1, "compensation": False}, "leave one of them out"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(settings, expected):
    with pytest.raises(UserError, match=expected):
        PruningConfig(**settings)
